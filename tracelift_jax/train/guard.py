"""Guards: a run that collapses is stopped, and its last good checkpoint stays.

While a guard's metric is out of its range no checkpoint is due; once it has been so for `patience` steps in a row, the
run ends with a line that says what happened. So the newest checkpoint is always one from before the trouble began.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tracelift_jax.checked import check_types, did_you_mean, require
from tracelift_jax.errors import UserError

GRADIENT = "optimizer/gradient_norm"
"""Where it is not finite, the run ends at once: that update has spoilt every weight."""


@dataclasses.dataclass(frozen=True)
class Guard:
    """A range that a metric must not leave for long.

    Attributes:
        metric: its name in metrics.jsonl, for example "policy/kl_base", "policy/entropy" or "optimizer/update_ratio",
            the size of an update beside the weights': what a learning rate is too large by.
        most, least: the ends of the range; None: it has none there.
        patience: steps in a row out of range that stop the run.
    """

    metric: str
    most: float | None = None
    least: float | None = None
    patience: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        require(bool(self.metric), "Guard.metric must not be empty")
        require((self.most, self.least) != (None, None), f'Guard.most or Guard.least must be set for "{self.metric}"')
        require(self.patience >= 1, f"Guard.patience must be at least 1, got {self.patience}")

    def holds(self, value: float) -> bool:
        """Whether a value is in range; what was not measured (nan) is."""
        return not ((self.most is not None and value > self.most) or (self.least is not None and value < self.least))

    def limit(self) -> str:
        """The range, in words."""
        limits = [("at most", self.most), ("at least", self.least)]
        return " and ".join(f"{words} {limit:g}" for words, limit in limits if limit is not None)


class Watch:
    """Looks at every step's metrics; remembers for how many steps each guard's has been out of range."""

    def __init__(self, guards: Sequence[Guard] = ()):
        self._guards = guards
        self._bad = [0] * len(guards)

    @property
    def well(self) -> bool:
        """Whether every guard's metric was in range when it was looked at last."""
        return not any(self._bad)

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Looks at the metrics of a step.

        Raises:
            UserError: a guard's patience is at its end, the gradient is not finite, or there is no such metric.
        """
        if not math.isfinite(metrics[GRADIENT]):
            raise UserError(
                f"stopped after step {step}: {GRADIENT} is {metrics[GRADIENT]}; the newest checkpoint is from before; "
                "lower OptimizerConfig.learning_rate or OptimizerConfig.clip_norm"
            )
        for index, guard in enumerate(self._guards):
            if guard.metric not in metrics:
                raise UserError(f'Guard.metric: no metric "{guard.metric}"{did_you_mean(guard.metric, metrics)}')
            value = metrics[guard.metric]
            self._bad[index] = 0 if guard.holds(value) else self._bad[index] + 1
            if self._bad[index] >= guard.patience:
                raise UserError(
                    f"stopped after step {step}: {guard.metric} is {value:.3g}, {guard.limit()} is allowed, for "
                    f"{guard.patience} steps in a row; the newest checkpoint is from before that; lower "
                    "OptimizerConfig.learning_rate, or widen the guard"
                )

    def get_state(self) -> list[int]:
        """For how many steps each guard's metric has been out of range."""
        return list(self._bad)

    def set_state(self, state: Sequence[int]) -> None:
        """The inverse of `get_state`."""
        self._bad = list(state)
