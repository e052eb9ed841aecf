"""A plan in prose: its sentences, and edits to it that leave it good English."""

import dataclasses
import re
from collections.abc import Iterator

from tracelift_jax.groups.arithmetic_rework import Edit

# A sentence ends before a capital, a digit or a formula, but not at an abbreviation.
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bFig)[.!?][)\"'*]*(?=\s+[\"'(`$*\[]?[A-Z0-9\\$`(\[-])"
)
_MARKER = re.compile(
    r"[ \t]*(?:[-*+•][ \t]+|\(?\d+[.)][ \t]+|step[ ]\d+[:.)][ \t]+)?(?:\*\*[^*\n]+\*\*[:.]?[ \t]+)?", re.IGNORECASE
)
_NUMBERED = re.compile(r"[ \t]*(?:\(?(\d+)[.)]|step[ ](\d+)[:.)])[ \t]", re.IGNORECASE)
_HEADING = re.compile(r"[ \t]*(?:#.*|\*\*[^*\n]+\*\*:?|\w+(?:[ ]\w+){0,3}:)[ \t]*")
# Sentences that only retell the problem, or that speak of what is not done: a change to them need not be wrong.
_RETOLD = re.compile(
    r"(?:we are given|you are given|given |the (?:key|task|problem|goal|question|statement)\b|our (?:task|goal)"
    r"|(?:we|i) (?:want|need|have|are asked|are looking|look) "
    r"(?:to (?:find|count|compute|determine|check|return)|the|for)\b"
    r"|let me (?:think|see|check|consider))",
    re.IGNORECASE,
)
ASIDE = re.compile(
    r"\b(?:instead of|rather than|unlike|na[iï]ve(?:ly)?|brute[- ]?force|too (?:slow|large|long)|alternativ\w+|example"
    r"|e\.g|such as|would|could|cannot|can't|no need|not necessary|unnecessary|avoids?|equivalently|in other words"
    r"|another (?:way|approach|solution))\b",
    re.IGNORECASE,
)
# How a sentence begins that hangs on the one before.
LEANS = re.compile(
    r"(?:otherwise|else|but|however|in (?:that|this|such|either|both)\b|this|that|these|those|it|its|they|their|so|thus"
    r"|hence|therefore|equivalently|similarly|conversely|if (?:not|either|both|neither)|instead|likewise"
    r"|because of (?:this|that)|(?:for |in )?(?:every|each|any|all) such)\b",
    re.IGNORECASE,
)
# The same where it can be taken away with the one before, and whether that must be a condition.
_OTHERWISE = re.compile(
    r"(?:((?:otherwise|else|if not|in (?:all|the) other cases?)\b)|for (?:the rest|larger \w+)\b),? *", re.IGNORECASE
)
_CONDITION = re.compile(r"(?:\w+[ ]?\w*: )?(?:if|when|for|in case)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(an?)( +[`$\"'(]*)$", re.IGNORECASE)
_VOWEL = re.compile(r"(?!uni|us[eiu]|ubi|eu|one\b|once\b)[aeiou]|hour|hon|heir|[fhlmnrsx]\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Prose:
    """A plan and its sentences.

    Attributes:
        text: the plan. problem: the statement it is for.
        spans: where each sentence lies, without the marker of a list and without headings.
    """

    text: str
    problem: str
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, text: str, problem: str) -> "Prose":
        """Finds the sentences of a clean text."""
        spans, begin = [], 0
        for line in text.split("\n"):
            if line.strip() and not _HEADING.fullmatch(line):
                marker = _MARKER.match(line)
                places = [marker.end() if marker else 0]
                for end in _END.finditer(line, places[0]):
                    behind = len(line) - len(line[end.end() :].lstrip())
                    places += [end.end(), behind]
                places.append(len(line))
                spans += [(begin + a, begin + b) for a, b in zip(places[::2], places[1::2], strict=True) if a < b]
            begin += len(line) + 1
        return cls(text, problem, tuple(spans))

    def said(self, index: int) -> str:
        """Sentence `index`; "" where there is none."""
        return self.text[slice(*self.spans[index])] if 0 <= index < len(self.spans) else ""

    def steps(self) -> Iterator[int]:
        """The sentences that tell what to do or why it works: they do not retell the problem or speak of other ways."""
        for index in range(len(self.spans)):
            if not _RETOLD.match(self.said(index)) and not ASIDE.search(self.said(index)):
                yield index

    def holds(self, pattern: re.Pattern[str]) -> bool:
        """Whether the plan or the problem has a place for `pattern`."""
        return bool(pattern.search(self.text) or pattern.search(self.problem))

    def together(self, index: int) -> str:
        """Sentence `index`, with the next one if that begins with "Otherwise"."""
        following = self.said(index + 1)
        return self.said(index) + (" " + following if _OTHERWISE.match(following) else "")

    def edit(self, start: int, end: int, new: str) -> Edit:
        """Puts `new` in place of what stands from `start` to `end`: the shortest edit of whole words that does.

        At the beginning of a sentence `new` is capitalized as the old words were, and "a" or "an" before it follows.
        """
        old = self.text[start:end]
        if any(start == begin for begin, _ in self.spans) and old[:1].isupper():
            new = new[:1].upper() + new[1:]
        ahead, behind = _common(old, new)
        start, end, new = start + ahead, end - behind, new[ahead : len(new) - behind]
        rest = new + self.text[end : end + 12]
        article = _ARTICLE.search(self.text, max(0, start - 6), start)
        if article and rest.strip() and sounds_like_vowel(rest) != sounds_like_vowel(self.text[start : start + 12]):
            other = article[1][0] + ("n" if len(article[1]) == 1 else "")
            return Edit(article.start(), end, other + article[2] + new)
        return Edit(start, end, new)

    def without(self, start: int, end: int) -> Edit:
        """Takes out words within a sentence, with one of the spaces around them."""
        text = self.text
        if text[end : end + 1] == " " and (start == 0 or text[start - 1] in " \n"):
            end += 1
        elif start > 0 and text[start - 1] == " ":
            start -= 1
        if any(start == begin for begin, _ in self.spans) and end < len(text):
            return Edit(start, end + 1, text[end].upper())
        return self.edit(start, end, "")

    def without_sentence(self, index: int) -> Edit | None:
        """Takes out a whole sentence; None where the text would not read well without it.

        "Otherwise," at the beginning of the next sentence goes too.
        """
        start, end = self.spans[index]
        text = self.text
        line_start, line_end = self._line(start)
        following = self.spans[index + 1] if index + 1 < len(self.spans) else None
        lean = _OTHERWISE.match(text, following[0], following[1]) if following else None
        if following and not lean and LEANS.match(text, following[0], following[1]):
            return None
        if lean and lean[1] and not _CONDITION.match(text, start, end):
            return None
        first = index == 0 or self.spans[index - 1][0] < line_start
        if following and following[0] < line_end:  # more of the line follows
            until = lean.end() if lean else following[0]
            return Edit(start, until + 1, text[until].upper()) if lean else Edit(start, until, "")
        if lean:
            return None
        if not first:
            return Edit(self.spans[index - 1][1], end, "")
        return self._without_line(line_start, line_end)

    def behind(self, index: int, new: str) -> Edit | None:
        """Says `new` behind sentence `index`, in the manner of its line; None where that would not read well.

        The edit's text begins with the white space between the two.
        """
        _, end = self.spans[index]
        if LEANS.match(self.said(index + 1)) or self.said(index).endswith(":"):
            return None
        if re.search(r"[.!?][)\"'*`]*$", self.said(index)):
            return Edit(end, end, f" {new}")
        line_start, line_end = self._line(end - 1)
        bullet = re.match(r"[ \t]*[-*+•][ \t]+", self.text[line_start:line_end])
        if bullet and end == line_end:
            return Edit(end, end, f"\n{bullet.group()}{new.rstrip('.')}")
        return Edit(end, end, f"\n\n{new}") if end == len(self.text) else None

    def at_end(self, new: str) -> Edit:
        """Says `new` at the end: behind the last sentence, or below a list."""
        end = len(self.text)
        last = self.text[self._line(end)[0] :]
        flows = self.spans and self.spans[-1][1] == end and re.search(r"[.!?][)\"'*`]*$", last)
        marker = _MARKER.match(last)
        return Edit(end, end, (" " if flows and marker and not marker.group() else "\n\n") + new)

    def _line(self, place: int) -> tuple[int, int]:
        end = self.text.find("\n", place)
        return self.text.rfind("\n", 0, place) + 1, len(self.text) if end < 0 else end

    def _without_line(self, start: int, end: int) -> Edit | None:
        """Takes out a line; None where it is a number of a list that goes on, or all there is under a heading."""
        before, after = self.text[:start].rstrip(), self.text[end:].lstrip("\n")
        if _NUMBERED.match(self.text[start:end]) and _NUMBERED.match(after):
            return None
        if not before:
            return Edit(0, len(self.text) - len(after), "") if after else None
        above = before[before.rfind("\n") + 1 :]
        if above.endswith(":") or _HEADING.fullmatch(above):
            return None
        return Edit(len(before), end, "")


def sounds_like_vowel(words: str) -> bool:
    """Whether "an" stands before `words`, which may open with a formula."""
    return bool(_VOWEL.match(words.lstrip("`$*\"'( ")))


def like(old: str, new: str) -> str:
    """`new` in the case of `old`: TRUE, True or true."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def _common(old: str, new: str) -> tuple[int, int]:
    """How many characters two texts share at their beginning and at their end, in whole words."""
    ahead = _shared(old, new)
    while _inside_word(old, ahead) or _inside_word(new, ahead):
        ahead -= 1
    behind = _shared(old[ahead:][::-1], new[ahead:][::-1])
    while _inside_word(old, len(old) - behind) or _inside_word(new, len(new) - behind):
        behind -= 1
    return ahead, behind


def _shared(one: str, other: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _inside_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and bool(re.fullmatch(r"[\w'-]{2}", text[place - 1 : place + 1]))
