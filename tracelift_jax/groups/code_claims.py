"""Claims of a plan about its running time and memory, and what would be too good to be true."""

import re
from collections.abc import Iterator

from tracelift_jax.groups.arithmetic_rework import Edit
from tracelift_jax.groups.code_prose import ASIDE, Prose
from tracelift_jax.groups.code_swaps import swap

_PARENTHESIZED = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"
CLAIM = re.compile(rf"(?:\\mathcal\{{O\}}|\\Theta|Θ|\bO) ?(?:\\left)?\((?P<inner>{_PARENTHESIZED}?)(?:\\right)?\)")
_VARIABLE = r"(?:[A-Za-z]_\w|\|?[A-Za-z]\d?\|?|len\(\w+\))"
_LOG = rf"\\?log(?:_?\{{?2\}}?)?(?: ?{_VARIABLE}|\({_VARIABLE}\))"
_TIMES = r" ?(?:\*|·|×|\\times|\\cdot) ?"
_SQUARE = r"(?:\^2|\^\{2\}|²|\*\*2)"


def _rule(pattern: str, *lower: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    for name, part in (("VAR", _VARIABLE), ("LOG", _LOG), ("TIMES", _TIMES), ("SQUARE", _SQUARE)):
        pattern = pattern.replace(name, part)
    return re.compile(pattern), lower


# What stands in O(...), and what is of a lower order whatever the values; "log" is written as the claim writes it. A
# higher order would be true too, as a bound.
_LOWER = (
    _rule(r"(LOG)", "1"),
    _rule(r"(VAR)", r"log \1", "1"),
    _rule(r"(VAR)(?: |TIMES)?(LOG)", r"\1", r"\2"),
    _rule(r"(VAR)SQUARE", r"\1", r"\1 log \1"),
    _rule(r"(VAR)SQUARE(?: |TIMES)?(LOG)", r"\1", r"\1 \2"),
    _rule(r"(VAR)(?:\^3|\^\{3\}|³|\*\*3)", r"\1", r"\1^2"),
    _rule(r"(VAR)(?: ?|TIMES)(VAR)", r"\1 + \2", r"\1"),
    _rule(r"(VAR)(?: ?|TIMES)(VAR)(?: |TIMES)(LOG)", r"\1 + \2", r"\1 \3"),
    _rule(r"(VAR) ?\+ ?(VAR)", r"log \1", "1"),
    _rule(r"\((VAR) ?\+ ?(VAR)\)(?: |TIMES)?(LOG)", r"\1 + \2", r"\3"),
    _rule(r"(VAR) ?\+ ?(VAR)(?: |TIMES)(LOG)", r"\1", r"\3"),
    _rule(r"(?:VARTIMES)?2(?:\^|\*\*)\{?(VAR)\}?(?:TIMESVAR)?", r"\1^2", r"\1"),
    _rule(r"(VAR)!", r"\1^2"),
    _rule(r"(?:\\?sqrt|√) ?[({]?(VAR)[)}]?", r"log \1", "1"),
    _rule(r"(VAR)(?: |TIMES)?(?:\\?sqrt|√) ?[({]?VAR[)}]?", r"\1"),
)
_WORDS = (
    swap(r"\blinear(?= time\b| in the\b)", "logarithmic", unless="space|memory"),
    swap(r"\blinear(?= time\b)", "constant", unless="space|memory|constant"),
    swap(r"\b(is|are) linear\b(?! [a-z])", r"\1 logarithmic", unless="space|memory"),
    swap(r"\bquadratic\b", "linear", unless="linear"),
    swap(r"\bcubic\b", "quadratic", unless="quadratic"),
    swap(r"\blogarithmic(?= time\b| in the\b)", "constant", unless="constant"),
    swap(r"\bexponential(?= time\b| in the\b)", "quadratic"),
    swap(r"\bproportional to(?= the (?:number|length|size)\b)", "independent of"),
)
_MEMORY_BEFORE = re.compile(r"\b(?:space|memory)\b", re.IGNORECASE)
_MEMORY_BEHIND = re.compile(r"\$? (?:extra |additional |auxiliary )?(?:space|memory)\b", re.IGNORECASE)
_KEPT = re.compile(r"dictionar|\bmap\b|\bset\b|stack|queue|heap|table|\bdp\b|array of|hash", re.IGNORECASE)
# A plan that looks at all of its input cannot take less time than that.
_FULL_PASS = re.compile(
    r"\b(?:iterat|loop|travers|scan|go|walk|run|slid)\w* (?:over|through|across) (?:the|each|every|all|\w+s)\b|\bsort"
    r"|\b(?:for|of) (?:each|every) (?:element|number|char|word|item|value|string|index|position|letter|cell|row|pair)"
    r"|\bcount (?:the|how)|\b(?:left to right|right to left)\b|\bevery (?:element|number|char|word|item|index|position)"
    r"|\bflatten|\b(?:check|compare)\w* (?:each|every)",
    re.IGNORECASE,
)
_TOO_GOOD = (
    "The whole procedure takes O(log n) time, where n is the size of the input.",
    "Overall this runs in O(1) time, whatever the size of the input.",
    "In total only O(log n) steps are needed for an input of size n.",
    "The running time is constant: it does not depend on the size of the input.",
)


def too_low(prose: Prose) -> Iterator[list[Edit]]:
    """For every claim, the ways to make it too low."""
    text = prose.text
    for start, end in prose.spans:
        begin = start
        for match in CLAIM.finditer(text, start, end):
            behind = _MEMORY_BEHIND.match(text, match.end())
            memory = behind or _MEMORY_BEFORE.search(text, begin, match.start())
            # A claim behind such words is about another way.
            if not ASIDE.search(text, start, match.start()) and (not memory or _KEPT.search(text)):
                formula = "\\" in match.group() or (text[: match.start()].endswith("$") and "log" not in match["inner"])
                lowered = _lowered(match["inner"].strip(), "\\log" if formula else "log")
                yield [Edit(*match.span("inner"), inner) for inner in lowered]
            begin = behind.end() if behind else match.end()
    yield from (list(word.edits(prose)) for word in _WORDS)


def too_good(prose: Prose) -> Iterator[list[Edit]]:
    """The claims to put at the end of a plan that makes none, though it looks at all of its input."""
    if not CLAIM.search(prose.text) and _FULL_PASS.search(prose.text):
        yield [prose.at_end(claim) for claim in _TOO_GOOD]


def _lowered(inner: str, log: str) -> list[str]:
    """Lower orders than `inner`, in its own letters; none where it is not understood."""
    for pattern, lower in _LOWER:
        match = pattern.fullmatch(inner)
        if match:
            return [re.sub(r"^log|(?<= )log", lambda _: log, match.expand(one)) for one in lower]
    return []
