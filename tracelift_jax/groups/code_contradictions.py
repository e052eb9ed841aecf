"""A sentence that a later step of a plan adds, and that what was said before does not allow."""

import dataclasses
import re
from collections.abc import Iterator

from tracelift_jax.groups.arithmetic_rework import Edit
from tracelift_jax.groups.code_prose import Prose
from tracelift_jax.groups.code_words import ALGORITHMS, STEPS

_STRUCTURES = r"dictionary|hash ?map|hash ?table|stack|queue|min-heap|max-heap|heap|priority queue|set|deque"


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_ITEMS = r"(?:element|number|word|char\w*|item|value|letter|string|digit|pair|index|position|row|interval|coin|edge)\b"
_STRUCTURE = _re(r"\bthe (?P<name>stack|queue|heap|dictionary|hash map|set)\b")
_OTHER_STRUCTURES = ("stack", "queue", "heap", "dictionary", "linked list")
# Words beside which the same word may mean another thing each time.
_COMMON = frozenset({"than", "that", "this", "with", "from", "then", "when", "each", "every", "some", "only", "must"})
_COMMON_VERBS = frozenset({"have", "return", "print", "find", "take"})


@dataclasses.dataclass(frozen=True)
class Denial:
    """What a step says and what contradicts it.

    Attributes:
        said: what the step says. unless: what no sentence of the plan may say.
        sentences: each contradicts it; {name} is the group of `said`.
    """

    said: re.Pattern[str]
    sentences: tuple[str, ...]
    unless: re.Pattern[str] | None = None


def _denial(said: str, *sentences: str, unless: str = "") -> Denial:
    return Denial(_re(said), sentences, _re(unless) if unless else None)


DENIALS = (
    _denial(
        r"\bin (?:ascending|increasing|non-?decreasing) order\b",
        "At this point the elements are in descending order, so the largest one comes first.",
        "Since the order is descending, the values only get smaller from here on.",
        "The largest element is now at the front, and the others follow in descending order.",
        unless=r"descending|decreasing order",
    ),
    _denial(
        r"\bin (?:descending|decreasing|non-?increasing) order\b",
        "At this point the elements are in ascending order, so the smallest one comes first.",
        "Since the order is ascending, the values only get larger from here on.",
        "The smallest element is now at the front, and the others follow in ascending order.",
        unless=r"ascending|increasing order",
    ),
    _denial(
        r"(?:^|\b(?:we|then|first|so|and|to|must|can|by|after),? )(?:first )?sort(?:ing|ed)?\b",
        "Nothing is sorted at any point, so the elements keep their original order.",
        "Keep in mind that the elements are still in their original, unsorted order here.",
        "This works on the elements in the order in which they were given, without any sorting.",
        unless=r"\b(?:not|without|no need to|never|instead of) (?:be )?sort|unsorted",
    ),
    _denial(
        rf"\b(?:an?|the) (?:empty |single |min-?|max-?)?(?P<name>{_STRUCTURES})\b",
        "No {name} is used at any point; a single variable is all that is stored.",
        "There is no {name} in this solution, because nothing has to be remembered between the steps.",
        "Since no {name} is needed, the only thing kept in memory is one number.",
        unless=r"\bno (?:extra|additional|other) (?:memory|space|data)|constant (?:memory|space)",
    ),
    _denial(
        r"\bleft to right\b",
        "Note that the scan moves from right to left here.",
        "The last position is therefore the first one visited.",
        "Because we started at the right end, everything to the right is already known.",
        unless=r"right to left|backwards",
    ),
    _denial(
        r"\bright to left\b|\bbackwards\b",
        "Note that the scan moves from left to right here.",
        "The first position is visited before all the others.",
        "Because we started at the left end, everything to the left is already known.",
        unless=r"left to right|\bforwards?\b",
    ),
    _denial(
        r"\brecursi(?:ve|on)\b",
        "The function never calls itself.",
        "No recursion takes place; a single loop does all the work.",
        unless=r"\b(?:plain|na[iï]ve|avoid\w*|without) recurs",
    ),
    _denial(
        r"\bbreadth-first search\b|\bBFS\b",
        "The search always goes as deep as it can before it looks at another neighbour.",
        unless=r"depth-first|\bDFS\b",
    ),
    _denial(
        r"\bdepth-first search\b|\bDFS\b",
        "All vertices at one distance are visited before any vertex that is farther away.",
        unless=r"breadth-first|\bBFS\b",
    ),
    _denial(
        r"\bdynamic programming\b|\bmemoi[sz]|\bdp\[",
        "None of the smaller results is stored; each one is computed again whenever it is needed.",
        "No table is filled, since the value can be computed directly without looking at smaller cases.",
    ),
    _denial(
        r"\bgreed(?:y|ily)\b",
        "No choice is made greedily; all combinations are tried before one of them is taken.",
        "A choice made earlier may be taken back later, once more is known.",
    ),
    _denial(r"\bmin-?heap\b", "The root of this heap is always its largest element.", unless=r"\bmax-?heap"),
    _denial(r"\bmax-?heap\b", "The root of this heap is always its smallest element.", unless=r"\bmin-?heap"),
    _denial(
        r"\bbinary search\b",
        "Every candidate is checked one after another, and none of them is skipped.",
        "The candidates are tried in turn from the first to the last.",
    ),
    _denial(
        r"\btwo pointers\b|\bone pointer\b|\bone at the (?:start|beginning)",
        "A single index is enough for this; there is no second pointer.",
        "Only one pointer moves, and there is no other.",
    ),
    _denial(
        r"\bmark (?:it|them|the \w+(?: \w+)?) as visited\b|\bhas not been visited\b",
        "A place that was visited before may be entered again any number of times.",
    ),
    _denial(
        r"\b(?:modulo|mod) \$?(?:10|1e9|1_?0|998|M\b)",
        "The result is kept exact and is not reduced modulo anything.",
        "No remainder is ever taken, so the numbers grow freely.",
    ),
    _denial(
        r"\b(?:append|add)(?:ed|s)? [^.;]{1,60} to the (?:result|answer|output)(?: list| array| string)?\b",
        "Nothing is ever added to the result.",
        "The result stays empty from the beginning to the end.",
        unless=r"\b(?:total|sum|count|number) ",
    ),
    _denial(
        r"\bincrement(?:ed|s)? (?:the|a|its) (?:counter|count)\b|\bincrease (?:the|its) (?:counter|count)\b",
        "The count is never changed once it has been initialized.",
        "Nothing is counted along the way.",
    ),
    _denial(r"\breverse the\b", "Nothing is reversed along the way.", "The order is left as it was."),
    _denial(r"\bswap (?:the|it|them|two)\b", "No two elements ever change places."),
    _denial(
        r"\b(?:iterat|loop|travers|scan|walk|go|slid)(?:e|es|ing|s)? (?:over|through|across) "
        rf"|\bfor (?:each|every) {_ITEMS}",
        "There is no need to go through the elements one by one, because only the first one matters.",
        "Only the first element is ever looked at.",
        "No loop over the input is needed for this.",
    ),
    _denial(r"\bcompare\b", "No two elements are ever compared with each other.", "Nothing has to be compared here."),
)
_VALUE = r"(?P<value>`?(?:True|False|None|-1|0|1|an empty list)`?)"
_WHEN = r"(?P<when>\w[^.,;:]{2,60}?)"
_RETURNS = (
    _re(
        rf"\bif {_WHEN},? (?:then )?(?:we )?(?:(?:immediately|directly|just) )?(?:return|print|output) {_VALUE}"
        r"(?=[.,;]| |$)"
    ),
    _re(rf"\bif {_WHEN},? the (?:answer|result) is {_VALUE}(?=[.,;]|$)"),
    _re(rf"\b(?:return|print|output) {_VALUE} (?:if|when) {_WHEN}(?=[.,;]|$)"),
)
# A condition that cannot be told again in another place.
_BACK = _re(r"\b(?:it|its|they|them|their|this|that|these|those|such|neither|either|both|so|and|or|else)\b")
_OTHER = {"true": "False", "false": "True", "none": "0", "-1": "0", "0": "-1", "1": "0", "an empty list": "None"}
_STARTS = _re(
    r"\b(?:initiali[sz]e|set|start) (?P<name>(?:the |a |an )?(?!both)(?:\w+ )?[\w\[\]]+) (?:to|at|with|as|=) "
    r"(?P<value>0|1|-1)(?=[.,;]|$| and)"
)
_RETURN_FORMS = (
    "Recall that {value} is returned when {when}.",
    "As said above, when {when} the result is {value}.",
    "Note that {value} is the right result when {when}.",
)
_START_FORMS = (
    "Remember that {name} was set to {value} at the beginning.",
    "Note that {name} started with the value {value}.",
)
_OTHER_STARTS = {"0": "1", "1": "0", "-1": "0"}


def contradictions(prose: Prose) -> Iterator[list[Edit]]:
    """For everything that a plan says and that can be contradicted, the ways to do so behind it."""
    for index in prose.steps():
        for sentences in _against(prose, index):
            yield [edit for sentence in sentences for edit in _later(prose, index, sentence)]


def reversals(prose: Prose) -> Iterator[list[Edit]]:
    """Words said twice ("the running maximum"), turned into their opposite where they are said again."""
    for exchange in (*ALGORITHMS, *STEPS):
        yield [edit for edit in exchange.edits(prose) if edit.start < edit.end and _said_before(prose, edit)]
    for match in _STRUCTURE.finditer(prose.text):
        name = match["name"].lower()
        before = prose.text[: match.start()].lower()
        others = [other for other in _OTHER_STRUCTURES if other not in prose.text.lower() and other not in name]
        if re.search(rf"\ba(?:n empty)? (?:\w+ )?{name}\b[^.]*[.]", before):
            yield [prose.edit(*match.span("name"), other) for other in others]


def _against(prose: Prose, index: int) -> Iterator[list[str]]:
    """For everything that sentence `index` says, the sentences that contradict it."""
    said = prose.said(index)
    for denial in DENIALS:
        match = denial.said.search(said)
        if match and not (denial.unless and denial.unless.search(prose.text)):
            yield [sentence.format(**match.groupdict()) for sentence in denial.sentences]
    for pattern in _RETURNS:
        for match in pattern.finditer(said):
            if not _BACK.search(match["when"]):
                other = _OTHER[match["value"].strip("`").lower()]
                yield [form.format(value=other, when=match["when"]) for form in _RETURN_FORMS]
    for match in _STARTS.finditer(said):
        name = re.sub(r"^(?:an?|the) ", "the ", match["name"], flags=re.IGNORECASE)
        other = _OTHER_STARTS[match["value"]]
        yield [form.format(value=other, name=name) for form in _START_FORMS]


def _later(prose: Prose, index: int, sentence: str) -> Iterator[Edit]:
    """The places behind sentence `index` for another sentence: not right behind it, unless it is the last."""
    last = len(prose.spans) - 1
    for place in range(min(index + 1, last), last + 1):
        edit = prose.behind(place, sentence)
        if edit:
            yield edit


def _said_before(prose: Prose, edit: Edit) -> bool:
    """Whether an earlier sentence has the words that are changed beside the same word."""
    sentence = max((start for start, _ in prose.spans if start <= edit.start), default=0)
    earlier, old = prose.text[:sentence].lower(), prose.text[edit.start : edit.end].strip().lower()
    ahead = re.search(r"([\w-]+) *$", prose.text[: edit.start])
    behind = re.match(r" *([\w-]+)", prose.text[edit.end :])
    beside = [f"{ahead[1]} {old}" if ahead else "", f"{old} {behind[1]}" if behind else ""]
    words = [word[1] if word else "" for word in (ahead, behind)]
    return any(
        len(word) > 3
        and word.lower() not in _COMMON | _COMMON_VERBS
        and re.search(rf"\b{re.escape(both.lower())}\b", earlier)
        for word, both in zip(words, beside, strict=True)
    )
