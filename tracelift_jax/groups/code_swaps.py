"""Exchanges of words that make a step of a plan wrong, where they matter and where they read well."""

import dataclasses
import re
from collections.abc import Callable, Iterator

from tracelift_jax.groups.arithmetic_rework import Edit
from tracelift_jax.groups.code_prose import Prose, like

New = str | Callable[[re.Match[str]], str]


@dataclasses.dataclass(frozen=True)
class Swap:
    r"""An exchange of words.

    Attributes:
        old: what is replaced. new: by what: a template with \1 for groups, or a function of the match.
        unless: not in a sentence that holds this. beside: only in a sentence that holds this.
        needs: only where the plan or its problem holds this.
    """

    old: re.Pattern[str]
    new: New
    unless: re.Pattern[str] | None = None
    beside: re.Pattern[str] | None = None
    needs: re.Pattern[str] | None = None

    def edits(self, prose: Prose) -> Iterator[Edit]:
        """The exchange at every place in the steps of a plan."""
        if self.needs and not prose.holds(self.needs):
            return
        for index in prose.steps():
            if self.unless and self.unless.search(prose.together(index)):
                continue
            if self.beside and not self.beside.search(prose.said(index)):
                continue
            for match in self.old.finditer(prose.text, *prose.spans[index]):
                new = match.expand(self.new) if isinstance(self.new, str) else self.new(match)
                yield prose.edit(match.start(), match.end(), new)


def swap(old: str, new: New, unless: str = "", beside: str = "", needs: str = "") -> Swap:
    """A Swap of patterns as text, in which case does not matter; "" for none."""
    conditions = [re.compile(pattern, re.IGNORECASE) if pattern else None for pattern in (unless, beside, needs)]
    return Swap(re.compile(old, re.IGNORECASE), new, *conditions)


def pair(one: str, other: str, around: str = r"\b{}\b", unless: str = "", needs: str = "") -> tuple[Swap, Swap]:
    """Two words for each other, in the case they are written in, where a sentence has only one of them.

    Args:
        one: a word. other: its opposite. around: a pattern with {} for either. unless, needs: as in `Swap`.
    """

    def one_way(old: str, new: str) -> Swap:
        def write(match: re.Match[str]) -> str:
            begin, end = (place - match.start() for place in match.span("word"))
            return match.group()[:begin] + like(match["word"], new) + match.group()[end:]

        pattern = around.replace("{}", f"(?P<word>{re.escape(old)})")
        return swap(pattern, write, rf"\b{re.escape(new)}" + (f"|{unless}" if unless else ""), needs=needs)

    return one_way(one, other), one_way(other, one)
