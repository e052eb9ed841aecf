"""The jobs of a study, run: in order, several at once, stopped by a signal, and not twice."""

import contextlib
import datetime
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from study_plan import ROOT, Job

STOPPED = 75
"""A command's exit code where it was asked to stop and left with a checkpoint."""
LOOK_EVERY = 0.1
"""Seconds."""


class Taken(Exception):
    """Another process works on the study."""


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps others from the folder for as long as it lasts; the system lets go of it when this process ends.

    Raises:
        Taken: somebody has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(f"{out}: another command works on it; wait for it or choose another --out") from None
        yield


class Running:
    """The commands that run, at most `at_once`; a context that passes the first Ctrl-C or SIGTERM on to them.

    Commands are in process groups of their own, so that Ctrl-C reaches them once: a second one would end them at once.
    Where there are several, each has its share of the processor's cores: small models are no faster on all of them.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self, at_once: int) -> None:
        self.asked = False
        self._places: list[tuple[subprocess.Popen[bytes], Job, float] | None] = [None] * at_once
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Running":
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True
        for process, _, _ in filter(None, self._places):
            process.send_signal(signal.SIGTERM)

    def has_place(self) -> bool:
        """Whether another job may begin."""
        return not self.asked and None in self._places

    def busy(self) -> bool:
        """Whether anything runs."""
        return any(self._places)

    def begin(self, job: Job) -> None:
        """Starts a job, which prints into its log."""
        place = self._places.index(None)
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                job.argv(), cwd=ROOT, stdout=log, stderr=log, process_group=0, env=_environment()
            )
        _restrict(process.pid, place, len(self._places))
        self._places[place] = process, job, time.monotonic()
        if self.asked:  # it came before the command was known
            process.send_signal(signal.SIGTERM)

    def ended(self) -> list[tuple[Job, int, int]]:
        """The jobs that have ended since the last call, with exit code and seconds."""
        found = []
        for place, one in enumerate(self._places):
            if one and (code := one[0].poll()) is not None:
                found.append((one[1], code, round(time.monotonic() - one[2])))
                self._places[place] = None
        return found


def _environment() -> dict[str, str]:
    """With a cache of compiled programs: what one run has compiled, the next one loads."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return cache | os.environ


def _restrict(pid: int, place: int, places: int) -> None:
    """Gives a process its share of the cores, where the system has such a thing (Linux) and there are enough."""
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) >= places:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.sched_setaffinity(pid, cores[place::places])


def do(jobs: Sequence[Job], machine: str, at_once: int = 1) -> int:
    """Runs what is not done yet, in order; the exit code: 0, STOPPED, or 1 where a command failed.

    A job begins when those it comes after are done. After a failure no further one begins.

    Args:
        machine: what the page calls the one that did it.
    """
    left = [job for job in jobs if not job.stamp.exists()]
    number, total, failed = 0, len(left), False
    with Running(at_once) as running:
        while True:
            while running.has_place() and not failed:
                job = next((job for job in left if all(one.stamp.exists() for one in job.after)), None)
                if job is None:
                    break
                left.remove(job)
                number += 1
                print(f"{number} of {total}: {job.command[0]} {job.path}", flush=True)
                running.begin(job)
            if not running.busy():
                break
            time.sleep(LOOK_EVERY)
            for job, code, seconds in running.ended():
                if code == 0:
                    about = {"seconds": seconds, "date": f"{datetime.date.today()}", "machine": machine}
                    job.stamp.write_text(json.dumps(about) + "\n")
                elif code == STOPPED or running.asked:
                    running.asked = True  # somebody may have stopped that command alone
                else:
                    failed = True
                    print(f"exit code {code}: {' '.join(job.argv())}; it printed {job.log}:", file=sys.stderr)
                    print("\n".join(job.log.read_text().splitlines()[-5:]), file=sys.stderr)
        if failed:
            return 1
        if running.asked:
            print("stopped; the same command goes on", flush=True)
            return STOPPED
    return 0
