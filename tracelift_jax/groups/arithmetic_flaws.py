"""Flawed versions of reasoning with numbers: one localized flaw of a named kind, and the rubric it deserves.

For "Natalia sold clips to 48 friends in April and half as many in May. How many in all?" and
"She sold 48/2 = 24 clips in May.\\nShe sold 48+24 = 72 clips in all." a flaw of each kind:

    wrong_calculation          ... 48/2 = 26 clips in May.\\n... 48+24 = 72 clips in all.
    wrong_calculation_carried  ... 48/2 = 26 clips in May.\\n... 48+26 = 74 clips in all.
    wrong_operation            ... 48-2 = 46 clips in May.\\n... 48+46 = 94 clips in all.
    wrong_quantity             another number of the problem in place of one, and what follows from it
    swapped_quantities         ... 2/48 = 24 clips in May.\\n... 48+24 = 72 clips in all.
    dropped_step               She sold 48+24 = 72 clips in all.
    contradictory_step         ... 48/2 = 24 clips in May.\\n... 48+34 = 82 clips in all.
    unsupported_conclusion     ... 48/2 = 24 clips in May.\\nShe sold 78 clips in all.
    answer_without_steps       She sold 72 clips in all.      (or a wrong number, as often)
    answer_leaked              The answer is 72.\\nShe sold 48/2 = 24 ...

Every calculation that is not the flaw itself is true. A kind that a text gives no place for gives None.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping

from tracelift_jax.groups.arithmetic import Equation, Operator, Quantity, clean
from tracelift_jax.groups.arithmetic_rework import Edit, Reworked, apply, operator_text, rework, write_number
from tracelift_jax.groups.arithmetic_worked import Worked, fraction_of, shuffled, slips, with_currency
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
        early: where the flaw lies in the first half of the steps, so that more is built on it. late: elsewhere.
    """

    early: Labels
    late: Labels


SEVERITIES = {
    "wrong_calculation": Severity((4, 4, 2, 1, 2), (4, 4, 3, 1, 1)),
    "wrong_calculation_carried": Severity((4, 4, 4, 1, 1), (4, 4, 4, 2, 1)),
    "wrong_operation": Severity((2, 1, 3, 4, 1), (2, 2, 3, 4, 1)),
    "wrong_quantity": Severity((1, 2, 3, 4, 1), (1, 3, 3, 4, 1)),
    "swapped_quantities": Severity((3, 2, 3, 1, 2), (3, 3, 3, 1, 2)),
    "dropped_step": Severity((3, 2, 1, 4, 2), (3, 2, 2, 4, 2)),
    "contradictory_step": Severity((4, 3, 0, 3, 1), (4, 3, 1, 3, 1)),
    "unsupported_conclusion": Severity((4, 2, 2, 3, 0), (4, 2, 2, 3, 0)),
    "answer_without_steps": Severity((2, 0, 0, 1, 0), (2, 0, 0, 1, 0)),
    "answer_leaked": Severity((4, 2, 2, 4, 2), (4, 2, 2, 4, 2)),
}
FLAW_KINDS = tuple(SEVERITIES)

_LEAKS = (
    "The answer is {}.",
    "The final answer is {}.",
    "We will see that the answer is {}.",
    "The result will be {}.",
    "To begin with, the answer to the question is {}.",
)
_BARE = ("The answer is {}.", "The final answer is {}.", "The result is {}.", "It comes to {}.")
_CONNECTIVE = re.compile(
    r"(?:so|thus|therefore|hence|then|now|finally|(?:this|that|which) means(?: that)?)\b,? +", re.IGNORECASE
)
_CONDITION = re.compile(r"(?:(?:so|thus|therefore|then),? )?(?:if|since|because|as|when|let)\b", re.IGNORECASE)
# Words of a sentence that tells how the answer is found.
_METHOD = re.compile(r"\b(?:find|add|subtract|divid|multipl|calculat|tak|dedu)", re.IGNORECASE)
# Words that need the calculation itself behind them, not its result.
_NEEDS_WORKING = re.compile(
    r"(?:\b(?:because|as|since|by|or|and|with|times|equation|per|multipl\w+|add\w*|divid\w+|subtract\w*|do|doing)"
    r"|[-+*/×÷=(–%\d])\s*$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Flawed:
    """A flawed trace.

    Attributes:
        text: the whole trace. kind: one of FLAW_KINDS.
        span: where in `text` the flaw itself lies, without what follows from it; empty where something is missing.
        hurts: the five labels it leaves. right: whether the trace still ends with the right answer.
    """

    text: str
    kind: str
    span: tuple[int, int]
    hurts: Labels
    right: bool

    @property
    def rubric(self) -> Rubric:
        """The labels, and as total their mean, times WRONG_ANSWER_FACTOR if the answer is wrong."""
        mean = sum(self.hurts) / (MAX_LABEL * len(self.hurts))
        return Rubric(self.hurts, round(mean if self.right else mean * WRONG_ANSWER_FACTOR, 4))


def _flawed(worked: Worked, kind: str, edits: tuple[Edit, ...], at: Edit) -> Flawed:
    """The trace with edits made, of which `at`, the first, is the flaw itself."""
    place = worked.answer_place()
    right = not any(edit.start <= place < edit.end for edit in edits)
    return Flawed(
        apply(worked.text, edits), kind, (at.start, at.start + len(at.text)), _labels(worked, kind, at.start), right
    )


def _labels(worked: Worked, kind: str, place: int) -> Labels:
    early = 2 * worked.parsed.step_of(place) < worked.steps - 1
    return SEVERITIES[kind].early if early else SEVERITIES[kind].late


def _edit_at(reworked: Reworked, place: int) -> Edit:
    return next(edit for edit in reworked.edits if edit.start == place)


# --- One function per kind -------------------------------------------------------------------------------------------


def _wrong_calculation(worked: Worked, rng: random.Random) -> Flawed | None:
    operands = {q.start for e in worked.parsed.equations for q in e.operands}
    for equation in shuffled(rng, worked.parsed.equations):
        result = equation.result
        if worked.mentioned(result.value, result.start) > 1 or result.start in operands:
            continue
        for slip in slips(worked, result, rng):
            digits = write_number(slip, result, worked.text)
            if digits:
                edit = Edit(result.start, result.end, digits)
                return _flawed(worked, "wrong_calculation", (edit,), edit)
    return None


def _wrong_calculation_carried(worked: Worked, rng: random.Random) -> Flawed | None:
    for equation in shuffled(rng, worked.parsed.equations[:-1]):
        place = equation.result.start
        for slip in slips(worked, equation.result, rng):
            reworked = rework(worked.parsed, worked.known, forced={place: slip})
            if reworked and reworked.carried:
                return _flawed(worked, "wrong_calculation_carried", reworked.edits, _edit_at(reworked, place))
    return None


def _is_fraction_bar(equation: Equation, operator: Operator) -> bool:
    """Whether a division only writes a number, as in 3/5 * 90 or 80/100 * 50."""
    at = equation.left.index(operator)
    left, right = equation.left[at - 1], equation.left[at + 1]
    return (
        operator.symbol == "/"
        and isinstance(left, Quantity)
        and isinstance(right, Quantity)
        and (left.value < right.value or right.value == 100)
    )


def _wrong_operation(worked: Worked, rng: random.Random) -> Flawed | None:
    places = [(e, o) for e in worked.parsed.equations if not e.chained for o in e.operators]
    for equation, operator in shuffled(rng, places):
        percents = any(q.percent for q in equation.operands)
        if percents or _is_fraction_bar(equation, operator):
            continue
        # A product amid sums, as in 12 + 27 * 20 + 15, is not how anybody errs.
        symbols = "+-*/" if len(equation.operators) == 1 or operator.symbol in "*/" else "+-"
        for symbol in shuffled(rng, [s for s in symbols if s != operator.symbol]):
            reworked = rework(worked.parsed, worked.known, signs={operator.start: symbol})
            if reworked:
                at = Edit(operator.start, operator.end, operator_text(operator, symbol, worked.parsed))
                edits = tuple(sorted((at, *reworked.edits), key=lambda edit: edit.start))
                return _flawed(worked, "wrong_operation", edits, at)
    return None


def _wrong_quantity(worked: Worked, rng: random.Random) -> Flawed | None:
    results = {e.result.value for e in worked.parsed.equations}
    places = [(e, q) for e in worked.parsed.equations if not e.chained for q in e.operands]
    for equation, operand in shuffled(rng, places):
        origins = [
            is_money
            for q, is_money in zip(worked.stated, worked.currencies, strict=True)
            if (q.value, q.percent) == (operand.value, operand.percent)
        ]
        if not origins or operand.value in results or worked.mentioned(operand.value, operand.start) > 1:
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
                return _flawed(worked, "wrong_quantity", reworked.edits, _edit_at(reworked, operand.start))
    return None


def _swapped_quantities(worked: Worked, rng: random.Random) -> Flawed | None:
    text = worked.text
    for equation in shuffled(rng, worked.parsed.equations):
        if equation.chained or len(equation.left) != 3:
            continue
        first, sign, second = equation.left
        if not (isinstance(first, Quantity) and isinstance(sign, Operator) and isinstance(second, Quantity)):
            continue
        if sign.symbol not in "-/" or first.value == second.value:
            continue
        end = text.rindex("=", 0, equation.result.start)
        left, right = text[equation.start : sign.start].rstrip(), text[sign.end : end].strip()
        between = text[equation.start + len(left) : text.index(right, sign.end)]
        swapped = Edit(equation.start, equation.start + len(left + between + right), right + between + left)
        return _flawed(worked, "swapped_quantities", (swapped,), swapped)
    return None


def _dropped_step(worked: Worked, rng: random.Random) -> Flawed | None:
    parsed = worked.parsed
    for index in shuffled(rng, range(worked.steps - 1)):
        inside = [e for e in parsed.equations if parsed.step_of(e.start) == index]
        used = {q.value for e in parsed.equations if parsed.step_of(e.start) > index for q in e.operands}
        if inside and inside[-1].result.value in used and worked.is_own(inside[-1]):
            cut = Edit(parsed.steps[index][0], parsed.steps[index + 1][0], "")
            return _flawed(worked, "dropped_step", (cut,), cut)
    return None


def _contradictory_step(worked: Worked, rng: random.Random) -> Flawed | None:
    parsed = worked.parsed
    uses = [
        (origin, equation, operand)
        for origin in parsed.equations
        if worked.is_own(origin)
        for equation in parsed.equations
        if parsed.step_of(equation.start) > parsed.step_of(origin.start) and not equation.chained
        for operand in equation.operands
        if (operand.value, operand.percent) == (origin.result.value, origin.result.percent)
    ]
    for origin, equation, operand in shuffled(rng, uses):
        step = parsed.step_of(equation.start)
        there = [q for q in parsed.quantities if parsed.step_of(q.start) == step and q.value == operand.value]
        for slip in slips(worked, origin.result, rng):
            reworked = rework(parsed, worked.known, forced={q.start: slip for q in there})
            if reworked and reworked.carried:
                return _flawed(worked, "contradictory_step", reworked.edits, _edit_at(reworked, there[0].start))
    return None


def _conclusion(worked: Worked) -> tuple[Quantity, Edit] | None:
    """The last number and the cut that leaves it without its calculation; None where that would not read well."""
    parsed, text = worked.parsed, worked.text
    if not parsed.equations:
        return None
    equation = parsed.equations[-1]
    result, place = equation.result, equation.start
    begin = parsed.steps[parsed.step_of(place)][0]
    alone = not any(
        begin <= q.start and (q.start < place or q.start > result.end) and q.value != 0 for q in parsed.quantities
    )
    said = text[begin:place]
    last = parsed.step_of(place) == worked.steps - 1 and result.value == fraction_of(worked.answer)
    if (
        not last
        or not alone
        or equation.chained
        or "=" in said
        or _CONDITION.match(said)
        or _NEEDS_WORKING.search(said)
        or not said.strip()
    ):
        return None
    return result, Edit(place, with_currency(text, result.start), "")


def _unsupported_conclusion(worked: Worked, rng: random.Random) -> Flawed | None:
    found = _conclusion(worked)
    if not found or len(worked.parsed.equations) < 2:
        return None
    result, cut = found
    for slip in slips(worked, result, rng):
        digits = write_number(slip, result, worked.text)
        if digits:
            currency = worked.text[cut.end : result.start]
            edit = Edit(cut.start, result.end, currency + digits)
            return _flawed(worked, "unsupported_conclusion", (edit,), edit)
    return None


def _answer_without_steps(worked: Worked, rng: random.Random) -> Flawed | None:
    right = rng.random() < 0.5
    said = worked.written_answer()
    if not right:
        quantity = next((q for q in worked.parsed.quantities if q.start == worked.answer_place()), None)
        wrong = slips(worked, quantity, rng) if quantity else ()
        digits = next((d for slip in wrong if quantity and (d := write_number(slip, quantity, worked.text))), None)
        if quantity is None or digits is None:
            return None
        said = said.replace(worked.text[quantity.start : quantity.end], digits)
    found = _conclusion(worked)
    if found and not _METHOD.search(worked.text[worked.parsed.steps[-1][0] : found[1].start]):
        result, cut = found
        begin = worked.parsed.steps[-1][0]
        text = worked.text[begin : cut.start] + said + worked.text[result.end + result.percent :]
        text = _CONNECTIVE.sub("", text, count=1) if _CONNECTIVE.match(text) else text
        text = text[0].upper() + text[1:]
    else:
        text = rng.choice(_BARE).format(said)
    return Flawed(text, "answer_without_steps", (0, len(text)), SEVERITIES["answer_without_steps"].late, right)


def _answer_leaked(worked: Worked, rng: random.Random) -> Flawed | None:
    leak = rng.choice(_LEAKS).format(worked.written_answer())
    gap = "\n" if "\n" in worked.text else " "
    text = leak + gap + worked.text
    return Flawed(text, "answer_leaked", (0, len(leak)), SEVERITIES["answer_leaked"].early, True)


FLAWS: Mapping[str, Callable[[Worked, random.Random], Flawed | None]] = {
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


def flaws(worked: Worked, kinds: tuple[str, ...], most: int, rng: random.Random) -> list[Flawed]:
    """Up to `most` flawed traces of distinct kinds, all different from the positive and from each other."""
    made: list[Flawed] = []
    texts = {worked.text}
    for kind in shuffled(rng, kinds):
        flawed = FLAWS[kind](worked, rng) if len(made) < most else None
        if flawed and flawed.text not in texts:
            made.append(flawed)
            texts.add(flawed.text)
    return made


def _flawed_traces(seed: Seed, positive: str, kinds: tuple[str, ...], most: int, rng: random.Random) -> list[Trace]:
    made = flaws(Worked.read(seed.problem, positive, seed.reference), kinds, most, rng)
    return [Trace(flawed.text, flawed.rubric, flawed.kind, flawed.span) for flawed in made]


def _severity(kind: str) -> Rubric:
    """Of a late flaw that leaves a wrong answer."""
    labels = SEVERITIES[kind].late
    return Rubric(labels, round(sum(labels) / (MAX_LABEL * len(labels)) * WRONG_ANSWER_FACTOR, 4))


ENGINE = Engine(FLAW_KINDS, lambda seed: clean(seed.solution), _flawed_traces, _severity)
"""Of arithmetic reasoning."""
