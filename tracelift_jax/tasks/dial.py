"""The dial world: the built-in task, with an oracle for every step of a reasoning trace.

A dial shows a digit; people turn it, double it, triple it; arithmetic is modulo 10:

    problem    The dial shows 7. Ann turns it up 5. Bob has 4 hats. Cal doubles it. What does it show now?
    reasoning  7 + 5 = 2 ; 2 * 2 = 4
    answer     4

Problem i is a pure function of the task's values, the split and i, so a million of them need no storage. Because the
statement can be parsed back, a record of a run can be checked offline from its text alone.
"""

import dataclasses
import hashlib
import operator
import random
import re
from collections.abc import Sequence
from typing import overload

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem

SPLITS = ("train", "test")

NAMES = ("Ann", "Bob", "Cal", "Dee", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lee")
STARTS = (
    "The dial shows {n}.",
    "The dial starts at {n}.",
    "A dial is set to {n}.",
    "At first the dial shows {n}.",
)
QUESTIONS = (
    "What does it show now?",
    "What number does the dial show now?",
    "Where is the dial now?",
    "Which number does it show at the end?",
)
DISTRACTORS = (
    "{name} has {n} {things}.",
    "{name} sees {n} {things}.",
    "{name} buys {n} {things}.",
    "{name} is {n} years old.",
)
THINGS = ("hats", "cats", "pens", "cups", "books", "coins", "apples", "stones")


@dataclasses.dataclass(frozen=True)
class Wording:
    """How one kind of operation is said: its symbol, the operands it may have, what a person does to the dial."""

    symbol: str
    operands: tuple[int, ...]
    deeds: tuple[str, ...]


_DIGITS = tuple(range(1, 10))
WORDINGS = (
    Wording("+", _DIGITS, ("turns it up {n}", "adds {n}", "moves it forward {n}", "raises it by {n}")),
    Wording("-", _DIGITS, ("turns it down {n}", "takes away {n}", "moves it back {n}", "lowers it by {n}")),
    Wording("*", (2,), ("doubles it", "doubles the number", "doubles what it shows", "multiplies it by {n}")),
    Wording("*", (3,), ("triples it", "triples the number", "triples what it shows", "multiplies it by {n}")),
)


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation on the dial: `symbol` is "+", "-" or "*"."""

    symbol: str
    operand: int

    def apply(self, value: int) -> int:
        """What the dial shows after the operation."""
        match self.symbol:
            case "+":
                return (value + self.operand) % 10
            case "-":
                return (value - self.operand) % 10
            case "*":
                return (value * self.operand) % 10
        raise ValueError(f"no such operation: {self.symbol!r}")


@dataclasses.dataclass(frozen=True)
class Step:
    """One written step `left op = result`, right or wrong."""

    left: int
    op: Op
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.op.symbol} {self.op.operand} = {self.result}"

    @property
    def calculated_right(self) -> bool:
        """Whether the result is what the operation gives on the left operand, whatever the problem says."""
        return self.result == self.op.apply(self.left)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialProblem(Problem):
    """A problem that still knows how it was made.

    Attributes:
        start: what the dial shows at first.
        ops: the operations in order.
    """

    start: int
    ops: tuple[Op, ...]


def true_steps(start: int, ops: Sequence[Op]) -> tuple[Step, ...]:
    """The faithful trace: every operation in order, each from the previous result."""
    steps, value = [], start
    for op in ops:
        steps.append(Step(value, op, op.apply(value)))
        value = steps[-1].result
    return tuple(steps)


def write_trace(steps: Sequence[Step]) -> str:
    """The text of a trace, `7 + 5 = 2 ; 2 * 2 = 4`."""
    return " ; ".join(map(str, steps))


# --- The oracle ------------------------------------------------------------------------------------------------------

_STEP = re.compile(r"([0-9]) ([-+*]) ([0-9]) = ([0-9])")


@dataclasses.dataclass(frozen=True)
class TraceCheck:
    """What the oracle says of one trace.

    Attributes:
        well_formed: the text is a sequence of steps.
        faithful: exactly one step per operation, in order, with the right operator, operand, link and result.
        first_wrong_step: index of the first step that a faithful trace would not have there, or of the first that is
            missing; -1 if faithful or ill formed.
        final: the last result, None if ill formed.
    """

    well_formed: bool
    faithful: bool
    first_wrong_step: int
    final: int | None


def parse_trace(text: str) -> tuple[Step, ...] | None:
    """Reads a trace; None unless it is exactly steps joined by " ; " (white space around the whole is allowed)."""
    matches = [_STEP.fullmatch(part) for part in text.strip().split(" ; ")]
    steps = [Step(int(m[1]), Op(m[2], int(m[3])), int(m[4])) for m in matches if m]
    return tuple(steps) if len(steps) == len(matches) else None


def check_trace(problem: Problem, text: str) -> TraceCheck:
    """Judges the trace `text` of a dial problem; a plain `Problem` is understood from its statement.

    Raises:
        UserError: `problem` is not a dial problem.
    """
    start, ops = (problem.start, problem.ops) if isinstance(problem, DialProblem) else parse_problem(problem.text)
    steps = parse_trace(text)
    if steps is None:
        return TraceCheck(well_formed=False, faithful=False, first_wrong_step=-1, final=None)
    truth = true_steps(start, ops)
    if steps == truth:
        return TraceCheck(well_formed=True, faithful=True, first_wrong_step=-1, final=steps[-1].result)
    shared = min(len(steps), len(truth))
    wrong = next((i for i in range(shared) if steps[i] != truth[i]), shared)
    return TraceCheck(well_formed=True, faithful=False, first_wrong_step=wrong, final=steps[-1].result)


# --- Reading a statement back -----------------------------------------------------------------------------------------


def _pattern(sentences: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the sentences, with any fillings."""
    body = "|".join(map(re.escape, sentences))
    for slot, choices in (("name", NAMES), ("things", THINGS)):
        body = body.replace(re.escape("{" + slot + "}"), f"(?:{'|'.join(choices)})")
    return re.compile(body.replace(re.escape("{n}"), "[0-9]"))


_START, _QUESTION, _DISTRACTOR = _pattern(STARTS), _pattern(QUESTIONS), _pattern(DISTRACTORS)
_OPERATIONS = tuple((wording, _pattern([f"{{name}} {deed}." for deed in wording.deeds])) for wording in WORDINGS)


def _parse_operation(sentence: str) -> Op | None:
    for wording, pattern in _OPERATIONS:
        if pattern.fullmatch(sentence):
            number = re.search("[0-9]", sentence)
            operand = int(number[0]) if number else wording.operands[0]  # "doubles it" names no number
            if operand in wording.operands:  # "multiplies it by" is said of two kinds
                return Op(wording.symbol, operand)
    return None


def parse_problem(text: str) -> tuple[int, tuple[Op, ...]]:
    """Recovers (start, operations) from a statement.

    Raises:
        UserError: the text is not a statement of the dial world.
    """
    sentences = re.split(r"(?<=\.) ", text)
    first, middle, last = sentences[0], sentences[1:-1], sentences[-1]
    if not _START.fullmatch(first) or not _QUESTION.fullmatch(last):
        raise UserError(f"not a problem of the dial world: {text[:80]!r}")
    ops = []
    for sentence in middle:
        op = _parse_operation(sentence)
        if op is not None:
            ops.append(op)
        elif not _DISTRACTOR.fullmatch(sentence):
            raise UserError(f"not a sentence of the dial world: {sentence[:80]!r}")
    return int(re.findall("[0-9]", first)[0]), tuple(ops)


# --- Drawing problems -------------------------------------------------------------------------------------------------


def split_of(start: int, ops: Sequence[Op]) -> str:
    """The split that (start, operations) belongs to, whatever the wording, the seed or the task's values.

    One in eight is a test problem. As the statement determines (start, operations), no text is in both splits, and a
    test problem's very arithmetic is never trained on.
    """
    key = str(start) + "".join(f"{op.symbol}{op.operand}" for op in ops)
    return "test" if hashlib.blake2b(key.encode(), digest_size=1).digest()[0] < 32 else "train"


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"no split {split!r} in the dial task: use one of {', '.join(SPLITS)}")


def _draw_operations(rng: random.Random, count: int) -> tuple[int, tuple[Op, ...]]:
    wordings = rng.choices(WORDINGS, k=count)
    return rng.randrange(10), tuple(Op(w.symbol, rng.choice(w.operands)) for w in wordings)


def _say_operation(rng: random.Random, op: Op) -> str:
    wording = next(w for w in WORDINGS if w.symbol == op.symbol and op.operand in w.operands)
    return f"{rng.choice(NAMES)} {rng.choice(wording.deeds).format(n=op.operand)}."


def _say_problem(rng: random.Random, start: int, ops: Sequence[Op], distractors: int) -> str:
    sentences = [_say_operation(rng, op) for op in ops]
    for _ in range(distractors):
        slots = {"name": rng.choice(NAMES), "n": rng.randint(2, 9), "things": rng.choice(THINGS)}
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(DISTRACTORS).format(**slots))
    return " ".join([rng.choice(STARTS).format(n=start), *sentences, rng.choice(QUESTIONS)])


@dataclasses.dataclass(frozen=True)
class DialTask:
    """The dial world as a task.

    Attributes:
        seed: another seed, other problems; the splits stay disjoint even between seeds.
        min_ops: fewest operations in a problem.
        max_ops: most operations in a problem; every count between is equally likely.
        max_distractors: most sentences that do not matter; every count from 0 is equally likely.
        train_size: problems in the train split.
        test_size: problems in the test split.
    """

    seed: int = 0
    min_ops: int = 3
    max_ops: int = 6
    max_distractors: int = 2
    train_size: int = 1_000_000
    test_size: int = 4096

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise UserError(f"DialTask.{field.name} = {value!r}: must be a whole number")
        for name, least in (("seed", 0), ("min_ops", 1), ("max_distractors", 0), ("train_size", 1), ("test_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"DialTask.{name} = {value}: must be at least {least}")
        if self.max_ops < self.min_ops:
            raise UserError(f"DialTask.max_ops = {self.max_ops}: must be at least min_ops = {self.min_ops}")

    def problems(self, split: str) -> "DialProblems":
        """The problems of "train" or "test"; the result serves `grain.MapDataset.source` as it is."""
        return DialProblems(self, split)

    def faithful(self, problem: Problem, reasoning: str) -> bool:
        """Whether `reasoning` is the problem's one true trace."""
        return check_trace(problem, reasoning).faithful

    def problem(self, split: str, index: int) -> DialProblem:
        """Draws problem `index` of a split; no other problem is needed for it."""
        _check_split(split)  # drawing for a split that nothing belongs to would never end
        values = f"{self.min_ops}-{self.max_ops}-{self.max_distractors}"
        # The values are part of the name: the same index under other values is another problem, and baselines are
        # cached by this name.
        problem_id = f"dial/{values}/{split}/{self.seed}/{index}"
        rng = random.Random(problem_id)  # keyed by the SHA-512 of the name, so neighbours are independent
        count = rng.randint(self.min_ops, self.max_ops)
        start, ops = _draw_operations(rng, count)
        while split_of(start, ops) != split:
            start, ops = _draw_operations(rng, count)
        steps = true_steps(start, ops)
        return DialProblem(
            problem_id=problem_id,
            text=_say_problem(rng, start, ops, rng.randint(0, self.max_distractors)),
            answer=str(steps[-1].result),
            reasoning=write_trace(steps),
            start=start,
            ops=ops,
        )


@dataclasses.dataclass(frozen=True)
class DialProblems(Sequence[DialProblem]):
    """Random access to the problems of one split, drawn when asked for."""

    task: DialTask
    split: str

    def __post_init__(self):
        _check_split(self.split)

    def __len__(self) -> int:
        return self.task.train_size if self.split == "train" else self.task.test_size

    @overload
    def __getitem__(self, index: int) -> DialProblem: ...
    @overload
    def __getitem__(self, index: slice) -> list[DialProblem]: ...
    def __getitem__(self, index):
        """Problem `index`; negative ones count from the end, a slice gives a list."""
        if isinstance(index, slice):
            return [self.task.problem(self.split, i) for i in range(*index.indices(len(self)))]
        position = range(len(self))[operator.index(index)]  # IndexError past the end, which ends iteration
        return self.task.problem(self.split, position)
