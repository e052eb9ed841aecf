"""Programs run while something else goes on: submitted now, asked for later."""

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Protocol

from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, Sandbox


class Closing(Sandbox, Protocol):
    """A sandbox that holds processes or connections."""

    def close(self) -> None:
        """Lets go of them; what still runs becomes an "infrastructure" run. May be called again."""
        ...


class Pool:
    """Runs programs in threads of its own, which wait for processes and take no part in computing.

    It is a context; left by an exception, as by Ctrl-C, it ends what runs. The threads are daemons, and a box ends
    when its parent does, so a process that exits without closing leaves nothing behind either.
    """

    def __init__(self, sandbox: Closing, workers: int):
        """Starts the threads.

        Args:
            sandbox: closed with the pool. workers: programs at a time.
        """
        self.sandbox = sandbox
        self._waiting: queue.SimpleQueue[tuple[Future[tuple[Ran, ...]], Program, Limits] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"sandbox-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

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
        self._closed.set()
        for _ in self._threads:
            self._waiting.put(None)
        self.sandbox.close()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            future, program, limits = task
            if self._closed.is_set():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self.sandbox.run(program, limits))
            except BaseException as error:
                future.set_exception(error)
