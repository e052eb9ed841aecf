"""Which reward records a page shows: all of them, or whole groups of evenly chosen steps."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tracelift_jax.errors import UserError
from tracelift_jax.report.runs import Record, Run, even, read_lines

NEEDED = (
    "step", "problem_id", "trace", "problem", "reference", "reasoning", "well_formed", "answers", "verdicts", "uplift",
    "with_counts", "without_counts", "without_answers", "likelihood", "baseline_likelihood", "rubric", "total", "score",
    "reward", "advantage", "counted",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Group:
    """The traces of one problem in one step; those that were there when the report was made."""

    step: int
    records: Sequence[Record]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page shows of a run's traces.

    Attributes:
        groups: by step, in the order they were written.
        steps, all_steps: steps shown, and steps with records.
        left_out: whether some traces are not shown.
        notes: what a reader should know, a sentence each.
    """

    groups: Sequence[Group]
    steps: int
    all_steps: int
    left_out: bool
    notes: tuple[str, ...]

    @property
    def traces(self) -> int:
        """How many traces are shown."""
        return sum(len(group.records) for group in self.groups)


def shares(runs: Sequence[Run], most: int) -> list[int]:
    """How many traces each run may show, `most` of them all: what the small ones leave over, the large ones get."""
    needs = [per_step(run) * len(run.traces) for run in runs]
    out, left = [0] * len(runs), most
    for place, run in enumerate(sorted(range(len(runs)), key=lambda run: needs[run])):
        out[run] = min(needs[run], left // (len(runs) - place))
        left -= out[run]
    return [max(1, share) for share in out]


def per_step(run: Run) -> int:
    """How many traces there are in the largest step; at least 1."""
    sizes = {step: sum(file.stat().st_size for file in files) for step, files in run.traces.items()}
    largest = max(sizes, key=lambda step: sizes[step], default=None)
    lines = 0 if largest is None else sum(file.read_bytes().count(b"\n") for file in run.traces[largest])
    return max(1, lines)


def choose(run: Run, most: int) -> Shown:
    """Reads the run's records: all, or those of evenly chosen steps, the first and the last among them.

    Args:
        most: traces at most. Where a single step has more, whole groups of it are chosen evenly.

    Raises:
        UserError: a record lacks something.
    """
    steps = list(run.traces)
    if not steps:
        return Shown((), 0, 0, False, ())
    chosen = [steps[index] for index in even(len(steps), max(1, most // per_step(run)))]
    budget = most // len(chosen)
    groups: list[Group] = []
    left_out = len(chosen) < len(steps)
    for step in chosen:
        there = read_step(step, run.traces[step])
        if sum(len(group.records) for group in there) > budget:
            size = max(len(group.records) for group in there)
            there, left_out = [there[index] for index in even(len(there), max(1, budget // size))], True
        groups += there
    shown = Shown(groups, len(chosen), len(steps), left_out, ())
    notes = []
    if left_out:
        of_steps = f"{len(chosen)} of its {len(steps)} steps with records, evenly chosen"
        notes.append(f"The page holds {shown.traces} of its traces, from {of_steps}; --most_traces=N sets how many.")
    every = run.config.get("records_every")
    if isinstance(every, int) and every > 1:
        notes.append(f"Its records are of every {every}th step.")
    return dataclasses.replace(shown, notes=tuple(notes))


def read_step(step: int, files: Sequence[Path]) -> list[Group]:
    """The groups of a step from the files of all processes, in their order.

    Raises:
        UserError: a record lacks something.
    """
    groups: list[list[Record]] = []
    for file in files:
        before: tuple[str, int] | None = None
        for number, record in enumerate(read_lines(file), 1):
            missing = [name for name in NEEDED if name not in record]
            if missing:
                raise UserError(f"{file}:{number}: a reward record without {', '.join(missing)}")
            here = (record["problem_id"], record["trace"])
            if before is None or here[0] != before[0] or here[1] <= before[1]:
                groups.append([])
            groups[-1].append(record)
            before = here
    return [Group(step, records) for records in groups]
