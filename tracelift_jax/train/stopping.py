"""When a run is to leave early: signals, notices of maintenance, and all processes leaving after the same step."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from tracelift_jax.parallel.hosts import Vote, alone
from tracelift_jax.parallel.join import metadata

_SAME_SIGNAL_SECONDS = 1.0
_NOTICE_SECONDS = 5.0
"""Between looks at the metadata server; a preempted machine has about 30 seconds."""


class Stopper:
    """Turns SIGTERM, the first Ctrl-C and a notice of maintenance into "leave after this step"; a context.

    A second signal has its usual effect at once; what comes within a second of the first is taken for the same one,
    sent to a process and to its launcher. Of several processes one that is asked is enough, and all leave after the
    same step: which of them were asked travels over the mesh with every step and is read with the next.
    """

    def __init__(self, say: Callable[[str], object]):
        """`say` prints a line."""
        self._say, self._asked, self._told = say, False, 0.0
        self._before: dict[int, Any] = {}
        self._vote = None if alone() else Vote(Mesh(jax.devices(), ("all",)))
        self._answers: list[Array] = []
        self._left = threading.Event()

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        if _on_google():
            threading.Thread(target=self._watch, daemon=True, name="maintenance").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked, self._told = True, now
            self._say("stopping after this step; once more stops at once")
        elif now - self._told >= _SAME_SIGNAL_SECONDS:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)

    def _watch(self) -> None:
        while not self._left.is_set():
            what = notice()
            if what:
                self._asked = True
                self._say(f"the metadata server says {what}: stopping after this step")
                return
            self._left.wait(_NOTICE_SECONDS)

    def after_dispatch(self) -> None:
        """Tells the other processes whether this one was asked; once a step, when it has been dispatched."""
        if self._vote is not None:
            self._answers = [*self._answers[-1:], self._vote.ask(self._asked)]

    @property
    def leaving(self) -> bool:
        """Whether to leave after the step just dispatched, the same in all processes."""
        if self._vote is None:
            return self._asked
        # The vote of the step before: it came with metrics that have been waited for already.
        return len(self._answers) == 2 and bool(self._answers[0])


def notice() -> str:
    """What the metadata server announces for this machine, "" for nothing: `preempted`, or a maintenance event."""
    if (metadata("instance/preempted") or "").strip().upper() == "TRUE":
        return "preempted"
    event = (metadata("instance/maintenance-event") or "NONE").strip()
    return "" if event == "NONE" else event


def _on_google() -> bool:
    """Whether there is a metadata server to be asked."""
    if os.environ.get("GCE_METADATA_HOST"):
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text().startswith("Google")
    except OSError:
        return False
