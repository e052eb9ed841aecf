"""The examples in the statement of a programming problem, as tests.

| heading, whatever marks it (`#`, `**`, `-----`, a colon)     | what it begins                                  |
|--------------------------------------------------------------|-------------------------------------------------|
| `Sample Input 1` `Example Input` `Input example #2`          | the input of an example                         |
| `Example` `Examples` `Sample tests` `Sample 2`               | examples: plain `Input`, `Output` are theirs    |
| `Input` `Output` `InputCopy` before any of those             | no example: how input and output are laid out   |
| `Sample Output 1` `Output` `Output for the Sample Input`     | the output of the example begun last            |
| `Note` `Explanation 1` `Constraints` `Hint` `Scoring`, ...   | neither: what follows is no part of an example  |

Of a part with a fence only what is fenced counts. Behind a blank line a paragraph of prose ends an output: AtCoder
explains an example there. An example counts where both parts have text.
"""

import re

from tracelift_jax.tasks.oracle import OracleTest

_MARKS = " \t#*_-=:`."
_NUMBER = r"(?: ?#?(?:\d{1,3}|[A-Za-z]))?(?: ?copy)?"
_SAMPLE = r"(?:sample|example)s?"
_INPUT = re.compile(rf"{_SAMPLE} (?:test )?input{_NUMBER}|input (?:for )?(?:the )?{_SAMPLE}{_NUMBER}", re.IGNORECASE)
_OUTPUT = re.compile(
    rf"{_SAMPLE} (?:test )?output{_NUMBER}|output (?:for )?(?:the )?{_SAMPLE}(?: input)?{_NUMBER}", re.IGNORECASE
)
_PLAIN_INPUT = re.compile(rf"(?:standard )?input{_NUMBER}", re.IGNORECASE)
_PLAIN_OUTPUT = re.compile(rf"(?:(?:standard|expected) )?output{_NUMBER}", re.IGNORECASE)
_EXAMPLES = re.compile(rf"{_SAMPLE}(?: (?:tests?|cases?|test cases?|i/?o))?(?:\(s\))?{_NUMBER}", re.IGNORECASE)
_END = re.compile(
    rf"(?:{_SAMPLE} )?(?:notes?|explanations?|constraints?|hints?|scoring|subtasks?|source|limits?|tutorial)"
    rf"(?: (?:of|for|to) [\w ]{{1,40}})?{_NUMBER}",
    re.IGNORECASE,
)
_PROSE = re.compile(r"\n\n+(?=[A-Z][a-z']*,?(?: \S+){3})")
_FENCE = ("```", "~~~")
_LONGEST_HEADING = 60


def statement_examples(statement: str) -> tuple[OracleTest, ...]:
    """The examples of a statement as tests, in their order; see the module's docstring. They may be shown."""
    found: list[OracleTest] = []
    parts: dict[str, list[str]] = {"input": [], "output": []}
    part, among_examples, fenced = "", False, False

    def end() -> None:
        given, printed = _content(parts["input"]), _explained(_content(parts["output"]))
        if given and printed:
            found.append(OracleTest(given + "\n", printed + "\n", "statement", feedback=True))
        parts["input"], parts["output"] = [], []

    for line in statement.replace("\r\n", "\n").split("\n"):
        fenced = fenced != line.strip().startswith(_FENCE)
        heading = "" if fenced else _heading(line, among_examples)
        if not heading:
            if part:
                parts[part].append(line)
            continue
        if heading in ("input", "examples"):
            among_examples = True
            end()
        part = heading if heading in parts else ""
    end()
    return tuple(found)


def _heading(line: str, among_examples: bool) -> str:
    """What a line begins: "input", "output", "examples", "end"; "" where it is no heading that counts."""
    if len(line) > _LONGEST_HEADING:
        return ""
    title = " ".join(line.strip(_MARKS).split())
    if _INPUT.fullmatch(title) or (among_examples and _PLAIN_INPUT.fullmatch(title)):
        return "input"
    if _OUTPUT.fullmatch(title) or (among_examples and _PLAIN_OUTPUT.fullmatch(title)):
        return "output"
    if _EXAMPLES.fullmatch(title):
        return "examples"
    return "end" if _END.fullmatch(title) else ""


def _content(lines: list[str]) -> str:
    """The text of a part: what is fenced, or all of it, without blank lines around and blank ends of lines."""
    fences = [number for number, line in enumerate(lines) if line.strip().startswith(_FENCE)]
    if len(fences) >= 2:
        lines = lines[fences[0] + 1 : fences[1]]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _explained(output: str) -> str:
    """An output without the explanation behind it."""
    prose = _PROSE.search(output)
    return output[: prose.start()] if prose else output
