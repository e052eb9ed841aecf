"""The standard sandbox: a box for each candidate, and boxes that are kept for checks, whose text is trusted."""

import functools
import platform
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox.box import WATCH_SECONDS, Answer, Box, BoxError, NoBox, bubblewrap
from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, all_failed
from tracelift_jax.tasks.sandbox.seccomp import MACHINES

_ELSEWHERE = "run programs on a server that can (SandboxConfig.backend='remote')"
_ALLOW = (
    "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, profiles of seccomp and AppArmor that let them be)"
)
_TRIES = 2
_TERMINATED = "killed by SIGTERM"
_CHECK_EXTRA = 0.5
"""Seconds that a check gets beyond its program, whose own end says more."""


class Bubblewrap:
    """Runs programs in boxes that bubblewrap makes; may be used by many threads at a time."""

    def __init__(self) -> None:
        """Makes a first box.

        Raises:
            UserError: it cannot be made; the message says what is missing.
        """
        self._checkers: list[Box] = []
        self._live: set[Box] = set()
        self._lock, self._closed = threading.Lock(), False
        if platform.system() != "Linux" or platform.machine() not in MACHINES:
            raise UserError(f"no sandbox: boxes need Linux on {' or '.join(MACHINES)}; {_ELSEWHERE}")
        if not bubblewrap():
            raise UserError(
                f"no sandbox: bubblewrap is missing; install it (apt-get install bubblewrap), or {_ELSEWHERE}"
            )
        try:
            self._checkers.append(self._make(Limits()))
        except NoBox as error:
            raise UserError(f"no sandbox: bubblewrap cannot make a box: {error}; {_ALLOW}, or {_ELSEWHERE}") from error

    def __enter__(self) -> "Bubblewrap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every box; what still runs in another thread is an "infrastructure" run."""
        with self._lock:
            self._closed = True
            kept, self._checkers = self._checkers, []
            for box in self._live:
                box.kill()
        for box in kept:
            self._drop(box)

    def describe(self) -> str:
        """What isolates the programs, and its version."""
        version = subprocess.run([bubblewrap(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
        return f"{version}, namespaces and a system call filter"

    def run(self, program: Program, limits: Limits) -> tuple[Ran, ...]:
        """See `Sandbox.run`."""
        try:
            source = program.source.encode()
        except UnicodeEncodeError as error:
            return tuple(all_failed(program, "uncompilable", f"UnicodeEncodeError: {error}"))
        with _Candidate(source, functools.partial(self._make, limits), self._drop) as candidate:
            runs = [self._try(candidate, lambda box, t=t: _run_input(box, t, limits)) for t in program.inputs]
            runs += [self._try(candidate, lambda box, c=c: self._run_check(box, c, limits)) for c in program.checks]
        return tuple(runs)

    def _try(self, candidate: "_Candidate", run: Callable[[Box], Ran]) -> Ran:
        """Runs once, and once more in a new box where it may have been the machine's fault.

        That is where the box itself ended, and where the program got a SIGTERM: a scheduler that stops a job may send
        it to all of its processes. A program that sends it to itself does so again.
        """
        end = Ran("infrastructure", error="the sandbox was closed")
        for _ in range(_TRIES):
            try:
                end = run(candidate.box())
                if not end.error.endswith(_TERMINATED):
                    return end
            except NoBox as error:
                end = Ran("infrastructure", error=f"no box: {error}"[:500])
            except BoxError as error:
                end = Ran("infrastructure" if self._closed else "raised", error=f"its box ended: {error}"[:500])
            candidate.drop()
        return end

    def _run_check(self, candidate: Box, check: str, limits: Limits) -> Ran:
        checker = self._take_checker(limits)
        try:
            ends = _converse(candidate, checker, check, limits)
        except BaseException:
            self._drop(checker)
            raise
        self._give_checker(checker)
        return _judge(*ends)

    def _take_checker(self, limits: Limits) -> Box:
        while True:
            with self._lock:
                checker = self._checkers.pop() if self._checkers else None
            if checker is None:
                return self._make(limits)
            if checker.alive():
                return checker
            self._drop(checker)

    def _give_checker(self, checker: Box) -> None:
        if checker.spent or not checker.alive():
            self._drop(checker)
            return
        with self._lock:
            if not self._closed:
                self._checkers.append(checker)
                return
        self._drop(checker)

    def _make(self, limits: Limits) -> Box:
        if self._closed:
            raise NoBox("the sandbox was closed")
        box = Box(limits.disk_mb)
        with self._lock:
            self._live.add(box)
        return box

    def _drop(self, box: Box) -> None:
        # Out of the set first: a number of a box that is closed may soon be another's.
        with self._lock:
            self._live.discard(box)
        box.close()


class _Candidate:
    """The box of a candidate, made anew where one is used up. A context, which ends it."""

    def __init__(self, source: bytes, make: Callable[[], Box], drop: Callable[[Box], None]):
        self._source, self._make, self._drop = source, make, drop
        self._box: Box | None = None

    def __enter__(self) -> "_Candidate":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def box(self) -> Box:
        if self._box is not None and self._box.spent:
            self.drop()
        if self._box is None:
            self._box = self._make()
            self._box.set_source(self._source)
        return self._box

    def drop(self) -> None:
        if self._box is not None:
            self._drop(self._box)
        self._box = None


def _run_input(box: Box, text: str, limits: Limits) -> Ran:
    box.ask("input", _encode(text), limits)
    end = _wait({"candidate": box}, limits)["candidate"]
    return _ran(end, end.stdout.decode(errors="replace"))


def _converse(candidate: Box, checker: Box, check: str, limits: Limits) -> tuple[Answer, Answer]:
    """Has a program called by a check.

    Raises:
        BoxError: the candidate's box ended by itself. NoBox: the checker's did, which no program reaches.
    """
    theirs, ours = socket.socketpair()
    with theirs, ours:
        try:
            checker.ask("check", _encode(check), limits, (ours.fileno(),), _CHECK_EXTRA)
        except BoxError as error:
            raise NoBox(str(error)) from error
        candidate.ask("serve", b"", limits, (theirs.fileno(),))
    ends = _wait({"candidate": candidate, "checker": checker}, limits)
    return ends["candidate"], ends["checker"]


def _wait(boxes: Mapping[str, Box], limits: Limits) -> dict[str, Answer]:
    """Waits until every box has answered, and kills those that take too much.

    Raises:
        BoxError: the candidate's ended by itself. NoBox: the checker's did.
    """
    waiting, ends = dict(boxes), {}
    while waiting:
        poll = select.poll()
        for box in waiting.values():
            poll.register(box, select.POLLIN)
        readable = {fd for fd, _ in poll.poll(WATCH_SECONDS * 1000)}
        for name, box in list(waiting.items()):
            if box.fileno() in readable:
                try:
                    ends[name] = box.answer(limits)
                except BoxError as error:
                    if name == "checker":
                        raise NoBox(str(error)) from error
                    raise
                del waiting[name]
            elif not readable and (over := box.exceeded(limits)):
                box.kill()
                ends[name] = over
                del waiting[name]
    return ends


def _judge(candidate: Answer, checker: Answer) -> Ran:
    """A check's end, where the program's own end says more, that."""
    if checker.status in ("ok", "failed", "infrastructure"):
        return _ran(checker)
    if candidate.status != "ok":
        return _ran(candidate)
    return _ran(checker)


def _ran(end: Answer, stdout: str = "") -> Ran:
    return Ran(end.status, stdout, end.error.decode(errors="replace")[:500], end.seconds)


def _encode(text: str) -> bytes:
    """Text for a box: bytes that were no UTF-8 when it was read go back as they were."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace")
