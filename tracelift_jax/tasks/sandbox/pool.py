"""Programs run while something else goes on: submitted now, asked for later."""

import queue
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, Sandbox


class Closing(Sandbox, Protocol):
    """A sandbox that holds processes or connections."""

    def close(self) -> None:
        """Lets go of them; what still runs becomes an "infrastructure" run. May be called again."""
        ...


Waiting = queue.SimpleQueue[tuple[Future[tuple[Ran, ...]], Program, Limits] | None]
"""Programs to be run, in order; None ends a thread."""


class Pool:
    """Runs programs in threads of its own, which wait for processes and take no part in computing.

    It is a context; left by an exception, as by Ctrl-C, it ends what runs. One that nobody refers to any more is closed
    too. The threads are daemons, and a box ends when its parent does, so that nothing is left behind in any case.
    """

    def __init__(self, sandbox: Closing, workers: int):
        """Starts the threads.

        Args:
            sandbox: closed with the pool. workers: programs at a time.
        """
        self.sandbox = sandbox
        self._waiting: Waiting = queue.SimpleQueue()
        self._closed = threading.Event()
        # Threads that do not refer to the pool: they would keep it.
        arguments = (sandbox, self._waiting, self._closed)
        threads = [
            threading.Thread(target=_work, args=arguments, name=f"sandbox-{i}", daemon=True) for i in range(workers)
        ]
        for thread in threads:
            thread.start()
        self._close = weakref.finalize(self, _end, *arguments, threads)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, programs: Iterable[Program], limits: Limits) -> list[Future[tuple[Ran, ...]]]:
        """Begins to run programs, in their order, and returns at once.

        Returns:
            For each program what will be what `Sandbox.run` says of it.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._closed.is_set():
            raise RuntimeError("the pool is closed")
        futures = []
        for program in programs:
            future: Future[tuple[Ran, ...]] = Future()
            self._waiting.put((future, program, limits))
            futures.append(future)
        return futures

    def run(self, programs: Iterable[Program], limits: Limits) -> list[tuple[Ran, ...]]:
        """Runs programs and waits for them all."""
        return [future.result() for future in self.submit(programs, limits)]

    def close(self) -> None:
        """Cancels what has not begun, ends what has, and waits for the threads."""
        self._close()


def _end(sandbox: Closing, waiting: Waiting, closed: threading.Event, threads: Sequence[threading.Thread]) -> None:
    closed.set()
    for _ in threads:
        waiting.put(None)
    sandbox.close()
    for thread in threads:
        thread.join()


def _work(sandbox: Sandbox, waiting: Waiting, closed: threading.Event) -> None:
    while (task := waiting.get()) is not None:
        future, program, limits = task
        if closed.is_set():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(sandbox.run(program, limits))
        except BaseException as error:
            future.set_exception(error)
