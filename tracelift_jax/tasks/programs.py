"""Finding the program in what an executor wrote, by reading alone: nothing of it is parsed or run.

| text                                     | program                  | because                                     |
|------------------------------------------|--------------------------|---------------------------------------------|
| prose, a fenced block, prose             | the block                | fences of ``` or ~~~, indented, quoted      |
| blocks for Python and for others         | of Python                | what another language's tag marks never is  |
| blocks without a tag                     | what looks like code     | if none is Python's; `5` alone is an output |
| several such blocks                      | see below                | drafts, usage, sessions at a prompt         |
| `x = 1`, behind it ``` without a tag     | what is above the fence  | the executor's prompt opened it             |
| a fence that nothing closes              | up to the end            | the token limit; a closed block goes first  |
| no fence; `<code>` `[PYTHON]` `[BEGIN]`  | up to the closing tag    | the last one that begins a line             |
| no fence, no tag                         | the first lines of code  | up to prose or a tag at their margin        |
| fences around other things alone         | such lines above them    | likewise                                    |
| `>>> x = 1` `... ` first                 | those, without prompts   | other lines are what was printed            |
| `<think>` prose `</think>` answer        | of the answer            | without `</think>` none                     |
| prose alone, nothing                     | none                     | "" is no program                            |

Of several blocks those count that define the entry point, if any does, or else that read standard input, if any does;
of these the closed ones that are no session, if any is; and of these the last: an answer ends in its final version.
Blocks are never joined. What a program is indented by as a whole is taken away.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.sandbox.program import Program

_PYTHON = frozenset({"python", "python3", "python2", "py", "py3", "pypy", "pypy3", "{.python}", "ipython"})
_SESSION = frozenset({"pycon", "python-repl", "python-console"})
_OTHER_TAGS = """
    asm bash bat c c# c++ cc console cpp cs csharp css csv diff go golang haskell html java javascript js json julia
    kotlin latex lua markdown math md mermaid ocaml output pascal perl php plain plaintext powershell pseudo
    pseudocode r ruby rust scala sh shell sql stdin stdout swift tex text toml ts txt typescript xml yaml yml
"""
_OTHERS = frozenset(_OTHER_TAGS.split())

_FENCE = re.compile(r"([ \t>]*)(?:[-*+] |\d{1,3}[.)] )?[ \t]*(`{3,}|~{3,})[ \t]*([^\s`~]*)[ \t]*(.*)")
_TAG = re.compile(
    r"^[ \t]*(?:<(code|python|program|solution|answer)>|\[(python|begin|code)\])", re.MULTILINE | re.IGNORECASE
)
_NAME = r"[A-Za-z_]\w*"
_TARGET = rf"{_NAME}(?:\.{_NAME})*(?:\[[^\]\n]{{0,80}}\])?"
_LINES_OF_CODE = (
    rf"(?:async )?def {_NAME} *\(",
    rf"class {_NAME} *[(:]",
    r"from [\w.]+ import ",
    r"import \w[\w.]*(?:(?:,| as )[\w., ]*)?(?:$|[;#])",
    rf"@{_NAME}",
    rf"assert |del |async |raise {_NAME}|(?:global|nonlocal) {_NAME}",
    r"(?:if|while|with|for|elif|match)[ (].*:(?:$| *#)",
    rf"(?:if|while|for) [^:]*: (?:{_TARGET} *[-+*/]?=|print\(|return\b)",
    r"(?:try|else):",
    r"(?:return|yield)(?:$| .*[^.]$)",
    r"(?:pass|break|continue)$",
    rf"\*?{_TARGET}(?:, ?\*?{_TARGET})*,? ?(?::[\w\[\], .]+)?(?:[-+*/%&|^@]|//|\*\*|>>|<<)?=(?!=)",
    rf"{_NAME}(?:\.{_NAME})*\(.*(?:[(),;\[{{]|\) *#.*)$",
    r"[rRbBuUfF]?(?:\"\"\"|''')",
    r">>> |#!",
)
_CODE = re.compile("|".join(_LINES_OF_CODE))
_PROSE = re.compile(
    r"(?:\*\*)?(?:[A-Z][a-z']+|I|A)(?: [\w'`][\w'`,/-]*){2}|(?:\*\*)?[A-Z][\w' -]{0,60}:(?:\*\*)?$|[A-Z][\w', -]*[.!?]$"
    r"|\d{1,3}[.)] [A-Z`*]|[-*] [A-Z`*]|\*\*[A-Z]|<[/|\w]|\[/|---+$|`|~~~"
)
_READS = re.compile(r"\binput\(|\bstdin\b|\bopen\(0|\bfileinput\b")
_DEFINES = re.compile(rf"(?:async )?def {_NAME} *\(")
_PRINTS = re.compile(r"(?:sys\.stdout\.write|print)\(")
_PROMPT = re.compile(r"[ \t]*(?:>>>|\.\.\.)(?: |$)")
_FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|[^\n(]*)[^\n]*\n", re.MULTILINE)
_LONGEST = 400  # characters of a line that say what kind of line it is


@dataclasses.dataclass(frozen=True)
class _Block:
    """A stretch of text between fences.

    Attributes:
        tag: what stands behind the opening fence, in lower case. lines: what is in it. closed: whether a fence ends it.
    """

    tag: str
    lines: tuple[str, ...]
    closed: bool

    @functools.cached_property
    def session(self) -> bool:
        """Whether it is a session at Python's prompt."""
        return self.tag in _SESSION or next(filter(str.strip, self.lines), "").lstrip().startswith(">>> ")

    @functools.cached_property
    def source(self) -> str:
        """The program, "" where there is none."""
        return _tidy(self.lines, self.session)


def find_program(text: str, entry_point: str = "") -> str:
    """The program in a text; see the module's docstring.

    Args:
        text: anything, of any length; takes time linear in that.
        entry_point: the function that is asked for; "" for a whole program.

    Returns:
        Its source, which ends in a line break; "" where there is none.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    _, thought, answer = text.rpartition("</think>")
    if not thought and text.lstrip().startswith("<think>"):
        return ""
    lines = answer.split("\n")
    blocks = tuple(_blocks(lines))
    if not blocks:
        return _tagged(answer) or _bare(lines)
    return _chosen(blocks, entry_point) or _bare(lines[: next(i for i, line in enumerate(lines) if _opening(line))])


def shows_program(text: str, entry_point: str = "") -> bool:
    """Whether a text that should say in words what a program does gives one.

    It does between fences or tags, by the table above; and without them where a line defines a function or the entry
    point, or, where a whole program is asked for, is one of code that reads or prints. Other lines that could be code,
    such as `total = a + b` or `for each item:`, are also how people write.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    blocks = tuple(_blocks(lines))
    if _chosen(blocks, entry_point) if blocks else _tagged(text):
        return True
    return any(_gives_code(line.strip()[:_LONGEST], entry_point) for line in lines)


def _gives_code(line: str, entry_point: str) -> bool:
    if _DEFINES.match(line):
        return True
    if entry_point:
        return bool(_definition(entry_point).match(line)) and ("lambda" in line or line.startswith("class"))
    return bool(_is_code(line) and (_PRINTS.match(line) or _READS.search(line)))


def program_of(text: str, tests: Tests) -> Program | None:
    """What a sandbox is to run for an answer; None where there is no program in it.

    Of a function the source begins with what the statement gives above it, imports and helpers, which executors leave
    out; where the answer does not define the function, it continues the statement's beginning.
    """
    source = find_program(text, tests.entry_point)
    return Program(whole_program(source, tests), tests.inputs, tests.checks) if source else None


def whole_program(source: str, tests: Tests) -> str:
    """A program as `find_program` gives it with what belongs before and behind it; see `program_of`."""
    if tests.prompt:
        definition = _definition(tests.entry_point)
        found = definition.search(tests.prompt)
        given = tests.prompt[: found.start()].strip("\n") if found else ""
        if not definition.search(source):
            body = ("    " + line if line.strip() else line for line in source.splitlines(keepends=True))
            source = f"{tests.prompt.rstrip()}\n{''.join(body)}"
        elif given:
            future = max((match.end() for match in _FUTURE.finditer(source)), default=0)  # these must come first
            source = f"{source[:future]}{given}\n\n{source[future:]}"
    return f"{source}\n{tests.harness.strip()}\n" if tests.harness else source


@functools.lru_cache(maxsize=4096)
def _definition(name: str) -> re.Pattern:
    """Finds where a program defines a name, at its margin."""
    name = re.escape(name)
    return re.compile(
        rf"^(?:(?:async )?def +{name} *\(|class +{name}\b|{name} *(?::[^=\n]{{1,200}})?=(?!=))", re.MULTILINE
    )


def _blocks(lines: list[str]) -> Iterator[_Block]:
    """The blocks between fences, in their order."""
    fence, tag, begun, any_before = None, "", [], False  # `fence` is the open one
    for number, line in enumerate(lines):
        if fence is None:
            opening = _opening(line)
            if opening is None:
                continue
            if not any_before and not opening[3] and not opening[4] and _begins_as_code(lines[:number]):
                yield _Block("", tuple(_bare(lines[:number]).split("\n")), True)
            else:
                tag, first = _tag_and_code(opening)
                if first.endswith(opening[2]):  # all in one line
                    yield _Block(tag, (first.removesuffix(opening[2]),), True)
                else:
                    fence, begun = opening, [first] if first else []
            any_before = True
            continue
        found = _FENCE.match(line) if fence[2][:3] in line else None
        if found and found[2].startswith(fence[2]) and not found[3]:
            yield _Block(tag, tuple(begun), True)
            fence = None
        elif found and found[2][0] == fence[2][0] and _known(found[3]):  # nothing closed the one before
            yield _Block(tag, tuple(begun), False)
            tag, first = _tag_and_code(found)
            fence, begun = found, [first] if first else []
        elif not found and fence[2][0] == "`" and line.rstrip().endswith("```") and line.count("```") % 2:
            yield _Block(tag, (*begun, line.rstrip().rstrip("`")), True)
            fence = None
        else:
            begun.append(line.removeprefix(fence[1]))
    if fence is not None:
        yield _Block(tag, tuple(begun), False)


def _known(tag: str) -> bool:
    return tag.lower() in _PYTHON | _SESSION | _OTHERS


def _opening(line: str) -> re.Match | None:
    """The fence that a line is, or that it ends in behind prose: "Here it is: ```python"."""
    if "```" not in line and "~~~" not in line:
        return None
    fence = _FENCE.match(line)
    place = line.rfind("```")
    if fence or not 0 <= place <= _LONGEST:
        return fence
    fence = _FENCE.match(line[place:])
    opens = fence and not fence[4] and (_known(fence[3]) or (not fence[3] and line[:place].rstrip().endswith(":")))
    return fence if opens else None


def _tag_and_code(fence: re.Match) -> tuple[str, str]:
    """What stands behind an opening fence: its tag, in lower case, and code that begins in the same line."""
    tag, rest = fence[3], fence[4].rstrip()
    if _known(tag):
        return tag.lower(), rest if _is_code(rest.removesuffix(fence[2])) else ""
    behind = f"{tag} {rest}" if rest and not rest.startswith(fence[2]) else tag + rest
    return ("", behind) if _is_code(behind.removesuffix(fence[2])) else (tag.lower(), "")


def _is_tag_line(line: str) -> bool:
    return line.strip().lower() in _PYTHON


def _is_code(line: str) -> bool:
    return bool(_CODE.match(line[:_LONGEST].rstrip()))


def _begins_as_code(lines: list[str]) -> bool:
    """Whether the lines above the first fence begin as a program does: the prompt has opened a block."""
    first = next((line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    return _is_code(first) or _is_tag_line(first)


def _chosen(blocks: tuple[_Block, ...], entry_point: str) -> str:
    """The source of the block that counts, "" where none can be it."""
    usable = [block for block in blocks if block.tag in _PYTHON | _SESSION and block.source]
    if not usable:
        plain = (block for block in blocks if block.tag not in _OTHERS)
        usable = [block for block in plain if any(_is_code(line.strip()) for line in block.source.split("\n"))]
    wanted = _definition(entry_point) if entry_point else _READS
    usable = [block for block in usable if wanted.search(block.source)] or usable
    usable = [block for block in usable if block.closed and not block.session] or usable
    return usable[-1].source if usable else ""


def _tagged(text: str) -> str:
    """The program behind the last tag that opens one."""
    tags = list(_TAG.finditer(text))
    if not tags:
        return ""
    last = tags[-1]
    closing = f"</{last[1]}>" if last[1] else "[DONE]" if last[2].lower() == "begin" else f"[/{last[2]}]"
    return _bare(re.split(re.escape(closing), text[last.end() :], maxsplit=1, flags=re.IGNORECASE)[0].split("\n"))


def _bare(lines: list[str]) -> str:
    """The program in text without fences: from its first line of code to the first of prose at the same margin."""
    named = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and _is_tag_line(lines[named]):  # a language's name: what follows the fence that the prompt opened
        lines = lines[named + 1 :]
    start = next((number for number, line in enumerate(lines) if _is_code(line.strip())), None)
    if start is None:
        return ""
    margin = _margin(lines[start])
    while start and lines[start - 1].startswith(margin + "#"):  # comments above it
        start -= 1
    session = lines[start].lstrip().startswith(">>> ")
    quote, end = "", start
    for line in lines[start:]:
        if line.strip() and not quote:
            prose = not session and _PROSE.match(line[len(margin) :][:_LONGEST].rstrip())
            if prose or not line.startswith(margin):
                break
        quote = _quote_behind(line, quote)
        end += 1
    return _tidy(tuple(lines[start:end]), session)


def _quote_behind(line: str, quote: str) -> str:
    """Which triple quote is open behind a line, before which `quote` was."""
    for mark in re.findall("\"\"\"|'''", line):
        if not quote:
            quote = mark
        elif quote == mark:
            quote = ""
    return quote


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _tidy(lines: tuple[str, ...], session: bool) -> str:
    """Source of lines: without prompts, common indentation and blank lines around."""
    kept = [line.lstrip()[4:] for line in lines if _PROMPT.match(line)] if session else list(lines)
    first = next((number for number, line in enumerate(kept) if line.strip()), None)
    if first is None:
        return ""
    margin = _margin(kept[first])
    return "\n".join(line.removeprefix(margin) for line in kept[first:]).rstrip() + "\n"
