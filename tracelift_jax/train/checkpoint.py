"""Checkpoints of a run: trainable state, data position and what the host has learnt, saved together."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from tracelift_jax.errors import UserError

_POLICIES = ocp.training.preservation_policies


class Checkpoints:
    """Writes and reads `RUN_DIR/checkpoints`, without waiting for the disk.

    A checkpoint holds `state` (a pytree of arrays, typed PRNG keys included) and `host` (JSON: the data iterator's
    position, baseline counts, ...). The last `keep` and the one best by the metric given to `save` are kept.
    """

    def __init__(self, directory: str | Path, keep: int = 2):
        self._directory = Path(directory).resolve()
        _mend_scores(self._directory)
        newest = _POLICIES.LatestN(keep)
        best = _POLICIES.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
        self._manager = ocp.training.Checkpointer(
            str(self._directory),
            preservation_policy=cast(Any, _POLICIES.AnyPreservationPolicy([newest, best])),  # orbax's types disagree
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(c.step for c in self._manager.checkpoints)

    def save(self, step: int, state: Any, host: Mapping[str, Any], score: float) -> None:
        """Starts writing a checkpoint; returns once the arrays are copied off the device."""
        self._manager.save_checkpointables_async(
            step,
            {"state": state, "host": {"json": json.dumps(host)}},
            metrics={"score": score},
            force=True,
            overwrite=True,
        )

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read, as (step, state, host), or None where there is none at all.

        Args:
            like: the state's tree with shapes, dtypes and shardings (arrays will do).

        Prints a line for each damaged checkpoint passed over.

        Raises:
            UserError: there are checkpoints, and none can be read.
        """
        abstract = jax.tree.map(_abstract, like)
        steps = self.steps
        for step in reversed(steps):
            try:
                found = self._manager.load_checkpointables(step, {"state": abstract, "host": {"json": ""}})
                return step, found["state"], json.loads(found["host"]["json"])
            except Exception as error:  # orbax raises whatever the broken file happened to trip over
                reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160]
                print(f"checkpoint {self._directory / str(step)} is damaged ({reason}); trying the one before")
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


def restore_trained(run_dir: str | Path, like: Any) -> tuple[int, Any]:
    """(step, trainable variables) of a run's newest checkpoint that can be read; `like` as for `Checkpoints.restore`.

    Raises:
        UserError: as `find_run`, or none of the checkpoints can be read.
    """
    find_run(run_dir)
    checkpoints = Checkpoints(Path(run_dir) / "checkpoints")
    found = checkpoints.restore(like)
    checkpoints.close()
    if found is None:
        raise UserError(f"{run_dir}: no checkpoint there; let the run train first")
    return found[0], found[1].trainable


def _mend_scores(directory: Path) -> None:
    """Puts the worst score in place of one that is damaged: orbax reads all of them first, and fails at such a one."""
    for file in directory.glob("[0-9]*/metrics/metrics"):
        try:
            float(json.loads(file.read_text())["score"])
        except (ValueError, TypeError, KeyError):
            file.write_text(json.dumps({"score": -1e30}))


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
