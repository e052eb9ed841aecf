"""Process 1 of a box: runs a program again and again, each time in a process of its own.

As process 1 of its namespace it can be neither killed nor stopped by what it runs; there is no /proc, and the filter of
system calls refuses tracing, so it cannot be read or changed either. What it says of a run is believed no further than
what the program itself could bring about.

The parent sends frames of marshal, which it made itself, over a socket; answers are of fixed form (`ANSWER`).
"""

import _sitebuiltins
import _socket
import builtins
import io
import marshal
import os
import resource
import select
import signal
import struct
import sys
import time

from tracelift_jax.tasks.sandbox.inside import check, serve

# Not from typing: see wire.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Pipes = list[tuple[int, int]]

READY = b"R"
ANSWER = struct.Struct("!BBdII")
"""Status, whether the box must not be used again, seconds, bytes of output and of error that follow."""
STATUSES = ("ok", "failed", "raised", "uncompilable", "timeout", "memory", "output", "infrastructure")
ERROR_BYTES = 2000
FILE_NAME = "main.py"
FOLDER = "/tmp"

_CHUNK = 1 << 16
_FEW = 64
_ASIDE = 100


def start(uid: int | None, left_open: tuple[int, ...]) -> "Callable[[], object]":
    """Makes this process fit to run programs, serves the parent, and returns in a program's process alone.

    Args:
        uid: to become, where the box has one more than the one it was made by; or None.
        left_open: descriptors that making the box needed.

    Returns:
        What that process shall do, a function of no arguments.
    """
    for fd in left_open:
        # A range, which does not mind those that bubblewrap has closed.
        os.closerange(fd, fd + 1)
    control = _socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.chdir(FOLDER)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    # What `site` defines, which is not imported.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    control.send(READY)
    source = b""
    while True:
        (kind, data, limits), fds = _receive(control)
        if kind == "source":
            source = data
            continue
        work = _run(control, kind, source, data, limits, fds)
        if work is not None:
            return work


def _receive(control: _socket.socket) -> "tuple[Any, list[int]]":
    """One frame and the descriptors that came with it; ends the box when the parent is gone."""
    data, ancillary, _, _ = control.recvmsg(4, _socket.CMSG_SPACE(4))
    fds = [struct.unpack("i", body)[0] for _, _, body in ancillary]
    data += _exactly(control, 4 - len(data)) if data else os._exit(0)
    return marshal.loads(_exactly(control, int.from_bytes(data, "big"))), fds


def _exactly(control: _socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = control.recv(min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _run(
    control: _socket.socket, kind: str, source: bytes, data: bytes, limits: "Any", fds: list[int]
) -> "Callable[[], object] | None":
    """Runs a program once and answers; in its process returns what it shall do, in process 1 None."""
    began = time.monotonic()
    pipes = [os.pipe() for _ in range(4)]
    try:
        pid = os.fork()
    except OSError as error:
        # Of the program nothing runs at this point, so it is not its fault; the box ends, and its pipes with it.
        said = f"OSError: {error}".encode()
        control.sendall(ANSWER.pack(STATUSES.index("infrastructure"), 1, 0.0, 0, len(said)) + said)
        return None
    if pid == 0:
        # Else it closes its number, by then another's, when Python drops it.
        control.detach()
        return _prepare(kind, source, data, limits, fds, pipes)
    for _, write in pipes[1:]:
        os.close(write)
    os.close(pipes[0][0])
    for fd in fds:
        os.close(fd)
    run = _Run(control, pid, began + limits[0], pipes, data if kind == "input" else b"", limits[2] * 1024)
    ended = run.watch()
    seconds = time.monotonic() - began
    code = _kill_all(pid)
    run.drain()
    for fd in run.open:
        os.close(fd)
    status, error = _judge(kind, ended or run.over(), code, limits[0], run.said)
    del run.said[0][run.limit :]
    spent = not _clean()
    answer = ANSWER.pack(STATUSES.index(status), spent, seconds, len(run.said[0]), len(error))
    control.sendall(answer + run.said[0] + error)
    return None


def _prepare(
    kind: str, source: bytes, data: bytes, limits: "Any", fds: list[int], pipes: "Pipes"
) -> "Callable[[], object]":
    """In a program's process: takes its place and its limits."""
    (stdin, _), (_, stdout), (_, stderr), (_, report) = pipes
    for fd, place in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(fd, place)
    # Out of the way first: the numbers may overlap.
    kept = [os.dup2(fd, _ASIDE + i, inheritable=False) for i, fd in enumerate((report, *fds))]
    kept = [os.dup2(fd, 3 + i, inheritable=False) for i, fd in enumerate(kept)]
    os.closerange(3 + len(kept), 2 * _ASIDE)
    _limit(*limits)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stdin, stdout, stderr = (io.FileIO(fd, mode, closefd=False) for fd, mode in enumerate(("r", "w", "w")))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(stdin), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(stdout), "utf-8", "surrogateescape", "\n")
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(stderr), "utf-8", "backslashreplace", "\n", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = [FILE_NAME]
    if kind == "check":
        return lambda: check.run(data, kept[1], kept[0])
    return lambda: _program(kind, source, kept)


def _limit(seconds: float, memory_mb: int, _: int, disk_mb: int, processes: int, files: int) -> None:
    cpu = int(seconds) + 1
    for what, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, disk_mb << 20),
        (resource.RLIMIT_NOFILE, files),
        # Process 1 is one of them.
        (resource.RLIMIT_NPROC, processes + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # At the hard limit of CPU time comes SIGKILL, which does not say why.
        resource.setrlimit(what, (value, hard if what == resource.RLIMIT_CPU else value))


def _program(kind: str, source: bytes, kept: list[int]) -> None:
    """Runs the program, whole or to be called."""
    main = sys.modules["__main__"].__dict__
    main.clear()
    name = "__main__" if kind == "input" else "candidate"
    main.update(__name__=name, __builtins__=builtins, __file__=f"{FOLDER}/{FILE_NAME}", __doc__=None, __package__=None)
    try:
        code = compile(source, FILE_NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError) as error:
        # Not as a traceback, which shows the line: it may be of any length.
        os.write(kept[0], f"uncompilable\n{type(error).__name__}: {error}"[:ERROR_BYTES].encode(errors="replace"))
        os._exit(1)
    os.close(kept[0])
    if kind == "input":
        exec(code, main)
        return
    sys.modules["candidate"] = sys.modules["__main__"]
    exec(code, main)
    serve.serve(main, kept[1])


class _Run:
    """What process 1 does while a program runs: gives it its input, takes its output, looks at the clock.

    Attributes:
        said: standard output, standard error and the report, as far as the limit goes.
        open: descriptors still to be closed.
    """

    def __init__(self, control: _socket.socket, pid: int, deadline: float, pipes: "Pipes", stdin: bytes, limit: int):
        self.control, self.deadline, self.limit = control, deadline, limit
        self.ended = os.pidfd_open(pid)
        self.stdin, self.fed = memoryview(stdin), pipes[0][1]
        self.said = [bytearray(), bytearray(), bytearray()]
        self.heard = [read for read, _ in pipes[1:]]
        self.open = {self.ended, self.fed, *self.heard}
        os.set_blocking(self.fed, False)

    def over(self) -> str | None:
        return "output" if any(len(said) > self.limit for said in self.said) else None

    def watch(self) -> str | None:
        """Waits for the program's process; returns the limit that it passed instead, or None."""
        poll = select.poll()
        poll.register(self.control.fileno(), 0)
        poll.register(self.ended, select.POLLIN)
        for fd in self.heard:
            poll.register(fd, select.POLLIN)
        self._feed(None)
        if self.fed in self.open:
            poll.register(self.fed, select.POLLOUT)
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            for fd, event in poll.poll(left * 1000 + 1):
                if fd == self.control.fileno():
                    if event & (select.POLLHUP | select.POLLERR):
                        os._exit(0)
                elif fd == self.ended:
                    return None
                elif fd == self.fed:
                    self._feed(poll)
                elif not self._hear(fd):
                    poll.unregister(fd)
                    self._close(fd)
            if self.over():
                return "output"

    def drain(self) -> None:
        """Takes what lies in the pipes of a program that is gone."""
        for fd in [fd for fd in self.heard if fd in self.open]:
            while not self.over() and self._hear(fd):
                pass

    def _feed(self, poll: "Any") -> None:
        try:
            while self.stdin:
                self.stdin = self.stdin[os.write(self.fed, self.stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            pass
        if poll is not None:
            poll.unregister(self.fed)
        self._close(self.fed)

    def _hear(self, fd: int) -> bool:
        data = os.read(fd, _CHUNK)
        self.said[self.heard.index(fd)] += data
        return bool(data)

    def _close(self, fd: int) -> None:
        self.open.discard(fd)
        os.close(fd)


def _kill_all(pid: int) -> int:
    """Kills and reaps every process of the box but this one; returns how `pid` ended, as `os.waitpid` says it."""
    code = 0
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return code
        reaped, how = os.waitpid(-1, 0)
        if reaped == pid:
            code = how


def _clean() -> bool:
    """Empties the working folder; False where that takes more than a moment."""
    try:
        with os.scandir(FOLDER) as entries:
            for count, entry in enumerate(entries):
                if count >= _FEW:
                    return False
                os.unlink(entry.path)
    except OSError:
        return False
    return True


def _judge(kind: str, ended: str | None, code: int, limit: float, said: list[bytearray]) -> tuple[str, bytes]:
    """How a run ended, and what there is to say about it."""
    _, stderr, report = said
    line = _last_line(stderr)
    if ended == "timeout" or (os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGXCPU):
        return "timeout", f"ran longer than {limit:g} s".encode()
    if ended == "output":
        return "output", b"printed more than it may"
    status, _, error = bytes(report).partition(b"\n")
    if status.decode("ascii", "replace") in STATUSES:
        return status.decode(), error[:ERROR_BYTES]
    if kind == "check":
        return "raised", b"the check ended before its verdict: " + _how(code)
    if code == 0:
        return "ok", b""
    if line.startswith(b"MemoryError"):
        return "memory", line
    return "raised", _how(code) if os.WIFSIGNALED(code) else line or _how(code)


def _how(code: int) -> bytes:
    if os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        known = {known.value: known.name for known in signal.Signals}
        return f"killed by {known.get(number, f'signal {number}')}".encode()
    return f"exit status {os.waitstatus_to_exitcode(code)}".encode()


def _last_line(stderr: bytearray) -> bytes:
    lines = bytes(stderr[-ERROR_BYTES:]).strip().splitlines()
    return lines[-1].strip() if lines else b""
