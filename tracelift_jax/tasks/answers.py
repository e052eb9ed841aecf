r"""Reference answers: numbers in canonical form, everything else as it is written.

| as written                                                   | answer        | kind   |
|--------------------------------------------------------------|---------------|--------|
| `18` `+18` `018` `18.0` `$18` `\$18.00` `18\%` `18^\circ`    | 18            | number |
| `1,080` `1 080` `1{,}080` `10.8e2`                           | 1080          | number |
| `.5` `0.50` `-0.5` U+2212 `0.5`                              | 0.5 and -0.5  | number |
| `3/4` `6/8` `\frac{3}{4}` `\dfrac34`, `-\frac{3}{4}`         | 3/4, -3/4     | number |
| `-0` `0.00` `0/7`                                            | 0             | number |
| `1,5` `3/0` `1\frac12` `52_8` `x=5` `(1,2)` `5 cm` `\pi` `No` | as it is      | latex  |

Decimals stay decimals and fractions fractions, in lowest terms; every digit is kept. A percent sign, a currency and a
degree say what is counted, not how much: they are left off, as the reader of answers (`text.numbers`) leaves them off.
"""

import math
import re
from fractions import Fraction

from tracelift_jax.tasks.problem import AnswerKind

_LONGEST = 1000  # characters: longer is no answer anyone would write, and int() of thousands of digits is refused

# Commas and blanks are dropped only where they group thousands: "1,5" may be one and a half, and must not become 15.
_WHOLE = r"(?:\d{1,3}(?:[, ]\d{3})+|\d+)"
_SIZE = (
    rf"(?P<whole>{_WHOLE})?(?:\.(?P<decimals>\d+))?(?:[eE](?P<exponent>[-+]?\d{{1,3}}))?"
    rf"|(?P<over>{_WHOLE})/(?P<under>\d+)"
    r"|\\[dt]?frac ?(?:\{(?P<top_sign>-?)(?P<top>\d+)\}|(?P<top_digit>\d))"
    r" ?(?:\{(?P<bottom>\d+)\}|(?P<bottom_digit>\d))"
)
_CURRENCY = r"(?:\\?\$ ?)?"
_NUMBER = re.compile(
    rf"{_CURRENCY}(?P<sign>[-+]?) ?{_CURRENCY}(?:{_SIZE}) ?(?:\\?%|\^(?:\\circ|\{{\\circ\}}))?", re.ASCII
)
_FORMULA = re.compile(r"\$((?:[^$\\]|\\.)*)\$|\\\((.*)\\\)", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def read_answer(value: object) -> tuple[str, AnswerKind] | None:
    """A reference answer as a source has it, a JSON number or text, as (answer, kind); None if it is neither or blank.

    A JSON number with a point is the shortest decimal that Python reads as the same float, which is how it was written
    unless it had more than 17 digits.
    """
    if isinstance(value, float) and math.isfinite(value):
        value = repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), "number"
    if not isinstance(value, str) or not value.strip():
        return None
    number = canonical_number(value)
    return (value.strip(), "latex") if number is None else (number, "number")


def canonical_number(text: str) -> str | None:
    """The canonical form of a text that is one number and nothing else; None for any other (see the module)."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    formula = _FORMULA.fullmatch(text)
    if formula:
        text = (formula[1] or formula[2] or "").strip()
    for written, plain in (("\u2212", "-"), ("{,}", ","), (r"\!", ""), (r"\,", " ")):
        text = text.replace(written, plain)
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    if found["whole"] or found["decimals"]:
        size = _decimal(_digits(found["whole"]), found["decimals"] or "", int(found["exponent"] or 0))
    else:
        size = _fraction(found)
    if size is None:
        return None
    negative = (found["sign"] == "-") ^ (found["top_sign"] == "-")
    return f"-{size}" if negative and size != "0" else size


def _digits(whole: str | None) -> str:
    return re.sub("[, ]", "", whole or "")


def _decimal(whole: str, decimals: str, exponent: int) -> str:
    """Digits around a point that moves by `exponent`, without zeros that say nothing."""
    digits, point = whole + decimals, len(whole) + exponent
    digits, point = "0" * -point + digits, max(point, 0)
    digits = digits.ljust(point, "0")
    decimals = digits[point:].rstrip("0")
    return (digits[:point].lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def _fraction(found: re.Match[str]) -> str | None:
    """In lowest terms; None over zero."""
    over = _digits(found["over"]) or found["top"] or found["top_digit"]
    under = found["under"] or found["bottom"] or found["bottom_digit"]
    if over is None or under is None or not int(under):
        return None
    return str(Fraction(int(over), int(under)))


def last_boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{...}` or `\fbox{...}` of a LaTeX text, or behind `\boxed ` to the formula's end."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    begin = boxes[-1].end()
    if text[begin : begin + 1] != "{":
        return text[begin:].partition("$")[0].strip() or None
    depth = 0
    for brace in _BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[begin + 1 : brace.start()].strip() or None
    return None
