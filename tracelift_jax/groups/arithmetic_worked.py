"""A problem and its worked solution, read together: what is stated, what is reckoned, which slips a number invites."""

import dataclasses
import random
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

from tracelift_jax.groups.arithmetic import Equation, Parsed, Quantity, decimals_of, numbers_of, parse
from tracelift_jax.groups.arithmetic_rework import CONSTANTS, CURRENCY, can_follow

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Worked:
    """A problem and a positive trace for it, read.

    Attributes:
        parsed: the trace. stated: the numbers of the problem in digits. known: all values it states, words included.
        currencies: whether each of `stated` is money. answer: the reference answer in canonical form.
    """

    parsed: Parsed
    stated: tuple[Quantity, ...]
    known: frozenset[Fraction]
    currencies: tuple[bool, ...]
    answer: str

    @classmethod
    def read(cls, problem: str, reasoning: str, answer: str) -> "Worked":
        """Reads a problem and its solution; `reasoning` may have `<<...>>` marks, which go."""
        stated, words = numbers_of(problem)
        text = parse(problem).text
        known = words | {quantity.value for quantity in stated}
        return cls(parse(reasoning), stated, known, tuple(is_money(text, q) for q in stated), answer)

    @property
    def text(self) -> str:
        """The positive trace."""
        return self.parsed.text

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.parsed.steps)

    def answer_quantity(self) -> Quantity | None:
        """Where the answer is said last; None if it is not."""
        value = fraction_of(self.answer)
        return max((q for q in self.parsed.quantities if q.value == value), key=lambda q: q.start, default=None)

    def answer_place(self) -> int:
        """Where the answer is said last; behind the text if it is not."""
        quantity = self.answer_quantity()
        return quantity.start if quantity else len(self.text)

    def said(self, quantity: Quantity, digits: str = "") -> str:
        """A number as the trace writes it, with its currency and percent sign; with other digits if given."""
        currency = self.text[with_currency(self.text, quantity.start) : quantity.start]
        return currency + (digits or self.text[quantity.start : quantity.end]) + "%" * quantity.percent

    def written_answer(self) -> str:
        """The answer as the trace writes it last."""
        quantity = self.answer_quantity()
        return self.said(quantity) if quantity else self.answer

    def changeable(self) -> list[Equation]:
        """The equations whose left side may change, because the rest of the trace can follow."""
        return [e for e in self.parsed.equations if not e.chained and can_follow(self.parsed, self.known, e)]

    def mentioned(self, value: Fraction, place: int) -> int:
        """How often the step around `place` names `value`."""
        step = self.parsed.step_of(place)
        return sum(q.value == value and self.parsed.step_of(q.start) == step for q in self.parsed.quantities)

    def is_own(self, equation: Equation) -> bool:
        """Whether wherever the equation's result stands in the trace it can only have come from there."""
        value = equation.result.value
        others = [e.result.value for e in self.parsed.equations if e is not equation]
        earlier = [q.value for q in self.parsed.quantities if q.start < equation.result.start and q != equation.ahead]
        return value not in self.known | CONSTANTS and value not in others and value not in earlier


def fraction_of(answer: str) -> Fraction | None:
    """The value of an answer in canonical form; None if it is no number."""
    try:
        return Fraction(answer)
    except (ValueError, ZeroDivisionError):
        return None


def is_money(text: str, quantity: Quantity) -> bool:
    """Whether a currency sign stands before a number."""
    return quantity.start > 0 and text[quantity.start - 1] in CURRENCY


def with_currency(text: str, start: int) -> int:
    """Where a number begins with its currency sign."""
    return start - 1 if start > 0 and text[start - 1] in CURRENCY else start


def shuffled(rng: random.Random, items: Iterable[_Item]) -> list[_Item]:
    """The items in random order."""
    listed = list(items)
    rng.shuffle(listed)
    return listed


def slips(worked: Worked, equation: Equation, rng: random.Random) -> Iterator[Fraction]:
    """Values that a slip may put in place of a calculation's result, those first that its operands do not belie.

    Nobody who takes 3 from 17 finds 21: such values come last.
    """
    result = equation.result
    values = list(near_misses(worked, result, rng))

    def belied(value: Fraction) -> bool:
        return any((value > q.value) != (result.value > q.value) for q in equation.operands)

    yield from sorted(values, key=belied)


def near_misses(worked: Worked, quantity: Quantity, rng: random.Random) -> Iterator[Fraction]:
    """Values that may be taken for a number: a few off, a digit wrong or two exchanged."""
    decimals = decimals_of(worked.text[quantity.start : quantity.end])
    whole = int(quantity.value * 10**decimals)
    zeros = len(str(whole)) - len(str(whole).rstrip("0"))
    # Nobody is a cent off a round price, or one off a round thousand.
    unit = 10 ** max(0, zeros - 1, min(decimals, zeros, 1))
    number, scale = whole // unit, Fraction(unit, 10**decimals)
    digits = str(number)
    near = [number + sign * by for by in (1, 2, 3) for sign in (1, -1)]
    tens = [number + sign * 10**power for power in range(1, len(digits)) for sign in (1, -1)]
    exchanged = [
        int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])
        for i in range(len(digits) - 1)
        if digits[i + 1] != "0"
    ]
    far = [number + sign * by for by in range(4, 13) for sign in (1, -1)]
    tens, far = ([n for n in numbers if 2 * n > number] for numbers in (tens, far))  # no digit is lost
    taken = {q.value for q in (*worked.parsed.quantities, *worked.stated)} | {fraction_of(worked.answer)}
    for candidate in [*shuffled(rng, near + tens + tens + exchanged), *shuffled(rng, far)]:
        if candidate > 0 and candidate * scale not in taken:
            yield candidate * scale
