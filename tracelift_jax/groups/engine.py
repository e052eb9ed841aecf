"""What an engine of flaws is: a writer and a grader of flawed traces that needs no model."""

import dataclasses
import random
from collections.abc import Callable

from tracelift_jax.groups.schema import Rubric, Trace
from tracelift_jax.groups.seeds import Seed


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine for the problems of one rubric.

    Attributes:
        kinds: the names of the flaws it knows.
        positive: the positive trace in a seed's solution, cleaned; "" where there is none.
        flaws: (seed, positive, kinds, most, rng) to flawed traces with their grades and places: at most `most`, of
            distinct kinds out of `kinds`, all different from the positive and from each other.
        severity: a kind of flaw to the grade it deserves where nothing is known but the kind.
    """

    kinds: tuple[str, ...]
    positive: Callable[[Seed], str]
    flaws: Callable[[Seed, str, tuple[str, ...], int, random.Random], list[Trace]]
    severity: Callable[[str], Rubric]
