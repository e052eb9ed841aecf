"""The config classes that tests/test_gin_config.py writes gin files for."""

import dataclasses
from typing import Any, Literal, Protocol

from tracelift_jax.checked import check_types, require

BUILT: list[str] = []


class Task(Protocol):
    def problems(self, count: int) -> list[int]: ...


@dataclasses.dataclass(frozen=True)
class DialTask:
    seed: int = 0
    inner: Any = None

    def __post_init__(self):
        check_types(self)

    def problems(self, count: int) -> list[int]:
        return list(range(self.seed, self.seed + count))


@dataclasses.dataclass(frozen=True)
class Train:
    steps: int
    rate: float = 1e-3
    run: str = "here"
    loss: Literal["grpo", "sft"] = "grpo"
    betas: tuple[float, ...] = (0.9, 0.95)
    task: Task = DialTask()
    limit: int | None = None
    resume: bool = False

    def __post_init__(self):
        BUILT.append("Train")
        check_types(self)
        require(self.steps >= 1, f"Train.steps must be at least 1, got {self.steps}")


@dataclasses.dataclass(frozen=True)
class Buggy:
    steps: int = 1

    def __post_init__(self):
        [].index(self.steps)
