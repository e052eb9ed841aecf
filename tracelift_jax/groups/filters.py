"""What a flawed trace must not be: empty, short, a copy, a placeholder, or, where that is asked for, code."""

import dataclasses
import re
from collections.abc import Collection

from tracelift_jax.groups.seeds import Seed

# Of characters: a shorter trace holds nothing to grade.
MIN_POSITIVE = 20
MIN_NEGATIVE = 12

FAULTS = {
    "empty": "is empty",
    "placeholder": "is not written out in full, or names its flaw",
    "too short": "is too short",
    "duplicate": "repeats the correct reasoning or another version",
    "leaks code": "contains code",
}
"""Why a flawed trace is not used, and how its writer is told."""

_PLACEHOLDER = re.compile(
    r"</?reasoning>|\blorem ipsum\b|\bplaceholder\b|^[ \t]*(?:\.{3,}|…)[ \t]*$"
    r"|[<\[{(](?:your|insert|flawed|the whole|same|rest|remaining|unchanged)\b[^>\]})\n]*[>\]})]"
    r"|\bsame as (?:above|before)\b|\brest of the (?:\w+ )?(?:is |are |remains? )?(?:unchanged|the same)\b"
    r"|\bas an ai\b|(?-i:\bTODO\b|\bTBD\b)",
    re.IGNORECASE | re.MULTILINE,
)
_CODE = re.compile(r"```|~~~|^[ \t]*(?:def \w|import \w|from \w[\w.]* import\b)", re.MULTILINE)
_MIN_PROGRAM_LINE = 10  # a shorter line of a program, such as `n = 3`, is also how people write


def plain(text: str) -> str:
    """`text` without what makes no difference to a reader: case and white space."""
    return " ".join(text.lower().split())


def is_placeholder(text: str, positive: str, kinds: Collection[str]) -> bool:
    """Whether `text` stands for a trace that was not written, or echoes the request: ours are named like `wrong_x`.

    What the positive holds too is no sign of it.
    """
    marks = {mark[0].lower() for mark in _PLACEHOLDER.finditer(text)}
    before = positive.lower()
    return not re.search(r"\w", text) or any(mark not in before for mark in marks) or any(k in text for k in kinds)


def leaks_code(text: str, seed: Seed) -> bool:
    """Whether a trace of a program has code in it: a fence, a definition, an import, a line of the seed's program."""
    if seed.rubric_name != "code":
        return False
    lines = {line.strip() for line in seed.reference.splitlines()}
    program = {line for line in lines if len(line) >= _MIN_PROGRAM_LINE and re.search(r"[=(\[:]", line)}
    return bool(_CODE.search(text)) or any(line.strip() in program for line in text.splitlines())


@dataclasses.dataclass(frozen=True)
class Filter:
    """What the flawed traces of one seed are held against.

    Attributes:
        seed: whose they are. positive: the trace that they are versions of.
        kinds: of flaws, whose names stand in no trace. drop_leaks: whether a trace with code in it is dropped.
    """

    seed: Seed
    positive: str
    kinds: tuple[str, ...]
    drop_leaks: bool

    def fault(self, text: str, others: Collection[str]) -> str:
        """Why a flawed trace is not used, one of FAULTS; "" where it is. `others` is what it must not repeat."""
        if not text.strip():
            return "empty"
        if is_placeholder(text, self.positive, self.kinds):
            return "placeholder"
        if len(text) < MIN_NEGATIVE:
            return "too short"
        if plain(text) in {plain(other) for other in (self.positive, *others)}:
            return "duplicate"
        return "leaks code" if self.drop_leaks and leaks_code(text, self.seed) else ""


def changed(positive: str, text: str) -> tuple[int, int]:
    """Where `text` differs from `positive`: from the first to the last word of it that is another; empty at a gap."""
    old, new = re.findall(r"\s+|\S+", positive), re.findall(r"\s+|\S+", text)
    most = min(len(old), len(new))
    head = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - head) if old[-1 - i] != new[-1 - i]), most - head)
    return sum(map(len, new[:head])), len(text) - sum(map(len, new[len(new) - tail :]))
