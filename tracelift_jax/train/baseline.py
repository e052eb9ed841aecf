"""The cached baseline: how the executor fares without reasoning, measured once per problem and kept with its counts."""

from collections.abc import Sequence

import numpy as np

VISIBLE_AFTER = 2
"""Steps from measuring to use. Counts reach the host one step late; fixing the delay keeps a resumed run, whose counts
would be there earlier, equal to an undisturbed one bit for bit."""


class BaselineCounts:
    """{problem id: (right samples, samples, step of measuring)}; the first measurement of a problem stays."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def lookup(self, problem_ids: Sequence[str], step: int) -> tuple[np.ndarray, np.ndarray]:
        """int32 [B] right and all samples of each problem as known at `step`; 0 of 0 where unknown."""
        ok, trials = np.zeros(len(problem_ids), np.int32), np.zeros(len(problem_ids), np.int32)
        for row, problem_id in enumerate(problem_ids):
            known = self._counts.get(problem_id)
            if known is not None and known[2] + VISIBLE_AFTER <= step:
                ok[row], trials[row] = known[:2]
        return ok, trials

    def add(self, problem_ids: Sequence[str], ok: np.ndarray, trials: np.ndarray, step: int) -> None:
        """Keeps the counts measured in `step`; int [B] each."""
        for problem_id, right, total in zip(problem_ids, ok, trials, strict=True):
            if total:
                self._counts.setdefault(problem_id, (int(right), int(total), step))

    def get_state(self) -> dict[str, list[int]]:
        """All counts as JSON."""
        return {key: list(value) for key, value in self._counts.items()}

    def set_state(self, state: dict[str, list[int]]) -> None:
        """The inverse of `get_state`."""
        self._counts = {key: (value[0], value[1], value[2]) for key, value in state.items()}
