"""Steps, quantities and calculations in ordinary reasoning text.

    Natalia sold 48/2 = 24 clips in May.              step 0: equation 48 / 2 = 24
    Natalia sold 48+24 = 72 clips in April and May.   step 1: equation 48 + 24 = 72, whose 24 is carried from step 0

An equation is read only if it is true: of all ways to read what stands left of a `=` (with units, currency and words
between the numbers) the longest is taken whose exact value is the number on the right, rounded as that is written. So
"In 2 weeks he earns $12 x 50/60 = $10" reads as 12 * 50 / 60 = 10. A `=` that cannot be read so is opaque. A result may
also be said first, as in "He drives 150 miles because 450 / 3 = 150".
Nothing is evaluated but + - * / and parentheses, over fractions.
"""

import bisect
import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

_MARKS = re.compile(r"<<.*?>>")
_ANSWER_LINE = re.compile(r"^[ \t]*####.*$", re.MULTILINE)
# A full stop ends a step unless it ends a title or an initial.
_STEP_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\b[A-Z])[.!?](?=\s+[\"“'(]?[A-Z0-9$])|\n")
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    rf"""
    (?P<ordinal>\d+(?:st|nd|rd|th)\b)
    |(?P<number>(?:{_NUMBER}))
    |(?P<times>[*×]|(?<=[\d\s)%])[xX](?=\s*[\d$(.]))
    |(?P<over>÷|/(?=\s*[\d$(.]))
    |(?P<minus>[-–−](?=\s*[\d$(.]))
    |(?P<plus>\+)
    |(?P<open>\()|(?P<close>\))
    |(?P<equals>=)
    |(?P<percent>%)
    |(?P<currency>[$€£])
    |(?P<word>(?:[-/][ ]?)?[^\W\d_]+(?:['’\-/][^\W\d_]+)*['’]?)
    |(?P<space>[ \t]+)
    |(?P<stop>.|\n)
    """,
    re.VERBOSE,
)
REASON = re.compile(r",? *\b(?:because|since|as) +$")
"""What stands between a result that is said first and its calculation."""
_OPERATORS = {"times": "*", "over": "/", "minus": "-", "plus": "+"}
_MAX_UNIT_WORDS = 6
_VALUE_BEGINS = ("number", "currency", "open")
_UNIT_LETTERS = "aAImgL"  # words and units; any other single letter is a variable
_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORD_VALUES = dict(zip(_NAMES.split(), range(21), strict=True))
_WORD_VALUES |= {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_WORD_VALUES |= {"once": 1, "twice": 2, "double": 2, "doubled": 2, "half": 2, "pair": 2, "couple": 2, "both": 2}
_WORD_VALUES |= {"third": 3, "thrice": 3, "triple": 3, "tripled": 3, "quarter": 4, "fourth": 4, "fifth": 5}
_WORD_VALUES |= {"week": 7, "dozen": 12, "hundred": 100}


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number as written.

    Attributes:
        start, end: its digits in the text, without currency and percent signs.
        value: what the digits say; 20 for "20%". percent: whether a percent sign follows.
    """

    start: int
    end: int
    value: Fraction
    percent: bool = False


@dataclasses.dataclass(frozen=True)
class Operator:
    """`symbol`, one of + - * / ( ), at `start` to `end`; nothing is written where a product is implied, as in 2(3)."""

    symbol: str
    start: int
    end: int


Term = Quantity | Operator


@dataclasses.dataclass(frozen=True)
class Equation:
    """A true calculation, `left` = `result`.

    Attributes:
        start: where it begins, currency included. left: its terms without units. result: the number on the right.
        scaled: whether 20% counts as 1/5 here; else a percent sign is a unit like any other.
        exact: whether `result` is the exact value, not a rounded one.
        chained: whether it is part of something longer, as in 2 + 2 * 3 = 2 + 6 = 8 or 8 / 4 = 2 hours * 60 = 120.
        ahead: the result where the step says it first, "150 miles because 450 / 3 = 150"; None where it does not.
    """

    start: int
    left: tuple[Term, ...]
    result: Quantity
    scaled: bool
    exact: bool
    chained: bool
    ahead: Quantity | None = None

    @property
    def operands(self) -> tuple[Quantity, ...]:
        """The numbers on the left."""
        return tuple(term for term in self.left if isinstance(term, Quantity))

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The signs between them that are written out as signs; no parentheses."""
        return tuple(t for t in self.left if isinstance(t, Operator) and t.symbol in "+-*/" and t.end - t.start == 1)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A reasoning text and what was found in it; every place counts characters of `text`.

    Attributes:
        text: without `<<...>>` marks and `####` line.
        steps: begin and end of each sentence or line, in order.
        quantities: every number, in order. equations: every calculation, in order.
        opaque: the places of each `=` that was not understood.
    """

    text: str
    steps: tuple[tuple[int, int], ...]
    quantities: tuple[Quantity, ...]
    equations: tuple[Equation, ...]
    opaque: tuple[int, ...]

    def step_of(self, place: int) -> int:
        """The number of the step that `place` lies in."""
        return max(0, bisect.bisect_right(self.steps, place, key=lambda step: step[0]) - 1)


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str
    start: int
    end: int


def clean(text: str) -> str:
    """The text without `<<...>>` marks and without its `####` line."""
    return _ANSWER_LINE.sub("", _MARKS.sub("", text)).strip()


def parse(text: str) -> Parsed:
    """Reads a reasoning text, with or without marks. Never fails: what is not understood is opaque."""
    text = clean(text)
    tokens = _tokens(text)
    quantities = _quantities(text, tokens)
    by_place = {quantity.start: quantity for quantity in quantities}
    equations, opaque, steps = [], [], _steps(text)
    for index, token in enumerate(tokens):
        if token.kind == "equals":
            equation = _equation(text, tokens, index, by_place)
            if equation:
                free = [q for q in quantities if not any(e.start <= q.start <= e.result.start for e in equations)]
                equations.append(dataclasses.replace(equation, ahead=_ahead(text, steps, free, equation)))
            elif not _is_label(tokens, index):
                opaque.append(token.start)
    return Parsed(text, steps, quantities, tuple(equations), tuple(opaque))


def numbers_of(text: str) -> tuple[tuple[Quantity, ...], frozenset[Fraction]]:
    """The quantities written in digits in a problem's statement, and the values its words name ("twice": 2)."""
    words = re.findall(r"[a-z]+", text.lower())
    values = {Fraction(_WORD_VALUES[word]) for word in words if word in _WORD_VALUES}
    return parse(text).quantities, frozenset(values)


# --- Values ----------------------------------------------------------------------------------------------------------


def read_value(digits: str) -> Fraction:
    """The value of digits with thousands commas and decimals."""
    return Fraction(digits.replace(",", ""))


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, + - * / x × ÷ – −, % and parentheses; None if it is not one.

    Percent signs divide by 100. Units, currency and spaces are passed over.
    """
    tokens = _tokens(expression)
    terms = _terms(tokens, {q.start: q for q in _quantities(expression, tokens)}, expression)
    return value_of(terms, scaled=True) if terms else None


def value_of(terms: Sequence[Term], scaled: bool) -> Fraction | None:
    """The exact value of terms, products before sums, from left to right; None where they are no expression.

    Args:
        terms: numbers, operators and parentheses. scaled: whether a percent sign divides by 100.
    """
    reader = _Reader(terms, scaled)
    value = reader.sum()
    return value if reader.place == len(terms) else None


class _Reader:
    """Recursive descent over terms; a value is None from the first thing that is wrong."""

    def __init__(self, terms: Sequence[Term], scaled: bool):
        self.terms, self.scaled, self.place = terms, scaled, 0

    def _take(self, symbols: str) -> str:
        """The next term's symbol if it is one of `symbols`, else nothing."""
        term = self.terms[self.place] if self.place < len(self.terms) else None
        if isinstance(term, Operator) and term.symbol in symbols:
            self.place += 1
            return term.symbol
        return ""

    def sum(self) -> Fraction | None:
        value = self.product()
        while value is not None and (symbol := self._take("+-")):
            right = self.product()
            value = None if right is None else value + right if symbol == "+" else value - right
        return value

    def product(self) -> Fraction | None:
        value = self.atom()
        while value is not None and (symbol := self._take("*/")):
            right = self.atom()
            if right is None or (symbol == "/" and right == 0):
                return None
            value = value * right if symbol == "*" else value / right
        return value

    def atom(self) -> Fraction | None:
        if self._take("("):
            value = self.sum()
            return value if self._take(")") else None
        term = self.terms[self.place] if self.place < len(self.terms) else None
        if not isinstance(term, Quantity):
            return None
        self.place += 1
        return term.value / 100 if term.percent and self.scaled else term.value


def decimals_of(digits: str) -> int:
    """How many digits stand behind the point."""
    return len(digits.partition(".")[2])


def rounded(value: Fraction, decimals: int) -> Fraction:
    """`value` rounded half up to `decimals` places, as people do."""
    scale = 10**decimals
    return Fraction((value * scale * 2 + 1) // 2, scale)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _steps(text: str) -> tuple[tuple[int, int], ...]:
    steps, begin = [], 0
    for end in [*(m.end() for m in _STEP_END.finditer(text)), len(text)]:
        piece = text[begin:end]
        if piece.strip():
            steps.append((begin + len(piece) - len(piece.lstrip()), begin + len(piece.rstrip())))
        begin = end
    return tuple(steps)


def _tokens(text: str) -> list[_Token]:
    return [_Token(str(m.lastgroup), m.start(), m.end()) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]


def _quantities(text: str, tokens: Sequence[_Token]) -> tuple[Quantity, ...]:
    kinds = [*(token.kind for token in tokens), ""]
    return tuple(
        Quantity(token.start, token.end, read_value(text[token.start : token.end]), kinds[i + 1] == "percent")
        for i, token in enumerate(tokens)
        if token.kind == "number"
    )


def _is_variable(text: str, token: _Token) -> bool:
    """Whether a word is a single letter, as a variable is; "2x" is no quantity with a unit."""
    word = text[token.start : token.end]
    return len(word) == 1 and word not in _UNIT_LETTERS


def _equation(text: str, tokens: Sequence[_Token], equals: int, by_place: dict[int, Quantity]) -> Equation | None:
    """The calculation around the `=` at index `equals`, if it is true."""
    place = equals + 1
    if place < len(tokens) and tokens[place].kind == "currency":
        place += 1
    if place >= len(tokens) or tokens[place].kind != "number":
        return None
    result = by_place[tokens[place].start]
    behind = tokens[place + 1 + result.percent :]
    if behind and (
        behind[0].kind in (*_OPERATORS, "open")
        or (behind[0].kind == "word" and _is_variable(text, behind[0]) and behind[0].start == result.end)
    ):
        return None
    begin = equals
    while begin > 0 and tokens[begin - 1].kind not in ("stop", "equals", "ordinal"):
        begin -= 1
    follows = begin > 0 and tokens[begin - 1].kind == "equals" and not _is_label(tokens, begin - 1)
    goes_on = _next_sign(behind) in (*_OPERATORS, "equals")
    for first in range(begin, equals):
        left = tokens[first:equals]
        if first > begin and tokens[first - 1].kind in (*_OPERATORS, "currency"):
            continue  # what stands there belongs to this expression, which has already been refused with it
        found = _true_reading(text, left, by_place, result)
        if found:
            terms, scaled, exact = found
            chained = goes_on or (follows and first == begin)  # not "= 7 eggs, and 7 + 2 = 9", which begins anew
            return Equation(left[0].start, terms, result, scaled, exact, chained)
    return None


def _ahead(
    text: str, steps: Sequence[tuple[int, int]], free: Sequence[Quantity], equation: Equation
) -> Quantity | None:
    """The one number, of those in no other equation, that says the result before "because" and the equation."""
    if not REASON.search(text[max(0, equation.start - 12) : equation.start]):
        return None
    begin = max((step[0] for step in steps if step[0] <= equation.start), default=0)
    said = [q for q in free if begin <= q.start < equation.start and q.value == equation.result.value]
    return said[0] if len(said) == 1 else None


def _next_sign(tokens: Sequence[_Token]) -> str:
    """The kind of the first token that is no word."""
    return next((token.kind for token in tokens if token.kind != "word"), "")


def _is_label(tokens: Sequence[_Token], equals: int) -> bool:
    """Whether only words stand left of a `=`, as in "Apples = 3 * 4 = 12"."""
    begin = equals
    while begin > 0 and tokens[begin - 1].kind == "word":
        begin -= 1
    return begin < equals and (begin == 0 or tokens[begin - 1].kind == "stop")


def _true_reading(
    text: str, left: Sequence[_Token], by_place: dict[int, Quantity], result: Quantity
) -> tuple[tuple[Term, ...], bool, bool] | None:
    """The terms of `left`, whether percent signs scale, and whether `result` is exact; None where it is not true."""
    terms = _terms(left, by_place, text)
    if not terms or not any(isinstance(term, Operator) and term.symbol in "+-*/" for term in terms):
        return None
    percents = result.percent or any(isinstance(term, Quantity) and term.percent for term in terms)
    decimals = decimals_of(text[result.start : result.end])
    for scaled in (True, False) if percents else (False,):
        value = value_of(terms, scaled)
        if value is None:
            continue
        written = value * 100 if scaled and result.percent else value
        if written == result.value:
            return terms, scaled, True
        if decimals and rounded(written, decimals) == result.value:
            return terms, scaled, False
    return None


def _terms(tokens: Sequence[_Token], by_place: dict[int, Quantity], text: str) -> tuple[Term, ...] | None:
    """Tokens as terms, units left out; None where they are no expression of numbers."""
    terms: list[Term] = []
    after_value, words = False, 0
    for index, token in enumerate(tokens):
        kind = token.kind
        following = tokens[index + 1].kind if index + 1 < len(tokens) else ""
        if kind == "number" and not after_value:
            terms.append(by_place[token.start])
            after_value, words = True, 0
        elif kind in _OPERATORS and after_value:
            terms.append(Operator(_OPERATORS[kind], token.start, token.end))
            after_value = False
        elif kind == "open" and (not after_value or words == 0):
            if after_value:
                terms.append(Operator("*", token.start, token.start))
            terms.append(Operator("(", token.start, token.end))
            after_value = False
        elif kind == "close" and after_value:
            terms.append(Operator(")", token.start, token.end))
            words = 0
        elif kind == "word" and after_value and text[token.start : token.end] == "of" and following in _VALUE_BEGINS:
            terms.append(Operator("*", token.start, token.end))
            after_value = False
        elif kind == "word" and after_value and words < _MAX_UNIT_WORDS and not _is_variable(text, token):
            words += 1
        elif (kind != "currency" or after_value) and (kind != "percent" or not after_value):
            return None
    return tuple(terms) if after_value else None
