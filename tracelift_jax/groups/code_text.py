"""A program's solution as its source has it: reasoning, then the program, maybe then an explanation.

cut("Sort first.\\n\\n```python\\nprint(1)\\n```\\nIt prints.")   ("Sort first.", "print(1)\\n")
"""

import json
import re
from typing import Any

from tracelift_jax.errors import UserError
from tracelift_jax.groups.arithmetic_rework import Edit, apply

_FENCE = re.compile(r"^[ \t]*(```|~~~)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# A line that only says that the program follows, or that says so before the program begins.
_CODE_WORD = r"(?:solution|code|implementation|program|source)"
_HEADING = re.compile(
    rf"^[ \t#*_]*(?:(?:the|my|our|final|full|complete|reference|python ?3?|sample)[ ])*{_CODE_WORD}(?:[ ]code)?"
    r"(?:[ ]\(?(?:in[ ])?python ?3?\)?)?[ \t*_]*:?[ \t*_]*",
    re.MULTILINE | re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"^[ \t#*_]*(?:(?:code|the|detailed|an|line-by-line)[ ])*explanation(?:[ ]of[ ][\w ]{1,30})?[ \t*_]*(?::|$)",
    re.MULTILINE | re.IGNORECASE,
)
# How a line of a program begins that is no line of prose, and how one may begin just above such a line.
_CODE = re.compile(
    r"(?:async[ ])?def[ ]\w+\(|class[ ]\w+[(:]|import[ ][\w.]+(?:[ ]as[ ]\w+)?(?:,[ ]*[\w.]+)*[ \t]*$"
    r"|from[ ][\w.]+[ ]import[ ]|if[ ]__name__|\#include[ ]*[<\"]|using[ ]namespace[ ]|@\w+[\w.]*(?:\(.*\))?[ \t]*$"
    r"|[A-Za-z_][\w, ]*=[^=\n]*\b(?:input\(|sys\.stdin)|(?:print|main|solve)\([^\n]*\)[ \t]*$"
    r"|for[ ][\w, ]+[ ]in[ ][^\n]*:[ \t]*$|while[ ][^\n]*:[ \t]*$|public[ ](?:static|class)[ ]|int[ ]main\(",
    re.MULTILINE,
)
_CODE_LINE = re.compile(rf"^[ \t]*(?:{_CODE.pattern})", re.MULTILINE)
_ABOVE = re.compile(r"(?:^[ \t]*(?:[A-Za-z_][\w\[\], ]*=(?!=)[^\n]*[^.\s]|#[^\n]*)?[ \t]*\n)+\Z", re.MULTILINE)
# What leads to a program that is cut: "Here is the code:", "### Python3", "Implementation".
_LEAD = re.compile(
    rf"(?:(?<=[.!?\n])|\A)[ \t]*(?:[^\n.!?:]*\b(?:{_CODE_WORD}s?|implement(?:ed|s)?|python)\b[^\n.!?:]*:"
    rf"|(?:here[ ]is|below[ ]is)[^\n.!?:]*\b{_CODE_WORD}\b[^\n.!?:]*[.]"
    rf"|[^\n.!?:]*\b{_CODE_WORD}[ ]is[ ](?:below|as[ ]follows)[.]"
    rf"|#[^\n]*|\*\*[^*\n]+\*\*:?|{_CODE_WORD}|python ?3?)[ \t]*\Z",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """The text with white space in order: single spaces, no blank ends of lines, one blank line at most in a row."""
    text = re.sub(r"\r\n?", "\n", text).replace("\u00a0", " ")
    text = re.sub(r"(?<=\S)[ \t]+", " ", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def cut(solution: str, code: str = "") -> tuple[str, str]:
    """Parts the reasoning from the program.

    The reasoning ends where the program begins: at `code` if it is given and stands there, at a fence, at a heading
    such as "Solution:" with a program behind it, at the first line of bare code; or at an explanation.

    Args:
        solution: the whole. code: the program where it is known.

    Returns:
        The reasoning with its white space in order, and the program, "" if there is none.
    """
    text = re.sub(r"\r\n?", "\n", solution)
    known = re.sub(r"\r\n?", "\n", code).strip("\n")
    # A text may open with "Explanation:"; what it explains is then the plan itself.
    opening = re.match(rf"\s*{_EXPLANATION.pattern}", text, _EXPLANATION.flags)
    start = opening.end() if opening else 0
    ends = {match.start(): "" for match in _EXPLANATION.finditer(text, start) if match.start() > start}
    if known and known in text[start:]:
        ends[text.index(known, start)] = known
    ends |= _programs(text, start)
    end = min(ends, default=len(text))
    program = known or next((ends[place] for place in sorted(ends) if ends[place]), "")
    return _without_lead(clean(text[start:end]), bool(program)), program and program + "\n"


def _programs(text: str, start: int) -> dict[int, str]:
    """Where programs begin behind `start`, and what they are; the fenced blocks share the longest of theirs."""
    fences = [fence for fence in _FENCE.finditer(text) if fence.start() >= start]
    fenced = max((fence[3].strip("\n") for fence in fences), key=len, default="")
    found = {fence.start(): fenced for fence in fences}
    for heading in _HEADING.finditer(text, start):
        behind = re.compile(r"\s*").match(text, heading.end())
        if behind and _CODE.match(text, behind.end()):
            found[heading.start()] = _bare(text, behind.end())
    bare = _CODE_LINE.search(text, start)
    if bare and not fences:
        above = _ABOVE.search(text, start, bare.start())
        place = above.start() if above else bare.start()
        found.setdefault(place, _bare(text, place))  # a heading may stand there, which is no comment
    elif bare:
        found[bare.start()] = fenced
    return found


def _bare(text: str, start: int) -> str:
    """The program without a fence that begins at `start`: up to an explanation."""
    explanation = _EXPLANATION.search(text, start)
    return text[start : explanation.start() if explanation else len(text)].strip("\n")


def _without_lead(text: str, has_program: bool) -> str:
    """The text without what only leads to the program, which is gone."""
    while has_program and (lead := _LEAD.search(text)) and lead.group().strip():
        text = apply(text, (Edit(lead.start(), len(text), ""),)).rstrip()
    return text


def tests_text(tests: Any, where: str) -> str:
    """What a reader may know of a program's tests.

    Args:
        tests: text; a list of texts such as asserts; or a list of {"input", "output"}, text or other JSON.
        where: the place to name in an error, for example "seeds.jsonl:3".

    Raises:
        UserError: it is something else.
    """
    if isinstance(tests, str):
        return tests.strip()
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        return "\n".join(test.strip() for test in tests)
    if isinstance(tests, list) and all(isinstance(test, dict) and test.keys() >= {"input", "output"} for test in tests):
        return "\n\n".join(f"Input:\n{_shown(test['input'])}\nOutput:\n{_shown(test['output'])}" for test in tests)
    raise UserError(f'{where}: "tests" must be text, a list of texts, or a list of {{"input", "output"}}')


def _shown(value: Any) -> str:
    return value.strip("\n") if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
