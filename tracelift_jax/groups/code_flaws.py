"""Flawed versions of a program's plan: one localized flaw of a named kind, and the rubric it deserves.

For "Sort the numbers in ascending order. If the list is empty, return 0. Then push each number onto the stack while it
is at least k. This takes O(n log n) time." a flaw of each kind:

    wrong_algorithm            Sort the numbers in descending order. ...
    missed_constraint          ... while it is at most k. ...
    missed_edge_case           Sort the numbers in ascending order. Then push each number ...
    wrong_complexity           ... This takes O(log n) time.
    wrong_data_structure_step  ... Then pop each number from the stack while ...
    contradictory_step         ... is at least k. Recall that -1 is returned when the list is empty. This takes ...
    code_dumped                the program, instead of the plan or of all but its first sentence

Outside its place a flawed trace is the positive one, letter by letter. A kind without a place in a plan is not made.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Mapping

from tracelift_jax.groups.arithmetic_rework import Edit, apply
from tracelift_jax.groups.arithmetic_worked import shuffled
from tracelift_jax.groups.code_claims import too_good, too_low
from tracelift_jax.groups.code_contradictions import contradictions, reversals
from tracelift_jax.groups.code_missed import constraints, edge_cases
from tracelift_jax.groups.code_prose import Prose
from tracelift_jax.groups.code_swaps import Swap
from tracelift_jax.groups.code_text import cut
from tracelift_jax.groups.code_words import ALGORITHMS, DATA_STRUCTURES, STEPS
from tracelift_jax.groups.engine import Engine
from tracelift_jax.groups.schema import MAX_LABEL, Rubric, Trace
from tracelift_jax.groups.seeds import Seed

Labels = tuple[int, int, int, int, int]

# What a trace's total keeps of its mean label when a program written after it would be wrong.
FAILING_PLAN_FACTOR = 0.7


@dataclasses.dataclass(frozen=True)
class Severity:
    """The labels of a kind of flaw: task understanding, plan, coherence, action support, non-leakage.

    Attributes:
        early: where the flaw lies in the first half of the text, so that more is built on it. late: elsewhere.
        fails: whether a program written after the plan would be wrong.
    """

    early: Labels
    late: Labels
    fails: bool

    def rubric(self, early: bool) -> Rubric:
        """The labels, and as total their mean, times FAILING_PLAN_FACTOR if the plan fails."""
        labels = self.early if early else self.late
        mean = sum(labels) / (MAX_LABEL * len(labels))
        return Rubric(labels, round(mean * FAILING_PLAN_FACTOR if self.fails else mean, 4))


SEVERITIES = {
    "wrong_algorithm": Severity((3, 0, 2, 1, 4), (3, 1, 3, 1, 4), True),
    "missed_constraint": Severity((1, 2, 3, 2, 4), (1, 3, 3, 2, 4), True),
    "missed_edge_case": Severity((2, 2, 4, 2, 4), (2, 3, 4, 2, 4), True),
    "wrong_complexity": Severity((4, 2, 3, 3, 4), (4, 3, 3, 3, 4), False),
    "wrong_data_structure_step": Severity((4, 1, 2, 1, 4), (4, 2, 2, 1, 4), True),
    "contradictory_step": Severity((4, 2, 0, 2, 4), (4, 2, 1, 2, 4), True),
    "code_dumped": Severity((3, 1, 1, 2, 0), (3, 1, 1, 2, 0), False),
}
FLAW_KINDS = tuple(SEVERITIES)

Groups = Iterable[list[Edit]]


def _swaps(swaps: tuple[Swap, ...], prose: Prose) -> Groups:
    return (list(swap.edits(prose)) for swap in swaps)


@dataclasses.dataclass(frozen=True)
class Ways:
    """How a kind of flaw is made: groups of edits, of which one makes it.

    Attributes:
        first: tried first. second: where the first gives nothing. turned: how often it is the other way round.
    """

    first: Callable[[Prose], Groups]
    second: Callable[[Prose], Groups] = lambda _: ()
    turned: float = 0.0

    def choose(self, prose: Prose, rng: random.Random) -> Edit | None:
        """One edit of one group; None where there is none. Every group has the same chance, whatever its size."""
        ways = (self.second, self.first) if rng.random() < self.turned else (self.first, self.second)
        for way in ways:
            groups = [group for group in way(prose) if group]
            if groups:
                return rng.choice(rng.choice(groups))
        return None


WAYS: Mapping[str, Ways] = {
    "wrong_algorithm": Ways(functools.partial(_swaps, ALGORITHMS), functools.partial(_swaps, STEPS), turned=0.4),
    "missed_constraint": Ways(constraints),
    "missed_edge_case": Ways(edge_cases),
    "wrong_complexity": Ways(too_low, too_good),
    "wrong_data_structure_step": Ways(functools.partial(_swaps, DATA_STRUCTURES)),
    "contradictory_step": Ways(contradictions, reversals, turned=0.5),
}
"""Of the flaws that are edits of the plan: all but "code_dumped"."""


def _code_dumped(prose: Prose, program: str, rng: random.Random) -> Edit | None:
    if not program.strip():
        return None
    block = rng.choice(("```python\n{}\n```", "{}", "Solution:\n{}")).format(program.strip("\n"))
    kept = prose.spans[0][1] if len(prose.spans) >= 3 and rng.random() < 0.5 else 0
    return Edit(kept, len(prose.text), "\n\n" + block if kept else block)


def flawed(prose: Prose, kind: str, program: str, rng: random.Random) -> Trace | None:
    """A trace with a flaw of a kind and its grade; None where the plan, or the lack of a program, gives no place."""
    edit = _code_dumped(prose, program, rng) if kind == "code_dumped" else WAYS[kind].choose(prose, rng)
    if not edit:
        return None
    begin = edit.start + len(edit.text) - len(edit.text.lstrip())
    early = 2 * edit.start < len(prose.text)
    span = (begin, edit.start + len(edit.text))
    return Trace(apply(prose.text, (edit,)), SEVERITIES[kind].rubric(early), kind, span)


def flaws(seed: Seed, positive: str, kinds: tuple[str, ...], most: int, rng: random.Random) -> list[Trace]:
    """Up to `most` flawed traces of distinct kinds, all different from the positive and from each other."""
    prose = Prose.read(positive, seed.problem)
    made: list[Trace] = []
    texts = {positive}
    for kind in shuffled(rng, kinds):
        trace = flawed(prose, kind, seed.reference, rng) if len(made) < most else None
        if trace and trace.reasoning not in texts:
            made.append(trace)
            texts.add(trace.reasoning)
    return made


ENGINE = Engine(
    FLAW_KINDS, lambda seed: cut(seed.solution, seed.reference)[0], flaws, lambda kind: SEVERITIES[kind].rubric(False)
)
"""Of plans of programs."""
