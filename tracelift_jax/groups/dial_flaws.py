"""Flawed traces of the dial world: one localized flaw of a named kind, with the rubric labels it deserves.

For `The dial shows 7. Ann turns it up 5. Cal doubles it. Eve turns it down 1.` (faithful: `7 + 5 = 2 ; 2 * 2 = 4 ;
4 - 1 = 3`) a trace of each kind, flawed in the second step:

    wrong_calculation  7 + 5 = 2 ; 2 * 2 = 6 ; 6 - 1 = 5    or, not carried on,  7 + 5 = 2 ; 2 * 2 = 6 ; 4 - 1 = 3
    wrong_operation    7 + 5 = 2 ; 2 + 2 = 4 ; 4 - 1 = 3
    wrong_operand      7 + 5 = 2 ; 2 * 3 = 6 ; 6 - 1 = 5
    dropped_step       7 + 5 = 2 ; 2 - 1 = 1
    extra_step         7 + 5 = 2 ; 2 + 4 = 6 ; 6 * 2 = 2 ; 2 - 1 = 1
    broken_link        7 + 5 = 2 ; 8 * 2 = 6 ; 6 - 1 = 5
    answer_only        = 3

No flawed trace is faithful, yet any may end with the right answer by luck. No two kinds can give the same trace: they
differ in the number of steps, in which operator or operand is wrong, or in whether a calculation or a link is.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence

from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import MAX_LABEL, Group, Rubric, Trace
from tracelift_jax.tasks.dial import WORDINGS, DialProblem, Op, Step, parse_trace, true_steps, write_trace

POSITIVE = Rubric(dimensions=(4, 4, 4, 4, 4), total=1.0)

# What a trace's total keeps of its mean label when it also ends with a wrong answer.
WRONG_ANSWER_FACTOR = 0.7


@dataclasses.dataclass(frozen=True)
class Severity:
    """The labels 0..4 of a kind of flaw, before the answer is looked at."""

    problem_understanding: int
    solution_strategy: int
    step_coherence: int
    calculation_correctness: int
    answer_support: int


# A flaw costs most where it happens. The operations are what the statement says (problem_understanding), their number
# and order is the plan (solution_strategy), the links are step_coherence. Calculations that are right on their own
# terms keep a 4, so that the five labels tell the kinds apart. Support is low throughout: what leads to the answer
# is not what the problem says.
SEVERITIES = {
    "wrong_calculation": Severity(4, 4, 4, 1, 2),
    "wrong_operation": Severity(1, 2, 4, 4, 2),
    "wrong_operand": Severity(2, 3, 4, 4, 2),
    "dropped_step": Severity(2, 1, 3, 4, 2),
    "extra_step": Severity(2, 2, 3, 4, 2),
    "broken_link": Severity(4, 3, 1, 3, 2),
    "answer_only": Severity(1, 0, 0, 0, 1),
}
FLAW_KINDS = tuple(SEVERITIES)


# --- One function per kind: the flawed steps of a faithful trace -----------------------------------------------------


def _other(rng: random.Random, digit: int) -> int:
    """A digit that is not `digit`."""
    return (digit + rng.randint(1, 9)) % 10


def _ops(steps: Sequence[Step]) -> tuple[Op, ...]:
    return tuple(step.op for step in steps)


def _replace_op(steps: Sequence[Step], index: int, op: Op) -> tuple[Step, ...]:
    """The trace that does `op` at step `index` and calculates rightly from there on."""
    ops = _ops(steps)
    return true_steps(steps[0].left, (*ops[:index], op, *ops[index + 1 :]))


def _wrong_calculation(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randrange(len(steps))
    slip = dataclasses.replace(steps[index], result=_other(rng, steps[index].result))
    carried = rng.random() < 0.5
    rest = true_steps(slip.result, _ops(steps[index + 1 :])) if carried else tuple(steps[index + 1 :])
    return (*steps[:index], slip, *rest)


def _wrong_operation(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randrange(len(steps))
    op = steps[index].op
    # "* 7" would give itself away: the world multiplies by 2 and 3 only.
    symbols = [s for s in "+-*" if s != op.symbol and (s != "*" or op.operand in (2, 3))]
    return _replace_op(steps, index, Op(rng.choice(symbols), op.operand))


def _wrong_operand(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randrange(len(steps))
    op = steps[index].op
    operands = {n for wording in WORDINGS if wording.symbol == op.symbol for n in wording.operands} - {op.operand}
    return _replace_op(steps, index, Op(op.symbol, rng.choice(sorted(operands))))


def _dropped_step(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randrange(len(steps))
    ops = _ops(steps)
    return true_steps(steps[0].left, ops[:index] + ops[index + 1 :])


def _extra_step(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randint(0, len(steps))
    wording = rng.choice(WORDINGS)
    extra = Op(wording.symbol, rng.choice(wording.operands))
    ops = _ops(steps)
    return true_steps(steps[0].left, (*ops[:index], extra, *ops[index:]))


def _broken_link(steps: Sequence[Step], rng: random.Random) -> tuple[Step, ...]:
    index = rng.randrange(1, len(steps))
    return (*steps[:index], *true_steps(_other(rng, steps[index].left), _ops(steps[index:])))


_MAKERS: dict[str, Callable[[Sequence[Step], random.Random], tuple[Step, ...]]] = {
    "wrong_calculation": _wrong_calculation,
    "wrong_operation": _wrong_operation,
    "wrong_operand": _wrong_operand,
    "dropped_step": _dropped_step,
    "extra_step": _extra_step,
    "broken_link": _broken_link,
}


def _answer_only(answer: int, rng: random.Random) -> str:
    """The answer without steps; as often right as wrong, so that its rightness says nothing."""
    return f"= {answer if rng.random() < 0.5 else _other(rng, answer)}"


# --- Grades -----------------------------------------------------------------------------------------------------------


def grade(problem: DialProblem, kind: str, reasoning: str) -> Rubric:
    """The rubric of a flawed trace: the labels of its kind, one less support if the answer is wrong.

    A slip that later steps do not carry on (`2 * 2 = 6 ; 4 - 1 = 3`) also breaks a link: two less coherence. The total
    is the mean label, times WRONG_ANSWER_FACTOR if the answer is wrong.
    """
    labels = list(dataclasses.astuple(SEVERITIES[kind]))
    right = reasoning[-1] == problem.answer
    if not right:
        labels[4] -= 1
    if kind == "wrong_calculation" and not _links_hold(reasoning):
        labels[2] -= 2
    mean = sum(labels) / (MAX_LABEL * len(labels))
    total = round(mean if right else mean * WRONG_ANSWER_FACTOR, 4)
    return Rubric((labels[0], labels[1], labels[2], labels[3], labels[4]), total)


def _links_hold(reasoning: str) -> bool:
    """Whether every step starts from the result before it."""
    return all(before.result == step.left for before, step in itertools.pairwise(parse_trace(reasoning) or ()))


# --- Traces and groups ------------------------------------------------------------------------------------------------


def kinds_for(problem: DialProblem) -> tuple[str, ...]:
    """The kinds of flaw a problem can have: one operation has no link to break and no step to spare."""
    return (
        FLAW_KINDS if len(problem.ops) > 1 else tuple(k for k in FLAW_KINDS if k not in ("broken_link", "dropped_step"))
    )


def flawed_trace(problem: DialProblem, kind: str, rng: random.Random) -> Trace:
    """Draws a trace with one flaw of `kind`, which is one of `kinds_for(problem)`.

    Raises:
        UserError: the problem cannot have that flaw, or there is no such kind.
    """
    if kind not in kinds_for(problem):
        raise UserError(f"no flaw {kind!r} for {problem.problem_id}: use one of {', '.join(kinds_for(problem))}")
    if kind == "answer_only":
        reasoning = _answer_only(int(problem.answer), rng)
    else:
        reasoning = write_trace(_MAKERS[kind](true_steps(problem.start, problem.ops), rng))
    return Trace(reasoning, grade(problem, kind, reasoning), kind)


def dial_group(problem: DialProblem, seed: int, negatives: int = 4) -> Group:
    """The group of a problem: its true trace and `negatives` flawed ones of distinct kinds.

    The draw depends on `seed` and `problem.problem_id` alone.

    Raises:
        UserError: there are not that many kinds of flaw.
    """
    kinds = kinds_for(problem)
    if not 1 <= negatives <= len(kinds):
        raise UserError(f"negatives = {negatives}: a dial problem like {problem.problem_id} has 1 to {len(kinds)}")
    rng = random.Random(f"{seed}\0{problem.problem_id}")
    return Group(
        problem_id=problem.problem_id,
        source="dial",
        task_type=problem.task_type,
        problem=problem.text,
        reference_solution=problem.answer,
        positives=(Trace(problem.reasoning, POSITIVE),),
        negatives=tuple(flawed_trace(problem, kind, rng) for kind in rng.sample(kinds, negatives)),
    )
