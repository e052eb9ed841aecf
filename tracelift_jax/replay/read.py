"""Reward records as a run left them, by step, each with its place."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.outcome import Outcome
from tracelift_jax.tasks.rows import stream_jsonl

_NAME = re.compile(r"step_(\d+)(?:-(\d+)-of-(\d+))?\.jsonl")
_Token = Annotated[int, Field(ge=0)]
_Pair = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
_OUTCOMES = frozenset(map(str, Outcome))


class Record(BaseModel):
    """What a record must hold to be replayed; `rollout/records.py` writes it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    step: int
    weights: dict[str, str]
    problem_id: str
    trace: int
    problem: str
    reference: str
    task_name: str
    task_type: str
    trace_tokens: list[_Token]
    reasoning: str
    well_formed: bool
    answer_tokens: list[list[_Token]] | None
    answers: list[str | None]
    verdicts: list[Literal["ok", "wrong", "failed"]]
    outcomes: list[str | None] | None = None
    tests: list[_Pair | None] | None = None
    examples: str = ""
    uplift: float
    with_counts: _Pair
    without_counts: _Pair
    without_tokens: list[list[_Token]] | None
    without_answers: list[str | None]
    likelihood: float
    baseline_likelihood: float
    rubric: Annotated[list[float], Field(min_length=5, max_length=5)]
    total: float
    score: float
    reward: float
    advantage: float
    counted: bool

    @model_validator(mode="after")
    def _of_one_length(self) -> "Record":
        for name in ("answer_tokens", "answers", "outcomes", "tests"):
            held = getattr(self, name)
            if held is not None and len(held) != len(self.verdicts):
                raise ValueError(f'"{name}" must hold as many as "verdicts"')
        if self.without_tokens is not None and len(self.without_tokens) != len(self.without_answers):
            raise ValueError('"without_tokens" must hold as many as "without_answers"')
        unknown = set(self.outcomes or ()) - _OUTCOMES - {None}
        if unknown:
            raise ValueError(f'"outcomes" holds {sorted(map(str, unknown))[0]!r}, which is none')
        return self


Placed = tuple[str, Record]
"""FILE:LINE and what stands there."""


def recorded_steps(run_dir: Path) -> dict[int, list[Path]]:
    """The files of each recorded step, in order; of several processes, one each.

    Raises:
        UserError: there are none, or a process's part of a step is missing.
    """
    steps: dict[int, list[Path]] = {}
    for path in sorted((run_dir / "traces").glob("step_*.jsonl")):
        if name := _NAME.fullmatch(path.name):
            steps.setdefault(int(name[1]), []).append(path)
    if not steps:
        raise UserError(f"{run_dir}: no reward records in traces/; Train.records_every says how often they are written")
    for step, paths in steps.items():
        told = {_NAME.fullmatch(path.name)[3] for path in paths}  # pyright: ignore[reportOptionalSubscript]
        parts = {int(of) if of else 1 for of in told}
        if parts != {len(paths)}:
            raise UserError(f"{run_dir}/traces: step {step} has {len(paths)} of {max(parts)} files; fetch the others")
    return dict(sorted(steps.items()))


def read_step(step: int, paths: Sequence[Path], problems: int, traces: int) -> list[list[Placed]]:
    """[B][G] records of a step, in the order of its batch.

    Args:
        problems: B, and traces: G, as the run's configuration has them.

    Raises:
        UserError: a file cannot be read, or does not hold the records of whole groups.
    """
    rows = [(f"{path}:{number}", row) for path in paths for number, row in stream_jsonl(path)]
    placed = [(where, _record(row, where)) for where, row in rows]
    for number, (where, record) in enumerate(placed):
        if record.step != step:
            raise UserError(f"{where}: a record of step {record.step} in a file of step {step}")
        first = placed[number - number % traces][1]
        if record.trace != number % traces or record.problem_id != first.problem_id:
            raise UserError(
                f"{where}: expected trace {number % traces} of {first.problem_id}, "
                f"got trace {record.trace} of {record.problem_id}; lines are missing or moved"
            )
    if len(placed) != problems * traces:
        raise UserError(f"{paths[0]}: step {step} holds {len(placed)} of {problems * traces} records")
    return [placed[begin : begin + traces] for begin in range(0, len(placed), traces)]


def _record(row: dict, where: str) -> Record:
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        told = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {f'{place}: ' if place else ''}{told}") from None
