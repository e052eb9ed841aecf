"""What records say against what follows from them, field by field and bit by bit."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracelift_jax.replay.read import Placed, Record
from tracelift_jax.replay.rebuild import Rebuilt
from tracelift_jax.rollout.records import VERDICTS
from tracelift_jax.rollout.settle import Settling

FIELDS = {
    "reasoning": "decoded from trace_tokens",
    "well_formed": "tags found in trace_tokens",
    "answers": "decoded from answer_tokens",
    "without_answers": "decoded from without_tokens",
    "verdicts": "judged again",
    "with_counts": "counted",
    "without_counts": "counted where drawn in the step",
    "likelihood": "0 of malformed traces, where that is the rule",
    "uplift": "with less without",
    "score": "from rubric and total",
    "reward": "from verdicts, score and uplift",
    "counted": "from verdicts, form and counts",
    "advantage": "from the group's rewards",
}
"""What is recomputed, and from what."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field of a record that does not follow from the others.

    Attributes:
        where: FILE:LINE. recorded: what stands there. recomputed: what should.
    """

    where: str
    step: int
    problem_id: str
    trace: int
    field: str
    recorded: Any
    recomputed: Any

    @property
    def size(self) -> float | None:
        """How far numbers are apart; None for anything else."""
        pair = [np.atleast_1d(value) for value in (self.recorded, self.recomputed)]
        if any(one.dtype.kind != "f" for one in pair) or pair[0].shape != pair[1].shape:
            return None
        return float(np.max(np.abs(pair[0] - pair[1])))


def same(recorded: Any, recomputed: Any) -> bool:
    """Whether two values are equal, floats to the last bit: NaN is NaN, and 0 is not -0."""
    if isinstance(recorded, float) and isinstance(recomputed, float):
        return np.float64(recorded).tobytes() == np.float64(recomputed).tobytes()
    if isinstance(recorded, list) and isinstance(recomputed, list):
        return len(recorded) == len(recomputed) and all(map(same, recorded, recomputed))
    return recorded == recomputed


def differences(
    groups: Sequence[Sequence[Placed]], expected: Sequence[Sequence[Mapping[str, Any]]]
) -> Iterator[Difference]:
    """Where records [B][G] are not as `expected`: of some fields what they should be; of several values any."""
    for group, wanted in zip(groups, expected, strict=True):
        for (where, record), values in zip(group, wanted, strict=True):
            for field, value in values.items():
                recorded = getattr(record, field)
                allowed = value.values if isinstance(value, AnyOf) else (value,)
                if not any(same(recorded, one) for one in allowed):
                    yield Difference(where, record.step, record.problem_id, record.trace, field, recorded, allowed[-1])


@dataclasses.dataclass(frozen=True)
class AnyOf:
    """Values of which a field may have any; the last is told where it has none."""

    values: tuple[Any, ...]


def recompute(groups: Sequence[Sequence[Placed]], rebuilt: Rebuilt, settling: Settling) -> list[list[dict[str, Any]]]:
    """[B][G] what the fields of `FIELDS` should hold, by the programs that settled the run's rollouts.

    An advantage may follow from the rewards that are recorded or from those that should be: it is not to blame for a
    reward of its group that is wrong.
    """
    worth = settling.rewards(rebuilt.rollout)
    reward = jnp.array([[record.reward for _, record in group] for group in groups], jnp.float32)
    counted = jnp.array([[record.counted for _, record in group] for group in groups], bool)
    beside = settling.advantages(reward, counted)
    advantage = settling.advantages(worth.reward, worth.counted)
    worth, advantages = jax.device_get((worth, (beside, advantage)))
    counts = rebuilt.rollout.uplift

    def of(b: int, g: int, record: Record) -> dict[str, Any]:
        said = rebuilt.said[b][g]
        return {
            "reasoning": said.reasoning,
            "well_formed": said.well_formed,
            "answers": said.answers,
            "without_answers": said.without_answers,
            "verdicts": [VERDICTS[int(v)] for v in worth.verdicts[b, g, : len(record.verdicts)]],
            "with_counts": [int(worth.ok[b, g]), int(counts.trials[b, g])],
            "without_counts": [int(counts.baseline_ok[b, g]), int(counts.baseline_trials[b, g])],
            "likelihood": float(worth.likelihood[b, g]),
            "uplift": float(worth.uplift[b, g]),
            "score": float(worth.score[b, g]),
            "reward": float(worth.reward[b, g]),
            "counted": bool(worth.counted[b, g]),
            "advantage": AnyOf(tuple(float(one[b, g]) for one in advantages)),
        }

    return [[of(b, g, record) for g, (_, record) in enumerate(group)] for b, group in enumerate(groups)]


class Remembered:
    """The counts of a cached baseline: what a problem's first measurement found is what later steps have.

    Only where every step from the first on is looked at; else the first measurement may be in another.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def fill(self, groups: Sequence[Sequence[Placed]], expected: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Has `expected` expect the counts of problems that this step did not measure, and keeps those it did."""
        for group, wanted in zip(groups, expected, strict=True):
            for (_, record), values in zip(group, wanted, strict=True):
                if not record.without_answers and record.problem_id in self._counts:
                    values["without_counts"] = self._counts[record.problem_id]
        for group, wanted in zip(groups, expected, strict=True):
            (_, record), values = group[0], wanted[0]
            if record.without_answers and values["without_counts"][1]:
                self._counts.setdefault(record.problem_id, values["without_counts"])
