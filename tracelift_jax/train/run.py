"""A run directory, and the loop that fills it: the I/O of all trainers, and none of their mathematics."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tracelift_jax.checked import check_types, first_difference, require, to_jsonable
from tracelift_jax.errors import Interrupted, UserError
from tracelift_jax.parallel.hosts import alone, barrier, first
from tracelift_jax.parallel.memory import readable
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.guard import Watch
from tracelift_jax.train.stopping import Stopper
from tracelift_jax.train.update import TrainState

console = Console(highlight=False, soft_wrap=True)
_MACHINES = frozenset({"mesh", "roles.mesh"})
"""Where experiments say on what devices they run; a run may go on on others."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and what it does when.

    Attributes:
        steps: optimizer batches in all.
        log_every: steps between plain log lines where there is no terminal.
        evaluate_every: steps between evaluations on held-out problems, besides those before the first and after the
            last step; 0: none.
        checkpoint_every: steps between checkpoints; one is always written after the last step.
        keep: how many of the newest checkpoints stay; the best of those that were evaluated stays too.
    """

    steps: int = 100
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 50
    keep: int = 2

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("steps", "log_every", "checkpoint_every", "keep"):
            require(getattr(self, field) >= 1, f"Schedule.{field} must be at least 1, got {getattr(self, field)}")
        require(self.evaluate_every >= 0, f"Schedule.evaluate_every must not be negative, got {self.evaluate_every}")

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows the first `step` steps; one precedes them all."""
        return step in (0, self.steps) or bool(self.evaluate_every and step % self.evaluate_every == 0)

    def checkpoints(self, step: int) -> bool:
        """Whether a checkpoint follows the first `step` steps."""
        return step == self.steps or step % self.checkpoint_every == 0 or self.evaluates(step)


class RunDir:
    """`config.gin`, `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `traces/` of one run."""

    def __init__(self, path: str | Path, experiment: Any, operative: str, fresh: bool = False):
        """Looks at a run directory; nothing is written yet.

        Raises:
            UserError: it holds another experiment, or `fresh` was asked for and it exists.
        """
        self.path = Path(path)
        if fresh and self.path.exists() and any(self.path.iterdir() if self.path.is_dir() else [1]):
            raise UserError(f"{self.path}: exists, and --fresh was given; remove it or choose another --run_dir")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; choose another --run_dir")
        described = json.loads(json.dumps(to_jsonable(experiment)))
        known = self.path / "config.json"
        if known.exists():
            try:
                there = json.loads(known.read_text())
            except ValueError as error:
                raise UserError(f"{known}: not JSON ({error}); choose another --run_dir") from error
            difference = first_difference(there, described, _MACHINES)
            if difference:
                raise UserError(f"{self.path}: holds another experiment ({difference}); choose another --run_dir")
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path}: is not empty and holds no run; choose another --run_dir")
        self._described, self._operative = described, operative
        self._tensorboard: Any = None
        barrier("run directory")  # all have looked before one of them begins

    def begin(self) -> None:
        """Makes the directory this experiment's; not before everything it needs has been found and loaded."""
        if not first():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.json").write_text(json.dumps(self._described, indent=1) + "\n")
        (self.path / "config.gin").write_text(self._operative)

    def rewind(self, step: int) -> None:
        """Drops what was written after the first `step` steps, by a run that stopped behind its last checkpoint."""
        if not first():
            return
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            kept = []
            for line in metrics.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (ValueError, KeyError):
                    break  # the line being written when the run died
            _replace(metrics, "".join(kept))
        for record in self.path.glob("traces/step_*.jsonl"):
            if int(record.stem.removeprefix("step_").partition("-")[0]) > step:
                record.unlink()

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one object to `metrics.jsonl` and its scalars to TensorBoard; what is not finite is written as null.

        Of several processes the first writes.
        """
        if not first():
            return
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, **clean}) + "\n")
        if self._tensorboard is None:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, value in clean.items():
            if value is not None:
                self._tensorboard.add_scalar(name, value, step)

    def write_traces(self, step: int, records: list[dict[str, Any]]) -> None:
        """Writes one step's reward records, whole or not at all.

        Each of several processes writes those it has to `step_000001-00000-of-00004.jsonl`.
        """
        folder = self.path / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        part = "" if alone() else f"-{jax.process_index():05d}-of-{jax.process_count():05d}"
        _replace(folder / f"step_{step:06d}{part}.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    def close(self) -> None:
        """Flushes TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def _replace(path: Path, text: str) -> None:
    """Writes a file so that readers see the old one or the new one, never half of it."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    partial.replace(path)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a trainer gives the loop.

    Attributes:
        step: (state, batch) to (state, metrics, aux); metrics are device scalars, `aux` goes to `on_step`. Where it
            raises a UserError, state and host state are those before the batch was drawn.
        batches: yields (device batch, host note); one is drawn a step, by step number.
        left_out: step number to (left out, drawn), see `ProblemStream.left_out`; asked when the step's batch is drawn.
        host_state: what of the host must be saved, as JSON. load_host_state: its inverse.
        on_step: called one step late with (step, host note, aux, metrics); may add metrics.
        watch: stops the run where its metrics say that it collapses.
        evaluate: held-out metrics of a state.
        score: name of the metric by which checkpoints are best, the higher the better.
        tie: name of the metric that decides between equal scores, the lower the better; "": the later one is best.
        headline: metric names, short label each, for the progress line.
        memory: bytes on the fullest device by what they hold, shown when the run starts.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array], Any]]
    batches: Iterator[tuple[Any, Any]]
    left_out: Callable[[int], tuple[int, int]]
    host_state: Callable[[], dict[str, Any]]
    load_host_state: Callable[[dict[str, Any]], None]
    evaluate: Callable[[TrainState], dict[str, float]]
    score: str
    headline: Mapping[str, str]
    memory: Mapping[str, int]
    tie: str = ""
    on_step: Callable[[int, Any, Any, dict[str, float]], None] = lambda step, note, aux, metrics: None
    watch: Watch = dataclasses.field(default_factory=Watch)


def fit(run: RunDir, schedule: Schedule, state: TrainState, parts: Parts, stop_after: int | None = None) -> TrainState:
    """Runs, or continues, `schedule.steps` steps.

    It adds the metric "data/left_out": of what was drawn from the training data so far, the share that does not fit.

    Args:
        stop_after: leave, with a checkpoint, after this many steps in all, as a signal would.

    Returns:
        The state after the last step done.

    Raises:
        UserError: a guard stopped the run, or a step or an evaluation could not be done; what was done before has a
            checkpoint.
        Interrupted: a signal or a notice of maintenance stopped it, behind a checkpoint.
    """
    run.begin()
    console.print("memory per device: " + " · ".join(f"{what} {readable(n)}" for what, n in parts.memory.items()))
    checkpoints = Checkpoints(run.path / "checkpoints", schedule.keep)
    done, state = _restore(run, checkpoints, state, parts)
    last = min(schedule.steps, stop_after if stop_after is not None else schedule.steps)
    left_out = drawn = 0
    step, stopped = done, False
    with (
        closing(run),
        closing(checkpoints),
        Stopper(console.print) as stopper,
        _Line(schedule, done, parts.headline) as line,
    ):
        pending: Callable[[], None] | None = None

        def evaluate(step: int) -> tuple[float, float]:
            held_out = parts.evaluate(state)
            run.write_metrics(step, held_out)
            line.note(step, held_out)
            return held_out[parts.score], -held_out[parts.tie] if parts.tie else 0.0

        def save(step: int, score: float | None = None, tie: float = 0.0) -> None:
            checkpoints.save(step, state, parts.host_state() | {"guards": parts.watch.get_state()}, score, tie)

        if not done:
            evaluate(0)
        elif schedule.evaluates(done) and done not in checkpoints.scores:
            save(done, *evaluate(done))  # it was the evaluation that could not be done
        for step in range(done + 1, last + 1):
            batch, note = next(parts.batches)
            left_out, drawn = parts.left_out(step)
            began = time.perf_counter()
            try:
                state, metrics, aux = parts.step(state, batch)
            except UserError:
                if pending:
                    pending()
                if step - 1 > done and not schedule.checkpoints(step - 1) and parts.watch.well:
                    save(step - 1)
                raise
            stopper.after_dispatch()
            if pending:
                pending()

            def flush(step=step, note=note, metrics=metrics, aux=aux, began=began, share=left_out / drawn) -> None:
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                parts.on_step(step, note, aux, values)
                values["data/left_out"] = share
                values["time/step_seconds"] = time.perf_counter() - began
                run.write_metrics(step, values)
                line.show(step, values)
                parts.watch.look(step, values)

            # The metrics of a step are fetched while the next one runs, so the device never waits for the host.
            pending = flush
            stopped = stopper.leaving and step < last
            leaving = step == last or stopped
            if schedule.checkpoints(step) or leaving:
                pending()
                pending = None
            keeps = (schedule.checkpoints(step) and parts.watch.well) or leaving
            score: tuple[float | None, float] = (None, 0.0)
            try:
                score = evaluate(step) if schedule.evaluates(step) else score
            finally:  # the steps are kept where the evaluation cannot be done
                if keeps:
                    save(step, *score)
            if stopped:
                break
    if left_out:
        console.print(f"{left_out} of {drawn} draws from the training data were left out: they do not fit")
    if stopped:
        raise Interrupted(f"stopped after step {step} of {schedule.steps}, which has a checkpoint; start it again")
    return state


def _restore(run: RunDir, checkpoints: Checkpoints, state: TrainState, parts: Parts) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint, or of a run that begins; all else is brought there too."""
    restored = checkpoints.restore(state)
    done = 0
    if restored is not None:
        done, state, host = restored
        parts.watch.set_state(host.pop("guards"))
        parts.load_host_state(host)
        console.print(f"{run.path}: continuing after step {done}")
    run.rewind(done)
    return done, state


def best_state(run: RunDir, schedule: Schedule, state: TrainState, parts: Parts) -> TrainState:
    """What a finished run leaves behind: the state of its best evaluation, of those that follow a step.

    Args:
        state: after the last step. Where another is better, its buffers are given up, so that there is room for both
            on the device, one after the other.

    Prints a line that says which it is. A damaged checkpoint is passed over for the next best.
    """
    checkpoints = Checkpoints(run.path / "checkpoints", schedule.keep)
    last = int(state.step)
    best, score = next(iter(checkpoints.scores.items()))  # the last step was evaluated, so there is one
    if best != last:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        jax.tree.map(lambda x: x.delete(), state)
        found = checkpoints.restore(like, best=True)
        assert found is not None  # the last step's is there
        state = found[1]
    checkpoints.close()
    step, count = int(state.step), sum(map(schedule.evaluates, range(1, last + 1)))
    why = f", the best of {count} evaluations: {parts.score} {score:.4g}" if step == best else ""
    console.print(f"the result is step {step}{why}")
    return state


class _Line:
    """The progress line on a terminal; elsewhere a plain line every `log_every` steps."""

    def __init__(self, schedule: Schedule, done: int, headline: Mapping[str, str]):
        self._schedule, self._headline, self._done = schedule, headline, done
        self._began = time.monotonic()
        columns = [BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}")]
        times = [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
        self._progress = Progress(*columns, *times, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=schedule.steps, completed=done, numbers="compiling")

    def __enter__(self) -> "_Line":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _text(self, values: Mapping[str, float], names: Mapping[str, str]) -> str:
        return "  ".join(f"{label} {values[name]:.3g}" for name, label in names.items() if name in values)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Shows one step's numbers."""
        text = self._text(values, self._headline)
        self._progress.update(self._task, completed=step, numbers=text)
        plain = not console.is_terminal
        if plain and (step % self._schedule.log_every == 0 or step in (self._done + 1, self._schedule.steps)):
            each = (time.monotonic() - self._began) / (step - self._done)
            left = each * (self._schedule.steps - step)
            console.print(f"step {step}/{self._schedule.steps}  {text}  {each:.2f} s/step  left {left:.0f} s")

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Prints held-out numbers for good."""
        shown = {
            name: name.partition("/")[2]
            for name in values
            if not name.endswith(("_low", "_high", "/problems", "/left_out"))
        }
        console.print(f"after step {step}: " + self._text(values, shown))
