r"""Where in a text its final answer stands: behind `####`, behind "the answer is", in a `\boxed{}`, or anywhere.

Every search is linear in the text, whatever the text is.
"""

import dataclasses
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator

_HASHES = re.compile(r"#{4,}")
_PHRASE = re.compile(r"answer is|final answer(?: is)?", re.IGNORECASE | re.ASCII)
_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_DASHES = "\u2212\u2010\u2011\u2012\uff0d\ufe63"  # minus, hyphens, figure dash, full-width and small hyphen; no en dash
_CHARACTERS = {
    **dict.fromkeys(_DASHES, "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad", ""),  # nothing is to be seen of these
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u200a\u202f\u205f\u3000", "\u2009"),
    **dict.fromkeys("×⋅·∙∗", "*"),
    **dict.fromkeys("÷\u2044\u2215", "/"),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF0D},  # full-width ASCII
}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_NOT_ASCII = re.compile(rf"[{''.join(_RAISED)}]+|[^\x00-\x7f]")

_COMMANDS = {
    **dict.fromkeys(",;: ", "\u2009"),
    **dict.fromkeys(("!", "left", "right"), ""),
    **dict.fromkeys(("times", "cdot"), "*"),
    **dict.fromkeys(("pm", "mp"), "±"),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict(zip(("$", "%", "div", "pi", "sqrt"), "$%/π√", strict=True)),
}
_COMMAND = re.compile(r"\\([$%!,;: ]|(?:left|right|times|cdot|div|pm|mp|pi|sqrt|[dtc]frac)(?![A-Za-z]))", re.ASCII)

_DEGREE = re.compile(r"\^\s?(?:\\circ\b|\{\s?\\circ\s?\})")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_SENTENCE = re.compile(r"[.!?](?=\s)")
_ENDS = " \t.,;:!?*_`'\"$"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The part of a text in which its answer is looked for.

    Attributes:
        text: that part.
        marked: it stands behind a marker or in a box, so that its first number is meant, not its last.
        boxed: it is what a box holds.
        words: what is compared where numbers are not: the same part, or what stands behind a marker without number.
    """

    text: str
    marked: bool
    boxed: bool
    words: str


def plain(text: str) -> str:
    r"""Writes what Unicode and LaTeX spell in many ways in one way, so that one grammar reads them all.

    Digits of any script become ASCII; minus signs and hyphens "-", but en and em dashes stay; currency signs "$";
    superscripts "^{2}"; "½" "1/2", with a blank behind a digit; narrow and unbreakable blanks U+2009; `\times`, `\%`,
    `\dfrac` and the like "*", "%", `\frac`. What nobody sees goes.
    """
    if not text.isascii():
        text = _NOT_ASCII.sub(_plain_character, text)
    text = _DEGREE.sub("°", text.replace("{,}", ","))
    return _COMMAND.sub(lambda found: _COMMANDS[found[1]], text)


def _plain_character(found: re.Match) -> str:
    character = found[0]
    if character[0] in _RAISED:
        return f"^{{{''.join(_RAISED[c] for c in character)}}}"
    spelt = _spelling(character)
    mixed = len(spelt) > 1 and found.string[max(0, found.start() - 1) : found.start()].isdecimal()
    return f" {spelt}" if mixed else spelt


@functools.lru_cache(maxsize=4096)
def _spelling(character: str) -> str:
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    category = unicodedata.category(character)
    if category == "Sc":
        return "$"
    if category == "No" and "FRACTION" in unicodedata.name(character, ""):
        return unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    return character


def find_stretch(text: str) -> Stretch:
    r"""Finds where the final answer stands, first rule that applies:

    1. behind the last `####` that is followed by anything;
    2. behind the last "answer is" or "final answer" with a digit between it and the next one;
    3. everywhere.

    If that part holds a `\boxed{}` that is not empty, only what the last of them holds counts, up to its matching brace
    or, where it was cut off, the end.

    Args:
        text: as `plain` leaves it, or as it was written.
    """
    part, marked, words = text, False, text
    behind = _behind(_HASHES, text)
    filled = next((piece for piece in reversed(behind) if piece.strip()), None)
    if filled is not None:
        part, marked, words = filled, True, filled
    elif phrases := _behind(_PHRASE, text):
        words = next((piece for piece in reversed(phrases) if piece.strip(_ENDS + "\n")), text)
        part = next((piece for piece in reversed(phrases) if any(c.isdecimal() for c in piece)), text)
        marked = part is not text
    content = box(part)
    if content is not None:
        return Stretch(content, True, True, content)
    return Stretch(part, marked, False, words)


def _behind(marker: re.Pattern, text: str) -> list[str]:
    """What stands behind each occurrence of a marker, up to the next."""
    found = list(marker.finditer(text))
    ends = [*(match.start() for match in found), len(text)][1:]
    return [text[match.end() : end] for match, end in zip(found, ends, strict=True)]


def box(text: str) -> str | None:
    r"""What the last `\boxed{}` holds, or None where there is none or it is empty."""
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    begin, end, depth = openings[-1].end(), len(text), 1
    for place, change in _braces(text, begin):
        depth += change
        if depth == 0:
            end = place
            break
    return text[begin:end] if text[begin:end].strip() else None


def balanced(formula: str) -> bool:
    r"""Whether every brace has its partner; `\{` and `\}` are no braces."""
    depths = list(itertools.accumulate((change for _, change in _braces(formula, 0)), initial=0))
    return min(depths) == depths[-1] == 0


def _braces(text: str, begin: int) -> Iterator[tuple[int, int]]:
    """Where braces stand from `begin` on, each with 1 if it opens, -1 if it closes."""
    found = (match for match in _BRACE.finditer(text, begin) if match[0] in "{}")
    return ((match.start(), 1 if match[0] == "{" else -1) for match in found)


def spellings(words: str) -> set[str]:
    r"""How an answer in words may be put, for comparing: its first line, and the first sentence of that line.

    Case, blanks, `$`, emphasis, `\text{}` and punctuation at the ends do not count.
    """
    line = next((line for line in words.splitlines() if line.strip(_ENDS)), "")
    line = _WRAPPED.sub(r"\1", line)
    pieces = (line, _SENTENCE.split(line, maxsplit=1)[0])
    return {" ".join(piece.replace("$", " ").split()).strip(_ENDS).casefold() for piece in pieces} - {""}
