r"""Reading the final number out of an answer on the host, as a careful person would, exactly and in linear time.

`read_final` finds the stretch that counts (see `tasks.stretch`) and reads one number of it: behind a marker and in a
box the FIRST, else the LAST. Numbers are Fractions made from digits; no float, no evaluation.

| text                                 | reads as          | because                                               |
|--------------------------------------|-------------------|-------------------------------------------------------|
| `18.` `$18` `18 €` `3rd` `5 cm`      | 18 18 18 3 5      | currency, units and letters are not part of it        |
| `50%` `2 million`                    | 50 2              | also 1/2, 2,000,000 where the other has no such word  |
| `1,234` `1{,}234`                    | 1234              | 1 to 3 digits, then exactly 3 each; narrow blanks too |
| `#### 1 234`                         | 1234              | common blanks only behind a marker or in a box        |
| `1,2` `1234,567` `12,345,6789`       | 2 567 6789        | other commas end a number                             |
| `5-3` `= -3` `-$5` `−5` `–5`         | 3 -3 -5 -5 -5     | behind a digit, letter or bracket it subtracts        |
| `= - 3` `#### - 3` `- 3`             | -3 -3 -3          | a detached minus where it cannot subtract             |
| `negative 3` `= minus 3`             | -3 -3             | the same in words; `10 minus 3` ends in 3             |
| `3/4` `3 / 4` `3/-4` `\frac34`       | 3/4 3/4 -3/4 3/4  | also `\dfrac{-3}{4}`, `\frac{ 3 }{4}`                 |
| `1 1/2` `1½` `1\frac12`              | 3/2               | a proper fraction on top; also `1 and 1/2`            |
| `1.5e3` `1.5 x 10^3` `2^10`          | 1500 1500 1024    | whole exponents; also `10³`                           |
| `5 m^2` `x_1 = 5` `_5_`              | 5 5 5             | raised behind a letter, or lowered, is no number      |
| `3:45` `1/2/2020` `1.2.3` `17:00`    | none none none 17 | ratios, dates, versions; the LAST is before them      |
| `5/0` `±3` `3\sqrt2` `2π` `2^n`      | none              | not rational; no other number is tried                |
| `answer is 5 + 3 = 8` `... 5 + 3`    | 8 none            | a sum is what it equals; unfinished, nothing          |
| `answer is 5-10` `... 5 or 6`        | none none         | a range; one answer is asked for                      |
| `\boxed{5, 6}` `\boxed{x}` `#### no` | none              | a list; what is marked is no number                   |
| `nan` `inf` `forty-two`              | none              | words                                                 |

"none" means that the answer is not a number: it is then compared as text.
"""

import dataclasses
import re
from collections.abc import Iterator
from fractions import Fraction

from tracelift_jax.tasks.stretch import Stretch, find_stretch, plain, spellings

MOST_DIGITS = 20_000
"""Digits of a number that has a value; longer ones are compared as text."""

TOLERANCE = Fraction(1, 10**6)
"""Numbers are equal that differ by at most this."""

_BLANK = "[ \t\u2009]"
_WHOLE = r"(?>\d{1,3}(?:,\d{3}(?!\d))+|\d{1,3}(?:\u2009\d{3}(?!\d))+|\d+)"
_SPACED = rf"(?>\d{{1,3}}(?: \d{{3}}(?!\d))+(?!{_BLANK}?/)|{_WHOLE})"
_ANY = rf"(?>{_WHOLE}(?:\.\d+)?|\.\d+)"
_BRACED = rf"\{{{_BLANK}?([-+]?){_BLANK}?\$?({_ANY}){_BLANK}?\}}"


def _compile(pattern: str) -> re.Pattern:
    return re.compile(pattern, re.ASCII)


_ATOM = {False: _compile(_ANY), True: _compile(rf"(?>{_SPACED}(?:\.\d+)?|\.\d+)")}
_START = _compile(r"\\frac(?![A-Za-z])|(?<![\w)\]}.])\.(?=\d)|\d")
_CLOCK_OR_DATE = _compile(
    r"([01]?\d|2[0-4]):00(?![:\d])|\d++(?::\d++)++|\d++(?:/\d++){2,}+|\d++(?:\.\d++){2,}+|\d{4}-\d\d?-\d\d?(?!\d)"
)
_FRAC = _compile(rf"\\frac{_BLANK}?(?:{_BRACED}|(\d)){_BLANK}?(?:{_BRACED}|(\d))")
_UNREAD_FRAC = _compile(r"\\frac(?:(?:\{[^{}]{0,80}(?:\{[^{}]{0,80}\}[^{}]{0,80}){0,4}\}){2})?")
_OVER = _compile(rf"{_BLANK}?/{_BLANK}?([-+]?)\$?({_ANY})(?!/)")
_PART = _compile(rf"(?:{_BLANK}| and )(?=\d|\\frac)")
_NUMBERS_OVER = _compile(rf"(\d++){_BLANK}?/{_BLANK}?(\d++)(?![./]\d)")
_TEN = _compile(rf"{_BLANK}?[*xX]{_BLANK}?10(?=\^)")
_E = _compile(r"[eE]([-+]?\d++)(?!\w|\.\d)")
_POWER = _compile(rf"{_BLANK}?\^{_BLANK}?(?:([-+]?\d++)|\{{{_BLANK}?([-+]?\d++){_BLANK}?\}})(?!\.\d)")
_NOT_RATIONAL = _compile(rf"{_BLANK}?[)\]]?\^(?!\{{?(?:\\text\{{)?(?:st|nd|rd|th)\b)|{_BLANK}?[√π]")
_SCALE = re.compile(rf"{_BLANK}?(%|per ?cent\b)|{_BLANK}(thousand|million|billion|trillion)s?\b", re.ASCII | re.I)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_NO_SEPARATORS = str.maketrans("", "", ", \u2009")

# What may stand before a number, looked for at the end of the few characters before it.
_WINDOW = 24
_RAISED_OR_LOWERED = _compile(r"(?:\^|(?<=[A-Za-z0-9)\]}\x80-\U0010ffff])_)[{(]?[-+]?\$?$")
_UNDER_A_ROOT = _compile(r"(?:√|sqrt)[{(\[]?$")
_EITHER_SIGN = _compile(rf"±{_BLANK}?$")
_SIGN = re.compile(r"(?:^|[^\w)\]}%°])([-+–])$")
_DETACHED = re.compile(rf"(^|[=≈(\[{{:$*]){_BLANK}*([-+]{_BLANK}|minus )$", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:^|\W)(negative )$", re.IGNORECASE)

_OPERATOR = _compile(r"[-+*/–xX]")
_LIST = _compile(r"|[,;&]|(?:, ?)?and")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an answer says.

    Attributes:
        value: the number, or None where the answer is not a number.
        scale: 1/100 behind which stands "%", 10^6 behind which stands "million", ...; else 1.
        words: how the answer may be put in words, normalised; see `stretch.spellings`.
    """

    value: Fraction | None
    scale: Fraction
    words: frozenset[str]


@dataclasses.dataclass(frozen=True)
class _Token:
    """Something written with digits, from `begin` (with its sign) to `end`; if `passed`, the LAST only if all are."""

    begin: int
    end: int
    value: Fraction | None
    scale: Fraction = Fraction(1)
    passed: bool = False


def read_final(text: str, sole: bool = False) -> Reading:
    """Reads the final answer of a text; see the module's docstring.

    Args:
        text: anything, of any length.
        sole: of text without marker and box, read a number only if there is no other: as references are.
    """
    stretch = find_stretch(plain(text))
    token = _first(stretch) if stretch.marked else _last(stretch.text, sole)
    value, scale = (token.value, token.scale) if token else (None, Fraction(1))
    return Reading(value, scale, frozenset(spellings(stretch.words)))


def only_number(text: str) -> Fraction | None:
    """The number that is all there is in a text; None where there is anything else, as a unit or "%"."""
    line = plain(text).strip().replace("$", "")
    tokens = [] if "\n" in line else list(_tokens(line, spaced=True, lead=True))
    [token] = tokens if len(tokens) == 1 else [_Token(0, 0, None)]
    return token.value if (token.begin, token.end, token.scale) == (0, len(line), 1) else None


def same_answer(a: Reading, b: Reading) -> bool:
    """Whether two answers are the same: numbers within `TOLERANCE`, anything else in its words. Symmetric."""
    if a.value is None or b.value is None:
        return not a.words.isdisjoint(b.words)
    scaled = (a.value * a.scale, b.value * b.scale)
    pairs = [scaled]
    if a.scale == 1 or b.scale == 1:
        pairs.append((a.value, b.value))
    return any(abs(x - y) <= TOLERANCE for x, y in pairs)


def _last(text: str, sole: bool) -> _Token | None:
    """The last number; numbers do not go across lines, so lines are read from the end."""
    lines = text.strip().split("\n")
    if sole:
        found = [token for line in lines for token in _tokens(line, spaced=False, lead=len(lines) == 1)]
        return found[0] if len(found) == 1 else None
    passed = None
    for line in reversed(lines):
        for token in reversed(list(_tokens(line, spaced=False, lead=len(lines) == 1))):
            if not token.passed:
                return token
            passed = passed or token
    return passed


def _first(stretch: Stretch) -> _Token | None:
    """The first number, or what it and the numbers behind it are said to equal."""
    text = stretch.text.lstrip()
    lines = text.split("\n")
    at = next((i for i, line in enumerate(lines) if _START.search(line)), None)
    if at is None:
        return None
    line = lines[at]
    tokens = _tokens(line, spaced=True, lead=at == 0)
    said = next(tokens, None)
    if said is None:
        return None
    before, unfinished = said, False
    for token in tokens:
        gap = _gap(line, before.end, token.begin)
        if gap in ("=", "≈"):
            said, unfinished = token, False
        elif _OPERATOR.fullmatch(gap) or (not gap and line[token.begin] in "-+–"):
            unfinished = True
        elif gap == "or" or (stretch.boxed and _LIST.fullmatch(gap)):
            unfinished = True
            break
        else:
            break
        before = token
    unfinished = unfinished or _gap(line, before.end, len(line)) == "+"
    return dataclasses.replace(said, value=None) if unfinished else said


def _gap(line: str, begin: int, end: int) -> str:
    """What stands between two numbers, without emphasis, blanks and what closes."""
    return line[begin:end].replace("**", "").strip(" \t\u2009)]}$")


def _tokens(line: str, spaced: bool, lead: bool) -> Iterator[_Token]:
    """Everything in a line that is written with digits.

    Args:
        line: as `plain` leaves it.
        spaced: common blanks may separate thousands.
        lead: a detached minus may stand at the very beginning.
    """
    place = 0
    while found := _START.search(line, place):
        begin = found.start()
        other = _CLOCK_OR_DATE.match(line, begin)
        if other:
            value, place = (Fraction(other[1]) if other[1] else None), other.end()
        else:
            value, place = _unsigned(line, begin, spaced)
        if _NOT_RATIONAL.match(line, place):
            value = None
        head = line[max(0, begin - _WINDOW) : begin]
        if _RAISED_OR_LOWERED.search(head):
            continue
        sign, length = _sign(head, lead and begin == len(head))
        scale = _SCALE.match(line, place)
        factor = Fraction(1)
        if scale:
            place = scale.end()
            factor = Fraction(1, 100) if scale[1] else Fraction(_SCALES[scale[2].lower()])
        value = None if value is None or sign is None else sign * value
        yield _Token(begin - length, place, value, factor, passed=other is not None)


def _sign(head: str, lead: bool) -> tuple[int | None, int]:
    """The sign that `head` ends in: 1, -1 or, where it takes the value away, None; and the characters it takes up."""
    if _UNDER_A_ROOT.search(head):
        return None, 0
    currency = len(head) - len(head.removesuffix("$"))
    if currency:
        head = head[:-1]
    if _EITHER_SIGN.search(head):
        return None, currency
    if found := _SIGN.search(head):
        return (1 if found[1] == "+" else -1), currency + 1
    if found := _NEGATIVE.search(head):
        return -1, currency + len(found[1])
    found = _DETACHED.search(head)
    if found and (found[1] or lead):
        return (1 if found[2][0] == "+" else -1), currency + len(found[2])
    return 1, currency


def _unsigned(line: str, begin: int, spaced: bool) -> tuple[Fraction | None, int]:
    """The value of the number that begins at `begin`, None where it has none, and where it ends."""
    if line[begin] == "\\":
        return _fraction(line, begin)
    atom = _ATOM[spaced].match(line, begin)
    assert atom is not None  # `_START` found a digit, or a point and a digit
    value, end = _decimal(atom[0]), atom.end()
    ten = _TEN.match(line, end)
    power = _POWER.match(line, ten.end() if ten else end)
    if power:
        exponent = power[1] or power[2]
        return (_times(value, _power(Fraction(10), exponent)) if ten else _power(value, exponent)), power.end()
    if shift := _E.match(line, end):
        return _times(value, _power(Fraction(10), shift[1])), shift.end()
    if over := _OVER.match(line, end):
        return _ratio(value, _decimal(over[2]), over[1]), over.end()
    if "." not in atom[0]:
        gap = _PART.match(line, end)
        fraction, behind = _proper_fraction(line, gap.end() if gap else end)
        if fraction is not None:
            return (None if value is None else value + fraction), behind
    return value, end


def _fraction(line: str, begin: int) -> tuple[Fraction | None, int]:
    r"""As `_unsigned`, of a `\frac`."""
    found = _FRAC.match(line, begin)
    if not found:
        unread = _UNREAD_FRAC.match(line, begin)
        assert unread is not None
        return None, unread.end()
    over_sign, over, over_digit, under_sign, under, under_digit = found.groups(default="")
    sign = "-" if (over_sign == "-") != (under_sign == "-") else ""
    return _ratio(_decimal(over or over_digit), _decimal(under or under_digit), sign), found.end()


def _proper_fraction(line: str, begin: int) -> tuple[Fraction | None, int]:
    """A fraction of whole numbers between 0 and 1 that begins at `begin`, as the part of a mixed number; else None."""
    if line.startswith(r"\frac", begin):
        value, end = _fraction(line, begin)
    else:
        found = _NUMBERS_OVER.match(line, begin)
        if not found:
            return None, begin
        value, end = _ratio(_decimal(found[1]), _decimal(found[2]), ""), found.end()
    return (value, end) if value is not None and 0 < value < 1 else (None, begin)


def _decimal(text: str) -> Fraction | None:
    """Digits with a point and with what separates thousands; None where there are too many."""
    whole, _, decimals = text.translate(_NO_SEPARATORS).partition(".")
    if len(whole) + len(decimals) > MOST_DIGITS:
        return None
    return Fraction(_integer(whole + decimals), 10 ** len(decimals))


def _integer(digits: str) -> int:
    """`int(digits)`, in halves: Python reads only some thousand digits at once, and those in quadratic time."""
    if len(digits) <= 500:
        return int(digits)
    half = len(digits) // 2
    return _integer(digits[:-half]) * 10**half + _integer(digits[-half:])


def _ratio(over: Fraction | None, under: Fraction | None, sign: str) -> Fraction | None:
    return None if over is None or not under else over / (-under if sign == "-" else under)


def _times(a: Fraction | None, b: Fraction | None) -> Fraction | None:
    return None if a is None or b is None else a * b


def _power(base: Fraction | None, exponent: str) -> Fraction | None:
    """The power, where it has a value that is not too long."""
    if base is None or len(exponent) > 6:
        return None
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if bits * abs(int(exponent)) > 4 * MOST_DIGITS or (base == 0 and int(exponent) <= 0):
        return None
    return base ** int(exponent)
