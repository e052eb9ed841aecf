"""Constraints and edge cases of a plan: leaving one out, or getting it wrong by one."""

import re
from collections.abc import Iterator

from tracelift_jax.groups.arithmetic_rework import Edit
from tracelift_jax.groups.code_claims import CLAIM
from tracelift_jax.groups.code_prose import Prose, like
from tracelift_jax.groups.code_swaps import swap

_MOST_WORDS = 32  # a sentence with more says other things too


def _re(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _places(prose: Prose) -> Iterator[int]:
    """The sentences that are about the plan itself; those that retell the problem may state its constraints."""
    return (index for index in range(len(prose.spans)) if not _ELSEWHERE.search(prose.said(index)))


_ELSEWHERE = _re(rf"\b(?:brute[- ]?force|example|complexity|linear time|running time)\b|{CLAIM.pattern}")

# --- Constraints -----------------------------------------------------------------------------------------------------

_CONSTRAINT = _re(
    r"\b(?:must(?: not)?|may not|not allowed|only once|in[- ]place|64-bit|overflow|(?:is|are) allowed|stay the same"
    r"|counted (?:too|once|separately)|case[- ]insensitive\w*|ignored?|inclusive|taken modulo"
    r"|(?:has|have) to be (?!tried|considered|checked|done))\b|\bmodulo \$?(?:10|1e9|1_?0|998|M\b)"
)
# A sentence that does something is a step of the plan, more than a constraint.
_DOES = _re(
    r"^(?:\w+, )?(?:so |then |next |finally |we |i )*(?:add|build|check|compare|compute|create|define|find|go|increment"
    r"|initialize|iterate|keep|let|loop|move|pop|print|push|read|remove|return|scan|slide|sort|start|take|traverse|use"
    r"|walk|for (?:each|every)|when|whenever|while|if|since|because|otherwise|else|therefore|thus|hence)\b"
    r"|\bso (?:that )?(?:we (?:sort|need|use|only|take|update)|only|update|sort|use|take)\b|\bnever has to\b"
    r"|\bremaining\b"
)
_ADJECTIVE = _re(
    r"\b(?:the|a|an|of|same|two|three|k|number of|contain|count|sum|smallest|largest|maximum|minimum|one|all) (?P<cut>"
    r"(?:distinct|unique|non-empty|unvisited|adjacent|consecutive|alphanumeric|non-overlapping|unused|matching|reachable)"
    r"(?= (?!and\b|or\b|is\b|are\b|if\b|in\b|from\b|by\b|to\b|of\b|than\b|only\b|because\b)[a-z])"
    r"|(?:prime|positive|negative|even|odd)(?= (?:numbers|elements|digits|values|integers|factors|indices)\b)"
    r"|(?:lowercase|uppercase)(?= (?:letter|char)))"
)
_NO_ADJECTIVE = _re(r"\bconvert|\bturn|\bno such|\bis (?:itself |also |then )?(?:a|an|the|not)\b")
_OPPOSITE = (("even", "odd"), ("positive", "negative"))
_REDUCTION = r"(?:10\^\{?9\}?|1e9|10\*\*9) ?\+ ?7|1_?000_?000_?007|998_?244_?353|M\b|MOD\b"
_PHRASES = tuple(
    _re(pattern)
    for pattern in (
        r"\b(?:return|print|output|report|take|compute|add|update|store)\b[^.;]*?"
        rf"(?P<cut>,? (?:modulo|mod) \$?(?:{_REDUCTION})\$?)",
        r"(?P<cut>,? (?:ignoring|disregarding) (?:the |its )?(?:letter )?case\b)",
        r"(?P<cut>,? case-insensitively\b)",
        r"(?P<cut>,? without (?:using|changing|modifying|reusing|repeating|counting) [^,.;:]+)",
        r"(?P<cut>,? except (?:for )?(?:the |those |that )[^,.;:]+)",
        r"(?P<cut>,? (?:excluding|not counting|not including|skipping) [^,.;:]+)(?=[.;]|, )",
        r"(?P<cut> \([^()]*\b(?:ignoring|inclusive|exclusive|at most|at least|distinct|non-negative|only)\b[^()]*\))",
        r"(?P<cut>,? (?:while )?keeping (?:the|their) [^,.;]*order[^,.;]*)",
        r"(?P<cut>,? in (?:the|their) (?:original|same|given) order\b)(?! as)",
        r"(?P<cut>,? with repetition\b)",
        r"(?P<cut>, (?:is|are|has|have|does|do) not [\w ]+?)(?= and (?:is|are|has|have|does|do|lies?)\b)",
        r"\b(?:that|which|if it)\b[^,.;]*?(?P<cut> and (?:(?:has|have|is|are) not(?: been)?) \w+)(?=[,.;])",
        r"(?P<cut>, (?:one|a|an|at least one) [a-z]+ (?:letter|digit|character|word|symbol))(?=,| and)",
        r"(?P<cut>,? (?:so|such) that (?:no|each|every|the same)\b[^.;]+)(?=[.;])",
    )
)
_MISREAD = (
    swap(r"\b(?:at most)(?= \w+)", lambda match: like(match[0], "at least"), unless="at least|times"),
    swap(r"\bat least(?= \w+)", lambda match: like(match[0], "at most"), unless="at most|times"),
    swap(
        r"\b((?:whose|if|when|only|must)\b[^,.;]{0,40} )exactly(?= (?:once|twice|one|two|three|k\b|\d))", r"\1at least"
    ),
    swap(r"\bonly once\b", "any number of times"),
    swap(r"\bmust not\b|\bmay not\b|\bare not allowed to\b", "may", unless=r"\bmay (?!not)"),
    swap(r"\bmust(?! not\b)(?= \w+)", "need not", unless=r"\bso\b|because|since|therefore"),
    swap(r"\bhas to be\b", "does not have to be", unless="only|never|tried|checked|considered"),
    swap(r"\bhave to be\b", "do not have to be", unless="only|never|tried|checked|considered"),
    swap(r"\b(is|are) allowed\b", r"\1 not allowed"),
    swap(r"\bnon-negative\b", "positive", unless="positive", beside=r"\b(?:if|only|must|keep|count)\b"),
    swap(r"\bstrictly (in|de)creasing\b", lambda match: f"non-{'de' if match[1].lower() == 'in' else 'in'}creasing"),
    swap(r"\binclusive\b", "exclusive", unless="exclusive"),
    swap(r"(?<= )(?:distinct|different) (?=positions|indices)", "equal "),
)
"""Constraints turned into others."""
_BOUND = _re(
    r"(?:\bup to|<=|≤|\\leq?\b|\bat most) \$?(?:\d+ ?(?:\*|·|\\cdot|\\times) ?)?"
    r"(?P<size>10\^\{?[4-9]\}?|1e[4-9]|10{4,9})(?!\d| ?\+)"
)


def constraints(prose: Prose) -> Iterator[list[Edit]]:
    """The constraints left out, one sentence or phrase after the other, and those misread."""
    for index in _places(prose):
        said, span = prose.said(index), prose.spans[index]
        if len(said.split()) <= _MOST_WORDS and _CONSTRAINT.search(said) and not _DOES.search(said):
            gone = prose.without_sentence(index)
            yield [gone] if gone else []
        if not _NO_ADJECTIVE.search(said) and not any(a in said and b in said for a, b in _OPPOSITE):
            yield [prose.without(*match.span("cut")) for match in _ADJECTIVE.finditer(prose.text, *span)]
        for phrase in _PHRASES:
            yield [prose.edit(*match.span("cut"), "") for match in phrase.finditer(prose.text, *span)]
    for misread in _MISREAD:
        yield [edit for edit in misread.edits(prose) if not _ELSEWHERE.search(_sentence_of(prose, edit))]
    for match in _BOUND.finditer(prose.text):
        size = match["size"]
        small = re.sub(r"(\^\{?|e)\d", r"\g<1>2", size) if "^" in size or "e" in size else "100"
        yield [Edit(*match.span("size"), small)]


def _sentence_of(prose: Prose, edit: Edit) -> str:
    return next((prose.text[a:b] for a, b in prose.spans if a <= edit.start <= b), "")


# --- Edge cases ------------------------------------------------------------------------------------------------------

_IF_NO = r"\b(?:if|when)(?: there (?:is|are)|there's)? no (?!need|longer|matter|extra|other|more|overlap)\w+"
_EDGE_WORDS = (
    r"(?:\bempty\b|\bnegative\b|\bnone\b|\bnull\b|\bonly (?:one|spaces)\b|\bfewer than\b"
    r"|\bsingle (?:element|character|number|node|word|item)|\bless than (?:[123]\b|two|three|one)"
    r"|\b(?:n|m|k|x|(?:the )?(?:length|size|input)) (?:is|==?|equals) (?:equal to )?(?:0|1|zero|one)\b|\bnot found\b"
    r"|\b(?:does not|doesn't) exist|\bnever reached|\b(?:cannot|can't) be reached|\bout of (?:range|bounds)"
    r"|\ball (?:the )?(?:elements|numbers|values|characters)\b[^.,]{0,25} are (?:equal|the same|negative|identical)"
    r"|\bdivision by zero|\bself[- ]loops?|\binside the previous|\bodd length|\btouching\b"
    r"|\bgreater than 1, the remaining)"
)
_EDGE = _re(
    r"(?:\b(?:if|when|for|in case|handle|an?|the|arrays?|lists?|strings?|numbers|inputs?|vertices|nodes)\b[^.]*?"
    rf"{_EDGE_WORDS}"
    rf"|{_IF_NO}|\b(?:base|edge|corner|special) cases?\b|^(?:touching|self)\b)"
)
# What an ordinary step may say with such words.
_NOT_EDGE = _re(
    r"\bis not empty\b|\bnot be empty|\bnon-empty\b|\bwhile\b|\bcreate an empty|\binitiali[sz]"
    r"|\bcurrent (?:element|number|char\w+|sum)"
    r"|\bwith an empty|\bstart\w* with|\bkeep\b|\bfor (?:each|every)\b|\bbecomes? negative|\bif it is (?:0|1)\b"
    r"|\bif no \w+[^.]*return `?(?:true|false)"
)
_CLAUSES = tuple(
    _re(pattern)
    for pattern in (
        r"(?P<cut>[,;]? (?:and |or |but )?(?:otherwise )?return(?:ing|s)? [^,.;]{1,25} (?:if|when) "
        rf"(?:[^.;,]*{_EDGE_WORDS}|no \w+)[^.;,]*)(?=[.;])",
        r"(?P<cut>,? (?:or|and) (?:only )?(?:-?\d+|None|False|True|an empty \w+) (?:if|when) [^.;,]+)(?=[.;])",
        r"(?P<cut>[;,] (?:otherwise|else),? (?:we )?(?:return|print|output)s? (?:-1|None|0|an empty \w+))(?=[.;])",
        r"(?P<cut> \((?:or|unless|if|except)\b[^()]*\))",
        r"(?P<cut>, unless [^.;,]+)(?=[.;,])",
        r"\bis empty(?P<cut> or [^,.;]+)(?=,)",
    )
)
_WHOLE = r"(?:n|N|m|k|len\(\w+\))"
_OFF_BY_ONE = (
    swap(rf"\bfrom (\$?(?:\d|[a-z]|\w \+ 1)\$?) to (\$?)({_WHOLE})(\$?)(?! ?[-+*/])\b", r"from \1 to \2\3 - 1\4"),
    swap(rf"\bto (\$?{_WHOLE} ?- ?)1\b", r"to \g<1>2"),
    swap(r"\bto (len\(\w+\) - len\(\w+\))(?! ?[-+])", r"to \1 - 1"),
    swap(r"\b(\w+ ?- ?\w+) ?\+ ?1\b(?=[^\]]*(?:window|position|start|index|indices|substring))", r"\1"),
    swap(r"\bup to and including\b", "up to but not including"),
    swap(r"\b(less|greater|smaller|larger) than or equal to\b", lambda match: f"{match[1]} than"),
    swap(r"\b(is|are) at most\b", r"\1 less than", beside=r"\b(?:if|while|when|until|whose)\b"),
    swap(r"\b(is|are) at least\b", r"\1 greater than", beside=r"\b(?:if|while|when|until|whose)\b"),
    swap(r"(?<=[\w)\]] )([<>])=(?= (?!\d))", r"\1", beside=r"\b(?:if|while|when|until|whose|with)\b"),
    swap(r"(?<=[\w)\]}] )(?:\\leq?\b|≤)(?! ?\$?\d)", "<", beside=r"\b(?:if|while|when|until|whose|with)\b"),
    swap(r"(?<=[\w)\]}] )(?:\\geq?\b|≥)(?! ?\$?\d)", ">", beside=r"\b(?:if|while|when|until|whose|with)\b"),
    swap(r"\[(\w), ?([a-z]\w*)\)", r"[\1, \2 - 1)"),
    swap(r"\b(first|last) (\$?)k(\$?) (elements|characters|items|numbers|digits|words)\b", r"\1 \2k - 1\3 \4"),
    swap(r"\bfrom the second\b", "from the third"),
    swap(r"\bfrom index (\d)\b", lambda match: f"from index {int(match[1]) + 1}"),
    swap(r"\bfrom (\$?\w) ?\+ ?1\b", r"from \1"),
    swap(r"\b(of (?:length|size) \$?\w+) ?\+ ?1\b", r"\1"),
    swap(r"\bstrictly (less|greater|smaller|larger) than\b", r"\1 than or equal to"),
    swap(r"\bexceeds\b", "reaches", beside=r"\b(?:if|while|when|until)\b"),
    swap(r"\bmore than (?=k\b|two\b|one\b|\d)", "at least ", beside=r"\b(?:if|while|when|until|whose)\b"),
    swap(r"\bnot earlier than\b", "later than"),
    swap(r"\bnot later than\b", "earlier than"),
    swap(r"\bno(?:t)? (?:greater|larger) than\b", "less than"),
    swap(r"\bno(?:t)? (?:less|smaller) than\b", "greater than"),
    swap(r"\bwith (?:the first element|-?infinity|minus infinity|negative infinity)\b", "with 0", needs="negative"),
)
"""Boundaries moved by one, so that what lies on them is missed."""


def edge_cases(prose: Prose) -> Iterator[list[Edit]]:
    """The edge cases left out, one sentence or clause after the other, and those missed by one."""
    for index in _places(prose):
        said, span = prose.said(index), prose.spans[index]
        if _EDGE.search(said) and not _NOT_EDGE.search(said) and len(said.split()) <= _MOST_WORDS:
            gone = prose.without_sentence(index)
            yield [gone] if gone else []
        for clause in _CLAUSES:
            yield [prose.edit(*match.span("cut"), "") for match in clause.finditer(prose.text, *span)]
    for moved in _OFF_BY_ONE:
        yield [edit for edit in moved.edits(prose) if not _ELSEWHERE.search(_sentence_of(prose, edit))]
