"""How long the stages of a step take, without making the device wait for the answer."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


class Clock:
    """Times the stages of steps that are dispatched one after the other and run behind the host's back.

    A thread of its own waits for each stage's result. A stage begins when the host begins with it or when the one
    before it ends, whichever is later: some are only dispatched there, in others the host has a part.
    """

    def __init__(self) -> None:
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="clock")
        self._stages: list[Any] = []
        self._ended = 0.0

    def stage(self, name: str, result: Any, began: float) -> None:
        """Notes that `result` (a pytree of arrays that nobody donates) was dispatched.

        Args:
            began: when the host began with it, by `time.perf_counter`.
        """
        self._stages.append(self._waiter.submit(self._wait, name, result, began))

    def _wait(self, name: str, result: Any, began: float) -> tuple[str, float]:
        jax.block_until_ready(result)
        now = time.perf_counter()
        begun, self._ended = max(began, self._ended), now
        return name, now - begun

    def lap(self, stages: int) -> dict[str, float]:
        """{"time/NAME_seconds": seconds} of the oldest `stages` stages; waits for their end."""
        taken, self._stages = self._stages[:stages], self._stages[stages:]
        return {f"time/{name}_seconds": seconds for name, seconds in (stage.result() for stage in taken)}
