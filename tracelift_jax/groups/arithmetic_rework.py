"""Changing a number or a sign in a reasoning text so that everything behind it follows.

`rework` is one pass over the numbers of a text: a number that was carried from a changed result changes with it, and
every calculation that such a number enters is done again. It gives up (None) rather than write something that does not
hold together, or a number that nobody would write.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from fractions import Fraction

from tracelift_jax.groups.arithmetic import (
    Equation,
    Operator,
    Parsed,
    Quantity,
    decimals_of,
    rounded,
    value_of,
)

# Numbers that mean themselves: months, minutes, per cent. One that equals a result may not have been carried from it.
CONSTANTS = frozenset(map(Fraction, (1, 2, 3, 4, 7, 10, 12, 24, 28, 30, 31, 52, 60, 100, 365, 1000)))
_LARGEST_RATIO = 100
CURRENCY = "$€£"

_Key = tuple[Fraction, bool]


@dataclasses.dataclass(frozen=True)
class Edit:
    """`text` in place of what stands from `start` to `end`."""

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class Reworked:
    """What a change entails.

    Attributes:
        edits: in the order of the text. carried: whether any number that was not changed on purpose changed too.
    """

    edits: tuple[Edit, ...]
    carried: bool


def apply(text: str, edits: tuple[Edit, ...]) -> str:
    """The text with edits made; they are in order and do not overlap."""
    pieces, place = [], 0
    for edit in edits:
        pieces += [text[place : edit.start], edit.text]
        place = edit.end
    return "".join([*pieces, text[place:]])


def write_number(value: Fraction, like: Quantity, text: str, exact: bool = True) -> str | None:
    """Digits for `value` in place of `like`, as the same hand would write them; None where it would not.

    Whole numbers stay whole, but for money; decimals stay within those written before, or two for money; thousands have
    commas where the old number or another of the text has them. Nothing below 2 if the old number is not, because the
    words around it say "one" or "many"; no zero; nothing out of all proportion.

    Args:
        value: the number. like: the number it replaces in `text`. exact: whether rounding is refused.
    """
    old = text[like.start : like.end]
    if (value > 1) != (like.value > 1) or value in (0, 1) or like.value == 1:
        return None
    if not like.value / _LARGEST_RATIO < value < like.value * _LARGEST_RATIO or value < 0:
        return None
    money = like.start > 0 and text[like.start - 1] in CURRENCY
    decimals = max(decimals_of(old), 2 if money else 0)
    number = rounded(value, decimals)
    if exact and number != value:
        return None
    whole, cents = divmod(int(number * 10**decimals), 10**decimals)
    commas = "," in old or (whole >= 1000 > like.value and any(c == "," for c in _thousands(text)))
    digits = f"{whole:,}" if commas else str(whole)
    if cents or decimals_of(old) == 2:
        tail = f"{cents:0{decimals}d}"
        fixed = decimals == 2 and decimals_of(old) in ((0, 2) if money else (2,))
        shown = decimals if fixed else len(tail.rstrip("0"))
        digits = ("" if old.startswith(".") and whole == 0 else digits) + "." + tail[:shown]
    return digits


def _thousands(text: str) -> str:
    """Every comma that stands between digits."""
    return "".join(
        c for i, c in enumerate(text[1:-1], 1) if c == "," and text[i - 1].isdigit() and text[i + 1].isdigit()
    )


def _key(quantity: Quantity) -> _Key:
    return quantity.value, quantity.percent


class _Pass:
    """One pass; see `rework`."""

    def __init__(
        self, parsed: Parsed, known: frozenset[Fraction], forced: Mapping[int, Fraction], signs: Mapping[int, str]
    ):
        self.parsed, self.known, self.forced, self.signs = parsed, known, forced, signs
        self.by_result = {e.result.start: e for e in parsed.equations}
        self.by_ahead = {e.ahead.start: e for e in parsed.equations if e.ahead}
        self.operands = {q.start for e in parsed.equations for q in e.operands}
        self.now: dict[int, Fraction] = {}  # the value of each number passed, by its place
        self.moved: dict[_Key, Fraction] = {}
        self.seen: set[Fraction] = set()
        self.edits: list[Edit] = []
        self.carried = False

    def run(self) -> Reworked | None:
        """The edits, or None where the text cannot follow."""
        for quantity in self._order():
            value = self._value(quantity)
            if value is None:
                return None
            if value != quantity.value:
                digits = write_number(value, quantity, self.parsed.text, self._must_be_exact(quantity))
                if digits is None:
                    return None
                value = Fraction(digits.replace(",", ""))
                self.edits.append(Edit(quantity.start, quantity.end, digits))
                self.carried |= quantity.start not in self.forced and quantity.start not in self.by_ahead
                if quantity.start in self.by_result:
                    if not can_follow(self.parsed, self.known, self.by_result[quantity.start]):
                        return None
                    self.moved[_key(quantity)] = value
            self.now[quantity.start] = value
            self.seen.add(quantity.value)
        edits = tuple(sorted(self.edits, key=lambda edit: edit.start))
        return Reworked(edits, self.carried) if edits else None

    def _order(self) -> Iterator[Quantity]:
        """The numbers as they stand, but what says a result ahead comes right behind that result."""
        for quantity in self.parsed.quantities:
            if quantity.start not in self.by_ahead:
                yield quantity
            equation = self.by_result.get(quantity.start)
            if equation and equation.ahead:
                yield equation.ahead

    def _must_be_exact(self, quantity: Quantity) -> bool:
        return quantity.start not in self.by_result or self.by_result[quantity.start].exact

    def _value(self, quantity: Quantity) -> Fraction | None:
        """What the number becomes; None where that cannot be told."""
        if quantity.start in self.forced:
            return self.forced[quantity.start]
        if quantity.start in self.by_ahead:
            return self.now[self.by_ahead[quantity.start].result.start]
        equation = self.by_result.get(quantity.start)
        if equation:
            return self._again(equation)
        if _key(quantity) in self.moved:
            return self.moved[_key(quantity)]
        # A number from nowhere may have been reckoned in the head from one that has changed.
        from_nowhere = self.moved and not any(quantity.value in values for values in (self.seen, self.known, CONSTANTS))
        if from_nowhere and (quantity.start not in self.operands or quantity.value.denominator == 1):
            return None
        return quantity.value

    def _again(self, equation: Equation) -> Fraction | None:
        """The equation's result after the changes to its left side."""
        changed = any(self.now[q.start] != q.value for q in equation.operands)
        signed = any(o.start in self.signs for o in equation.operators)
        if not changed and not signed:
            return equation.result.value
        if equation.chained:
            return None
        terms = [
            dataclasses.replace(term, value=self.now[term.start])
            if isinstance(term, Quantity)
            else dataclasses.replace(term, symbol=self.signs.get(term.start, term.symbol))
            for term in equation.left
        ]
        value = value_of(terms, equation.scaled)
        return value * 100 if value is not None and equation.scaled and equation.result.percent else value


def can_follow(parsed: Parsed, known: frozenset[Fraction], equation: Equation) -> bool:
    """Whether it is clear which later numbers an equation's result is carried to, so that it may change.

    Args:
        parsed: the text. known: the values that the problem states.
    """
    result, step = equation.result, parsed.step_of(equation.result.start)
    if any(equals > result.start for equals in parsed.opaque):
        return False
    same = [q for q in parsed.quantities if q.value == result.value and q not in (result, equation.ahead)]
    before = [q for q in same if q.start < result.start]
    if any(parsed.step_of(q.start) == step for q in before):
        return False  # "All 72 of them: 12 x 6 = 72" says the result first, or speaks of another 72
    other = any(e.result.value == result.value for e in parsed.equations if e is not equation)
    return len(before) == len(same) or not (before or other or result.value in known or result.value in CONSTANTS)


def rework(
    parsed: Parsed,
    known: frozenset[Fraction],
    forced: Mapping[int, Fraction] | None = None,
    signs: Mapping[int, str] | None = None,
) -> Reworked | None:
    """Changes numbers and signs of a text and everything that depends on them.

    Args:
        parsed: the text. known: the values that the problem states.
        forced: new values by the place of the number. signs: new operators, of + - * /, by the place of the old.

    Returns:
        The edits of numbers (those of signs are the caller's), or None where the result would not hold together.
    """
    return _Pass(parsed, known, forced or {}, signs or {}).run()


def operator_text(operator: Operator, symbol: str, parsed: Parsed) -> str:
    """How the text would write `symbol` in place of `operator`: as it does elsewhere, or as a keyboard does."""
    for equation in parsed.equations:
        for other in equation.operators:
            if other.symbol == symbol:
                return parsed.text[other.start : other.end]
    return symbol if symbol != "*" or parsed.text[operator.start : operator.end] != "÷" else "×"
