"""Checkpoints of a run: trainable state, data position and what the host has learnt, saved together."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from tracelift_jax.errors import UserError
from tracelift_jax.parallel.hosts import barrier, first

_POLICIES = ocp.training.preservation_policies
WORST = -1e30
"""The score of what has none that can be used."""


class Checkpoints:
    """Writes and reads `RUN_DIR/checkpoints`, without waiting for the disk.

    A checkpoint holds `state` (a pytree of arrays, typed PRNG keys included) and `host` (JSON: the data iterator's
    position, baseline counts, ...). The last `keep` are kept, and the best of those that were evaluated.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        self._directory = Path(directory).resolve()
        if first():
            _mend_scores(self._directory)
        barrier("checkpoints")
        newest = _POLICIES.LatestN(keep)
        # What was not evaluated has no score, and is never the best.
        best = _POLICIES.BestN(get_metric_fn=cast(Any, _rank), n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.training.Checkpointer(
            str(self._directory),
            preservation_policy=cast(Any, _POLICIES.AnyPreservationPolicy([newest, best])),  # orbax's types disagree
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(c.step for c in self._manager.checkpoints)

    @property
    def scores(self) -> dict[int, float]:
        """The score of each step with a checkpoint that was evaluated, the best step first."""
        ranked = sorted((_rank(c.metrics), c.step) for c in self._manager.checkpoints if c.metrics is not None)
        return {step: score for (score, _), step in reversed(ranked)}

    def save(self, step: int, state: Any, host: Mapping[str, Any], score: float | None, tie: float = 0.0) -> None:
        """Starts writing a checkpoint; returns once the arrays are copied off the device.

        Args:
            score: by which checkpoints are best, the higher the better; None: this state was not evaluated.
            tie: decides between equal scores, the higher the better. Between states equal in both, the later is best.
        """
        self._manager.save_checkpointables_async(
            step,
            {"state": state, "host": {"json": json.dumps(host)}},
            metrics=None if score is None else {"score": _finite(score), "tie": _finite(tie)},
            force=True,
            overwrite=True,
        )

    def restore(self, like: Any, best: bool = False) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read, as (step, state, host), or None where there is none at all.

        Args:
            like: the state's tree with shapes, dtypes and shardings (arrays will do).
            best: the best instead, and the newest only where no evaluated one can be read.

        Prints a line for each damaged checkpoint passed over.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        abstract = jax.tree.map(_abstract, like)
        newest = self.steps[::-1]
        steps = list(dict.fromkeys([*self.scores, *newest])) if best else newest
        for place, step in enumerate(steps):
            try:
                found = self._manager.load_checkpointables(step, {"state": abstract, "host": {"json": ""}})
                # Keys come back with a layout of one axis too many, in which no second restore would find them.
                state = jax.device_put(found["state"], jax.tree.map(lambda x: x.sharding, abstract))
                return step, state, json.loads(found["host"]["json"])
            except Exception as error:  # orbax raises whatever the broken file happened to trip over
                reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160]
                then = f"; trying that of step {steps[place + 1]}" if place + 1 < len(steps) else ""
                if first():
                    print(f"checkpoint {self._directory / str(step)} is damaged ({reason}){then}")
        if steps:
            raise UserError(f"{self._directory}: none of the checkpoints can be read; use another --run_dir")
        return None

    def wait(self) -> None:
        """Returns when all that was started is on disk."""
        self._manager.wait()

    def close(self) -> None:
        """Waits and lets go."""
        self._manager.close()


def find_run(run_dir: str | Path) -> tuple[Path, int]:
    """(`config.gin`, newest step with a checkpoint) of a run directory.

    Raises:
        UserError: it holds no run, or no checkpoint.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "config.gin").is_file():
        raise UserError(f"{run_dir}: holds no run (no config.gin); give a directory that a training command has filled")
    steps = [int(p.name) for p in (run_dir / "checkpoints").glob("*") if p.name.isdigit()]
    if not steps:
        raise UserError(f"{run_dir}: no checkpoint there; let the run train first")
    return run_dir / "config.gin", max(steps)


def restore_trained(run_dir: str | Path, like: Any, best: bool = False) -> tuple[int, Any]:
    """(step, trainable variables) of a run's newest, or best, checkpoint; arguments as of `Checkpoints.restore`.

    Raises:
        UserError: as `find_run`, or none of the checkpoints can be read.
    """
    find_run(run_dir)
    checkpoints = Checkpoints(Path(run_dir) / "checkpoints")
    found = checkpoints.restore(like, best)
    checkpoints.close()
    if found is None:
        raise UserError(f"{run_dir}: no checkpoint there; let the run train first")
    return found[0], found[1].trainable


def _finite(value: float) -> float:
    """`value`, or the worst one in place of what is not finite, which has no place in an order."""
    return value if math.isfinite(value) else WORST


def _rank(metrics: Any) -> tuple[float, float]:
    """By what checkpoints are sorted; the larger is the better."""
    return float(metrics["score"]), float(metrics["tie"])


def _mend_scores(directory: Path) -> None:
    """Puts the worst score in place of one that is damaged: orbax reads all of them first, and fails at such a one."""
    for file in directory.glob("[0-9]*/metrics/metrics"):
        try:
            _rank(json.loads(file.read_text()))
        except (ValueError, TypeError, KeyError):
            file.write_text(json.dumps({"score": WORST, "tie": WORST}))


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
