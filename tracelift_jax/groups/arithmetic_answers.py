"""Sentences that say an answer which they do not derive: before the steps, or in place of them."""

import random
import re

from tracelift_jax.groups.arithmetic_worked import Worked, fraction_of

# Each leak and each bare answer is an opening and a clause, so that no sentence is the mark of its flaw.
_CLAUSES = (
    "the answer is {}",
    "the final answer is {}",
    "the answer to the question is {}",
    "the answer turns out to be {}",
    "the final result is {}",
    "what we are looking for is {}",
    "we end up with {}",
)
_BEFORE = (
    "",
    "first of all, ",
    "to begin with, ",
    "note first that ",
    "we already know that ",
    "as we will see, ",
    "before any calculation we can say that ",
    "it can be said at once that ",
    "the following steps will show that ",
)
_BETWEEN = (
    "note that ",
    "we can already see that ",
    "from here it is clear that ",
    "as will be seen, ",
    "keep in mind that ",
    "remember that ",
    "the remaining steps will show that ",
)
_ASIDE = ("remember that ", "so in the end ", "as we will see, ", "we know that ", "note that ", "and of course ")
_LEAD = (
    "knowing that {}, we can retrace the steps: ",
    "given that {}, we check it step by step: ",
    "to see why {}, we reason as follows: ",
    "since we know that {}, it remains to show how: ",
)
_INSTEAD = (
    "",
    "clearly, ",
    "in short, ",
    "as can be shown, ",
    "putting everything together, ",
    "without going into detail, ",
    "from the numbers given, ",
    "it is easy to see that ",
    "one finds that ",
    "after some calculation, ",
)
# Openings that fit before a sentence of the solution's own.
_BEFORE_SENTENCE = _INSTEAD[:6]
_SMALL = re.compile(r"(?:he|she|it|they|the|there|this|his|her|their|its|each|every|we) ", re.IGNORECASE)
_CONNECTIVE = re.compile(
    r"(?:so|thus|therefore|hence|then|now|finally|(?:this|that|which) means(?: that)?)\b,? +", re.IGNORECASE
)

_UNIT = re.compile(r"(?: [a-z]+){1,3}")
# "40 boys and girls" are not 40 boys, nor are "8 miles an hour" 8 miles.
_GOES_ON = re.compile(r",? (?:and|or|plus|per|an?|each|every)\b|[/-]")
_IRREGULAR = re.compile("people|children|men|women|feet|geese|mice|fish|sheep|percent|[ckm]m|kg|ft|lbs|mph")
_NO_UNIT = re.compile(
    r"an?|the|and|or|but|plus|minus|in|of|for|to|at|on|by|with|from|per|each|as|if|so|than|then|when|while|because|that"
    r"|who|which|he|she|it|they|we|you|i|is|was|has|does|makes|costs|gets|needs|this|its|his|us|yes|less|total"
)


def answer_with_unit(worked: Worked) -> str:
    """The answer as the trace writes it last, with the unit behind it where it is a plain plural: "14 inches"."""
    return worked.written_answer() + unit(worked)


def unit(worked: Worked) -> str:
    """What is counted, with a space before it; "" where that is not plain, and for money, shares and 1."""
    written = worked.written_answer()
    if not written[0].isdigit() or not written[-1].isdigit() or fraction_of(worked.answer) == 1:
        return ""
    last = worked.answer_quantity()
    ahead = next((e.ahead for e in worked.parsed.equations if e.result == last), None)
    number = ahead or last
    behind = worked.text[number.end :] if number else ""
    found = _UNIT.match(behind)
    words = found[0].split() if found else []
    for count, word in enumerate(words, 1):
        if _NO_UNIT.fullmatch(word):
            return ""
        if _IRREGULAR.fullmatch(word) or (word.endswith("s") and not word.endswith("ss")):
            name = " " + " ".join(words[:count])
            return "" if _GOES_ON.match(behind, len(name)) else name
    return ""


def bare_answer(said: str, rng: random.Random) -> str:
    """A sentence that says the answer alone."""
    return _sentence(rng.choice(_INSTEAD) + rng.choice(_CLAUSES).format(said) + ".")


def bare_sentence(sentence: str, rng: random.Random) -> str:
    """The solution's own last sentence, made the first."""
    text = _CONNECTIVE.sub("", sentence, count=1) if _CONNECTIVE.match(sentence) else sentence
    if _SMALL.match(text):
        text = rng.choice(_BEFORE_SENTENCE) + text[0].lower() + text[1:]
    return _sentence(text)


def leaked_answer(worked: Worked, rng: random.Random) -> tuple[str, tuple[int, int]]:
    """The trace with its answer told before it is derived, and where in it that stands.

    Before the first step or at its head; where the answer is derived later, also between steps or in parentheses.
    """
    text, steps = worked.text, worked.parsed.steps
    clause = rng.choice(_CLAUSES).format(answer_with_unit(worked))
    places = [e.start for e in worked.parsed.equations if e.result.value == fraction_of(worked.answer)]
    derived = worked.parsed.step_of(min([*places, worked.answer_place()]))
    way = rng.choice(("before", "head", "between", "aside") if derived else ("before", "head"))
    if way == "before":
        return _inserted(text, 0, _sentence(rng.choice(_BEFORE) + clause + "."), "\n" if "\n" in text else " ")
    if way == "head":
        return _inserted(text, 0, _sentence(rng.choice(_LEAD).format(clause)).rstrip(), " ")
    step = rng.randrange(derived)
    end, begin = steps[step][1], steps[step + 1][0]
    if way == "between":
        return _inserted(text, begin, _sentence(rng.choice(_BETWEEN) + clause + "."), text[end:begin])
    end -= text[end - 1] in ".!?:;,"
    changed, (start, stop) = _inserted(text, end, " (" + rng.choice(_ASIDE) + clause + ")", "")
    return changed, (start + 1, stop)


def _inserted(text: str, place: int, leak: str, gap: str) -> tuple[str, tuple[int, int]]:
    return text[:place] + leak + gap + text[place:], (place, place + len(leak))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
