"""Flawed versions of reasoning with numbers: one localized flaw of a named kind, and the rubric it deserves.

For "Natalia sold clips to 48 friends in April and half as many in May. How many in all?" and
"She sold 48/2 = 24 clips in May.\\nShe sold 48+24 = 72 clips in all." a flaw of each kind:

    wrong_calculation          ... 48/2 = 26 clips in May.\\n... 48+24 = 72 clips in all.
    wrong_calculation_carried  ... 48/2 = 26 clips in May.\\n... 48+26 = 74 clips in all.
    wrong_operation            ... 48-2 = 46 clips in May.\\n... 48+46 = 94 clips in all.
    wrong_quantity             another number of the problem in place of one, and what follows from it
    swapped_quantities         two numbers in each other's places: 3*2 + 5*7 for 5*2 + 3*7, and what follows from it
    dropped_step               She sold 48+24 = 72 clips in all.
    contradictory_step         ... 48/2 = 24 clips in May.\\n... 48+34 = 82 clips in all.
    unsupported_conclusion     ... 48/2 = 24 clips in May.\\nShe sold 78 clips in all.
    answer_without_steps       She sold 72 clips in all.      (or a wrong number, as often)
    answer_leaked              The answer is 72.\\nShe sold 48/2 = 24 ...   (or between the steps, or beside one)

Every calculation that is not the flaw itself is true. A kind that a text gives no place for gives None.
"""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from tracelift_jax.groups.arithmetic import REASON, Equation, Operator, Quantity, clean
from tracelift_jax.groups.arithmetic_answers import bare_answer, bare_sentence, leaked_answer, unit
from tracelift_jax.groups.arithmetic_rework import Edit, apply, can_follow, operator_text, rework, write_number
from tracelift_jax.groups.arithmetic_worked import (
    Worked,
    fraction_of,
    is_money,
    near_misses,
    shuffled,
    slips,
    with_currency,
)
from tracelift_jax.groups.engine import Engine
from tracelift_jax.groups.schema import MAX_LABEL, Rubric, Trace
from tracelift_jax.groups.seeds import Seed

Labels = tuple[int, int, int, int, int]

# What a trace's total keeps of its mean label when it also ends with a wrong answer.
WRONG_ANSWER_FACTOR = 0.7


@dataclasses.dataclass(frozen=True)
class Severity:
    """The labels of a kind of flaw: problem understanding, strategy, coherence, calculation, answer support.

    Attributes:
        much: where much hangs on it. The flaw lies in the first half of the steps; or, for a wrong calculation, what
            follows goes on with the right result; for a dropped step, a third of the steps or more is gone.
        little: elsewhere.
    """

    much: Labels
    little: Labels


SEVERITIES = {
    "wrong_calculation": Severity((4, 4, 2, 1, 2), (4, 4, 4, 1, 1)),
    "wrong_calculation_carried": Severity((4, 4, 4, 1, 1), (4, 4, 4, 2, 1)),
    "wrong_operation": Severity((2, 1, 3, 4, 1), (2, 2, 3, 4, 1)),
    "wrong_quantity": Severity((1, 2, 3, 4, 1), (1, 3, 3, 4, 1)),
    "swapped_quantities": Severity((1, 2, 3, 4, 1), (1, 3, 3, 4, 1)),
    "dropped_step": Severity((4, 2, 2, 4, 2), (4, 3, 2, 4, 3)),
    "contradictory_step": Severity((4, 3, 0, 3, 1), (4, 3, 1, 3, 1)),
    "unsupported_conclusion": Severity((4, 2, 2, 3, 0), (4, 2, 2, 3, 0)),
    "answer_without_steps": Severity((2, 0, 0, 1, 0), (2, 0, 0, 1, 0)),
    "answer_leaked": Severity((4, 2, 2, 4, 2), (4, 2, 2, 4, 2)),
}
FLAW_KINDS = tuple(SEVERITIES)
_ANSWER_STAYS = ("dropped_step", "answer_leaked")

# Which operations are taken for one another, the likeliest first.
_CONFUSED = {"+": "-*", "-": "+/", "*": "+/", "/": "*-"}
_ALIKE = 10  # numbers whose ratio is larger are not taken for one another
_CONDITION = re.compile(r"(?:(?:so|thus|therefore|then),? )?(?:if|since|because|as|when|let)\b", re.IGNORECASE)
_OWN_SENTENCE = 0.6  # the share of bare answers in the solution's own words, where they can be
# Words of a sentence that tells how the answer is found.
_METHOD = re.compile(r"\b(?:find|add|subtract|divid|multipl|calculat|tak|dedu)|(?<=\S) so\b", re.IGNORECASE)
# Words that name the operation itself, so that another sign would be a slip of the pen.
_OPERATION = re.compile(r"\b(?:add|subtract|deduct|divid|multipl|sum\b|product|difference)", re.IGNORECASE)
# Words that need the calculation itself behind them, not its result.
_NEEDS_WORKING = re.compile(
    r"(?:\b(?:because|as|since|by|or|and|with|times|equation|per|multipl\w+|add\w*|divid\w+|subtract\w*|do|doing)"
    r"|[-+*/×÷=(–%\d])\s*$",
    re.IGNORECASE,
)


def grade(labels: Labels, right: bool) -> Rubric:
    """The labels, and as total their mean, times WRONG_ANSWER_FACTOR if the trace ends with a wrong answer."""
    mean = sum(labels) / (MAX_LABEL * len(labels))
    return Rubric(labels, round(mean if right else mean * WRONG_ANSWER_FACTOR, 4))


def _flawed(worked: Worked, kind: str, edits: tuple[Edit, ...], place: tuple[int, int], much: bool) -> Trace:
    """The trace with edits made; the flaw itself is what then stands in `place`, which counts in the old text."""
    start, end = place
    shift = sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.start < start)
    grown = sum(len(edit.text) - (edit.end - edit.start) for edit in edits if start <= edit.start < end)
    answer = worked.answer_place()
    right = not any(edit.start <= answer < edit.end for edit in edits)
    rubric = grade(SEVERITIES[kind].much if much else SEVERITIES[kind].little, right)
    return Trace(apply(worked.text, edits), rubric, kind, (start + shift, end + shift + grown))


def _is_early(worked: Worked, place: int) -> bool:
    """Whether `place` is in the first half of the steps."""
    return 2 * worked.parsed.step_of(place) < worked.steps - 1


def _says(quantity: Quantity) -> tuple[Fraction, bool]:
    return quantity.value, quantity.percent


# --- One function per kind -------------------------------------------------------------------------------------------


def _wrong_calculation(worked: Worked, rng: random.Random) -> Trace | None:
    operands = {q.start for e in worked.parsed.equations for q in e.operands}
    for equation in shuffled(rng, worked.parsed.equations):
        result, ahead = equation.result, equation.ahead
        said = [ahead, result] if ahead else [result]
        if worked.mentioned(result.value, result.start) > len(said) or result.start in operands:
            continue
        for slip in slips(worked, equation, rng):
            digits = [write_number(slip, quantity, worked.text) for quantity in said]
            edits = tuple(Edit(q.start, q.end, d) for q, d in zip(said, digits, strict=True) if d)
            if len(edits) == len(said):
                mended = result.start != worked.answer_place()
                return _flawed(worked, "wrong_calculation", edits, (result.start, result.end), mended)
    return None


def _wrong_calculation_carried(worked: Worked, rng: random.Random) -> Trace | None:
    for equation in shuffled(rng, worked.parsed.equations[:-1]):
        start, end = equation.result.start, equation.result.end
        later = any(_says(q) == _says(equation.result) for q in worked.parsed.quantities if q.start > start)
        if not later or not can_follow(worked.parsed, worked.known, equation):
            continue
        for slip in slips(worked, equation, rng):
            reworked = rework(worked.parsed, worked.known, forced={start: slip})
            if reworked and reworked.carried:
                early = _is_early(worked, start)
                return _flawed(worked, "wrong_calculation_carried", reworked.edits, (start, end), early)
    return None


def _is_fraction_bar(equation: Equation, operator: Operator) -> bool:
    """Whether a division only writes a number, as in 3/5 * 90 or 80/100 * 50."""
    if operator.symbol != "/":
        return False
    at = equation.left.index(operator)
    left, right = equation.left[at - 1], equation.left[at + 1]
    return (
        isinstance(left, Quantity) and isinstance(right, Quantity) and (left.value < right.value or right.value == 100)
    )


def _in_fraction(equation: Equation, quantity: Quantity) -> bool:
    """Whether a number is a part of such a fraction."""
    at = equation.left.index(quantity)
    beside = equation.left[max(0, at - 1) : at + 2]
    return any(isinstance(term, Operator) and _is_fraction_bar(equation, term) for term in beside)


def _wrong_operation(worked: Worked, rng: random.Random) -> Trace | None:
    places = [(e, o) for e in worked.changeable() for o in e.operators]
    for equation, operator in shuffled(rng, places):
        said = worked.text[worked.parsed.steps[worked.parsed.step_of(equation.start)][0] : equation.start]
        percents = any(q.percent for q in equation.operands)
        if percents or _is_fraction_bar(equation, operator) or _OPERATION.search(said):
            continue
        for symbol in _CONFUSED[operator.symbol]:
            # A product amid sums, as in 12 + 27 * 20 + 15, is not how anybody errs.
            if len(equation.operators) > 1 and operator.symbol in "+-" and symbol in "*/":
                continue
            reworked = rework(worked.parsed, worked.known, signs={operator.start: symbol})
            if reworked:
                sign = Edit(operator.start, operator.end, operator_text(operator, symbol, worked.parsed))
                edits = tuple(sorted((sign, *reworked.edits), key=lambda edit: edit.start))
                early = _is_early(worked, operator.start)
                return _flawed(worked, "wrong_operation", edits, (operator.start, operator.end), early)
    return None


def _wrong_quantity(worked: Worked, rng: random.Random) -> Trace | None:
    results = {e.result.value for e in worked.parsed.equations}
    places = [(e, q) for e in worked.changeable() for q in e.operands]
    for equation, operand in shuffled(rng, places):
        origins = [
            is_money for q, is_money in zip(worked.stated, worked.currencies, strict=True) if _says(q) == _says(operand)
        ]
        if not origins or operand.value in results or _in_fraction(equation, operand):
            continue
        if worked.mentioned(operand.value, operand.start) > 1:
            continue
        beside = {q.value for q in (*equation.operands, equation.result)}
        others = [
            (is_money not in origins, q.value)
            for q, is_money in zip(worked.stated, worked.currencies, strict=True)
            if q.percent == operand.percent and q.value not in beside
        ]
        for _, value in sorted(shuffled(rng, others), key=lambda other: other[0]):  # of the same kind first
            reworked = rework(worked.parsed, worked.known, forced={operand.start: value})
            if reworked and reworked.carried:
                early = _is_early(worked, operand.start)
                return _flawed(worked, "wrong_quantity", reworked.edits, (operand.start, operand.end), early)
    return None


def _swapped_quantities(worked: Worked, rng: random.Random) -> Trace | None:
    """Two numbers of one calculation change places, or two that the problem states, wherever their steps say them."""
    parsed = worked.parsed
    results = {e.result.start for e in parsed.equations}
    given = {_says(q) for q in worked.stated} - {_says(e.result) for e in parsed.equations}
    places = [(e, q) for e in worked.changeable() for q in e.operands if q.value > 0]
    pairs = [
        (one, other)
        for (home, one), (away, other) in itertools.combinations(places, 2)
        if 1 < max(one.value, other.value) / min(one.value, other.value) <= _ALIKE
        and one.percent == other.percent
        and is_money(worked.text, one) == is_money(worked.text, other)
        and (home is away or {_says(one), _says(other)} <= given)
        and not (_in_fraction(home, one) or _in_fraction(away, other))
    ]

    def steps(pair: tuple[Quantity, Quantity]) -> set[int]:
        return {parsed.step_of(quantity.start) for quantity in pair}

    for pair in sorted(shuffled(rng, pairs), key=lambda pair: max(steps(pair)) - min(steps(pair))):
        swapped = {_says(pair[0]): pair[1].value, _says(pair[1]): pair[0].value}
        there = [q for q in parsed.quantities if parsed.step_of(q.start) in steps(pair) and _says(q) in swapped]
        forced = {q.start: swapped[_says(q)] for q in there}
        touched = [e for e in parsed.equations if any(q.start in forced for q in e.operands)]
        once = all(len({_says(q) for q in e.operands}) == len(e.operands) for e in touched)
        reworked = rework(parsed, worked.known, forced=forced) if once and not results & set(forced) else None
        # 5 + 3 for 3 + 5 is no flaw, and two that make up for each other are hardly one.
        needed = {worked.answer_place(), *(e.result.start for e in touched)}
        if reworked and needed <= {edit.start for edit in reworked.edits}:
            span = (there[0].start, there[-1].end)
            return _flawed(worked, "swapped_quantities", reworked.edits, span, _is_early(worked, span[0]))
    return None


def _dropped_step(worked: Worked, rng: random.Random) -> Trace | None:
    parsed = worked.parsed
    for index in shuffled(rng, range(worked.steps - 1)):
        inside = [e for e in parsed.equations if parsed.step_of(e.start) == index]
        used = {q.value for e in parsed.equations if parsed.step_of(e.start) > index for q in e.operands}
        if inside and inside[-1].result.value in used and worked.is_own(inside[-1]):
            cut = Edit(parsed.steps[index][0], parsed.steps[index + 1][0], "")
            return _flawed(worked, "dropped_step", (cut,), (cut.start, cut.end), worked.steps <= 3)
    return None


def _contradictory_step(worked: Worked, rng: random.Random) -> Trace | None:
    parsed, changeable = worked.parsed, worked.changeable()
    uses = [
        (origin, equation, operand)
        for origin in parsed.equations
        if worked.is_own(origin)
        for equation in changeable
        if parsed.step_of(equation.start) > parsed.step_of(origin.start)
        for operand in equation.operands
        if _says(operand) == _says(origin.result)
    ]
    for origin, equation, operand in shuffled(rng, uses):
        step = parsed.step_of(equation.start)
        there = [q for q in parsed.quantities if parsed.step_of(q.start) == step and q.value == operand.value]
        start, end = there[0].start, there[0].end
        for slip in slips(worked, origin, rng):
            reworked = rework(parsed, worked.known, forced={q.start: slip for q in there})
            if reworked and reworked.carried:
                early = _is_early(worked, start)
                return _flawed(worked, "contradictory_step", reworked.edits, (start, end), early)
    return None


@dataclasses.dataclass(frozen=True)
class _Claim:
    """The last step without its calculation: `before`, `number` with its currency and percent sign, `after`."""

    before: str
    number: Quantity
    after: str


def _claim(worked: Worked) -> _Claim | None:
    """What the last step says when its calculation is left out; None where that would not read well."""
    parsed, text = worked.parsed, worked.text
    equation = parsed.equations[-1] if parsed.equations else None
    begin = parsed.steps[-1][0]
    if not equation or equation.start < begin or equation.chained:
        return None
    result, ahead = equation.result, equation.ahead
    rest = text[result.end + result.percent :]
    if ahead:
        between = REASON.sub("", text[ahead.end + ahead.percent : equation.start])
        claim = _Claim(text[begin : with_currency(text, ahead.start)], ahead, between + rest)
    else:
        claim = _Claim(text[begin : equation.start], result, rest)
        if _NEEDS_WORKING.search(claim.before):
            return None
    others = [q for q in parsed.quantities if q.start >= begin and q not in (*equation.operands, result, ahead)]
    if (
        result.value != fraction_of(worked.answer)
        or any(q.value != 0 for q in others)
        or "=" in claim.before
        or _CONDITION.match(claim.before)
        or not claim.before.strip()
    ):
        return None
    return claim


def _unsupported_conclusion(worked: Worked, rng: random.Random) -> Trace | None:
    claim = _claim(worked)
    if not claim or len(worked.parsed.equations) < 2:
        return None
    for slip in slips(worked, worked.parsed.equations[-1], rng):
        digits = write_number(slip, claim.number, worked.text)
        if digits:
            before = worked.text[: worked.parsed.steps[-1][0]] + claim.before
            number = worked.said(claim.number, digits)
            rubric = grade(SEVERITIES["unsupported_conclusion"].little, right=False)
            span = (len(before), len(before + number))
            return Trace(before + number + claim.after, rubric, "unsupported_conclusion", span)
    return None


def _answer_without_steps(worked: Worked, rng: random.Random) -> Trace | None:
    right = rng.random() < 0.5
    claim = _claim(worked)
    quantity = claim.number if claim else worked.answer_quantity()
    digits = ""
    if not right:
        misses = near_misses(worked, quantity, rng) if quantity else ()
        digits = next((d for miss in misses if quantity and (d := write_number(miss, quantity, worked.text))), "")
        if not digits:
            return None
    number = worked.said(quantity, digits) if quantity else worked.answer
    if claim and not _METHOD.search(claim.before) and rng.random() < _OWN_SENTENCE:
        text = bare_sentence(claim.before + number + claim.after, rng)
    else:
        text = bare_answer(number + unit(worked), rng)
    rubric = grade(SEVERITIES["answer_without_steps"].little, right)
    return Trace(text, rubric, "answer_without_steps", (0, len(text)))


def _answer_leaked(worked: Worked, rng: random.Random) -> Trace | None:
    text, span = leaked_answer(worked, rng)
    return Trace(text, grade(SEVERITIES["answer_leaked"].little, right=True), "answer_leaked", span)


FLAWS: Mapping[str, Callable[[Worked, random.Random], Trace | None]] = {
    "wrong_calculation": _wrong_calculation,
    "wrong_calculation_carried": _wrong_calculation_carried,
    "wrong_operation": _wrong_operation,
    "wrong_quantity": _wrong_quantity,
    "swapped_quantities": _swapped_quantities,
    "dropped_step": _dropped_step,
    "contradictory_step": _contradictory_step,
    "unsupported_conclusion": _unsupported_conclusion,
    "answer_without_steps": _answer_without_steps,
    "answer_leaked": _answer_leaked,
}
"""The function that makes each kind of flaw, or gives None where a trace has no place for it."""


def flaws(worked: Worked, kinds: tuple[str, ...], most: int, rng: random.Random) -> list[Trace]:
    """Up to `most` flawed traces of distinct kinds, all different from the positive and from each other."""
    made: list[Trace] = []
    texts = {worked.text}
    for kind in shuffled(rng, kinds):
        flawed = FLAWS[kind](worked, rng) if len(made) < most else None
        if flawed and flawed.reasoning not in texts:
            made.append(flawed)
            texts.add(flawed.reasoning)
    return made


def severity(kind: str) -> Rubric:
    """The grade where nothing is known but the kind: little hangs on it, and the answer is wrong where it may be."""
    return grade(SEVERITIES[kind].little, right=kind in _ANSWER_STAYS)


def _of_seed(seed: Seed, positive: str, kinds: tuple[str, ...], most: int, rng: random.Random) -> list[Trace]:
    return flaws(Worked.read(seed.problem, positive, seed.reference), kinds, most, rng)


ENGINE = Engine(FLAW_KINDS, lambda seed: clean(seed.solution), _of_seed, severity)
"""Of arithmetic reasoning."""
