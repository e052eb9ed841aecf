"""Same-problem groups: a problem, traces that solve it and flawed traces, each graded by a rubric.

In JSON Lines one group is a line, in the layout of TraceLift-Groups:

    {"problem_id", "source", "task_type", "problem", "reference_solution",
     "positive_pool": [{"reasoning", "rubric": {five dimensions 0..4, "total" 0..1}}, ...],
     "negative_bank": [{"reasoning", "negative_kind", "rubric": {...}}, ...], "metadata": {...}}

A flawed trace may say with "span": [begin, end] where its flaw lies, and a group with "tests" what a reader may know of
a program's tests; both are ours. Further fields are allowed and ignored.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from tracelift_jax.errors import UserError

MATH_DIMENSIONS = (
    "problem_understanding",
    "solution_strategy",
    "step_coherence",
    "calculation_correctness",
    "answer_support",
)
CODE_DIMENSIONS = ("task_understanding", "plan_quality", "step_coherence", "action_support", "non_leakage")
MAX_LABEL = 4

RubricName = Literal["math", "code"]
DIMENSIONS: dict[RubricName, tuple[str, ...]] = {"math": MATH_DIMENSIONS, "code": CODE_DIMENSIONS}

_Kind = TypeVar("_Kind")
_JSON_NAMES: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}


def _field(data: Mapping[str, Any], name: str, kind: type[_Kind], where: str = "") -> _Kind:
    """`data[name]`, which must be of type `kind`; `where` says which part of the group `data` is."""
    path = f"{where}.{name}" if where else name
    if name not in data:
        raise UserError(f"field {path} is missing")
    value = data[name]
    if not isinstance(value, kind):
        raise UserError(f"field {path} must be {_JSON_NAMES[kind]}, not {type(value).__name__}")
    return value


@dataclasses.dataclass(frozen=True)
class Rubric:
    """A grade of one trace.

    Attributes:
        dimensions: five labels 0..4, in the order of MATH_DIMENSIONS or CODE_DIMENSIONS.
        total: the grade of the whole, in [0, 1].
    """

    dimensions: tuple[int, int, int, int, int]
    total: float

    def __post_init__(self):
        if len(self.dimensions) != 5:
            raise UserError(f"a rubric has five dimensions, not {len(self.dimensions)}")
        for label in self.dimensions:
            if type(label) is not int or not 0 <= label <= MAX_LABEL:
                raise UserError(f"rubric label {label!r} must be a whole number 0..{MAX_LABEL}")
        if type(self.total) not in (int, float) or not 0 <= self.total <= 1:  # refuses nan too
            raise UserError(f"rubric total {self.total!r} must be a number in [0, 1]")

    def to_json(self, names: tuple[str, ...]) -> dict[str, int | float]:
        """The rubric as a JSON object whose keys are `names` and "total"."""
        return {**dict(zip(names, self.dimensions, strict=True)), "total": self.total}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], names: tuple[str, ...], where: str = "rubric") -> "Rubric":
        """Reads a rubric.

        Raises:
            UserError: a field is missing or outside its range.
        """
        for name in (*names, "total"):
            if name not in data:
                raise UserError(f"field {where}.{name} is missing")
        labels = [_whole(data[name]) for name in names]
        try:
            return cls((labels[0], labels[1], labels[2], labels[3], labels[4]), data["total"])
        except UserError as error:
            raise UserError(f"field {where}: {error}") from error


POSITIVE = Rubric((MAX_LABEL, MAX_LABEL, MAX_LABEL, MAX_LABEL, MAX_LABEL), 1.0)
"""What a trace without a flaw deserves."""


def _whole(value: Any) -> Any:
    """2.0 as 2, which is how some writers of JSON put whole numbers; anything else as it is."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == int(value) else value


@dataclasses.dataclass(frozen=True)
class Trace:
    """One reasoning trace.

    Attributes:
        reasoning: its text, without tags.
        rubric: its grade.
        negative_kind: the named flaw of a negative, "" for a positive.
        span: where in `reasoning` the flaw lies, in characters, without what follows from it; empty where something is
            missing. None: not known.
    """

    reasoning: str
    rubric: Rubric
    negative_kind: str = ""
    span: tuple[int, int] | None = None

    def to_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The trace as a JSON object, its rubric under `names`; a positive has no kind."""
        kind = {"negative_kind": self.negative_kind} if self.negative_kind else {}
        span = {} if self.span is None else {"span": list(self.span)}
        return {"reasoning": self.reasoning, **kind, "rubric": self.rubric.to_json(names), **span}


@dataclasses.dataclass(frozen=True)
class Group:
    """One problem with its traces.

    Attributes:
        problem_id: unique within a file; decides the split.
        source: the data set or task that the problem comes from.
        task_type: the kind of problem, written into the reward model's prompt.
        problem: the statement.
        reference_solution: the answer (math) or a program (code).
        positives: traces that solve the problem.
        negatives: flawed traces.
        rubric_name: whose five dimensions the rubrics have.
        tests: what a reader may know of a program's tests, as text; "" for none.
    """

    problem_id: str
    source: str
    task_type: str
    problem: str
    reference_solution: str
    positives: tuple[Trace, ...]
    negatives: tuple[Trace, ...]
    rubric_name: RubricName = "math"
    tests: str = ""

    def to_json(self) -> dict[str, Any]:
        """The group as a JSON object in the layout of TraceLift-Groups."""
        names = DIMENSIONS[self.rubric_name]
        return {
            "problem_id": self.problem_id,
            "source": self.source,
            "task_type": self.task_type,
            "problem": self.problem,
            **({"tests": self.tests} if self.tests else {}),
            "reference_solution": self.reference_solution,
            "positive_pool": [trace.to_json(names) for trace in self.positives],
            "negative_bank": [trace.to_json(names) for trace in self.negatives],
            "metadata": {"dimension_names": list(names)},
        }

    @classmethod
    def from_json(cls, data: Any) -> "Group":
        """Reads a group.

        Raises:
            UserError: a field is missing or wrong; the message names it, the caller adds file and line.
        """
        if not isinstance(data, dict):
            raise UserError(f"a group must be a JSON object, not {type(data).__name__}")
        pools = {name: _field(data, name, list) for name in ("positive_pool", "negative_bank")}
        rubric_name = _rubric_name(pools)
        return cls(
            problem_id=_field(data, "problem_id", str),
            source=_field(data, "source", str),
            task_type=_task_type(data),
            problem=_field(data, "problem", str),
            reference_solution=_field(data, "reference_solution", str),
            positives=_traces(pools["positive_pool"], "positive_pool", rubric_name),
            negatives=_traces(pools["negative_bank"], "negative_bank", rubric_name),
            rubric_name=rubric_name,
            tests=_tests(data),
        )


def _task_type(data: Mapping[str, Any]) -> str:
    """The released code groups keep the task type in their metadata, the math groups beside the problem."""
    metadata = data.get("metadata")
    if "task_type" not in data and isinstance(metadata, dict) and "task_type" in metadata:
        return _field(metadata, "task_type", str, "metadata")
    return _field(data, "task_type", str)


def _tests(data: Mapping[str, Any]) -> str:
    """Ours, or what the paper's own reader of groups looks for, where that is text."""
    if "tests" in data:
        return _field(data, "tests", str)
    theirs = data.get("tests_or_constraints")
    return theirs if isinstance(theirs, str) else ""


def _rubric_name(pools: Mapping[str, list[Any]]) -> RubricName:
    """Which rubric a group uses: the one whose first dimension, which the other lacks, its first trace has."""
    for pool in pools.values():
        for trace in pool:
            rubric = trace.get("rubric") if isinstance(trace, dict) else None
            return "code" if isinstance(rubric, dict) and CODE_DIMENSIONS[0] in rubric else "math"
    return "math"


def _traces(pool: list[Any], pool_name: str, rubric_name: RubricName) -> tuple[Trace, ...]:
    traces = []
    for index, item in enumerate(pool):
        where = f"{pool_name}[{index}]"
        if not isinstance(item, dict):
            raise UserError(f"{where} must be an object, not {type(item).__name__}")
        rubric = _field(item, "rubric", dict, where)
        kind = _field(item, "negative_kind", str, where) if pool_name == "negative_bank" else ""
        grade = Rubric.from_json(rubric, DIMENSIONS[rubric_name], f"{where}.rubric")
        reasoning = _field(item, "reasoning", str, where)
        traces.append(Trace(reasoning, grade, kind, _span(item, len(reasoning), where)))
    return tuple(traces)


def _span(item: Mapping[str, Any], letters: int, where: str) -> tuple[int, int] | None:
    if "span" not in item:
        return None
    span = _field(item, "span", list, where)
    if len(span) != 2 or any(type(place) is not int for place in span) or not 0 <= span[0] <= span[1] <= letters:
        raise UserError(f"field {where}.span must be two places in the reasoning, [begin, end], not {span}")
    return span[0], span[1]
