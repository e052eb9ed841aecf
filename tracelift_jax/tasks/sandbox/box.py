"""One box: namespaces made by bubblewrap, with process 1 (`inside/runner.py`) in them and this process watching."""

import contextlib
import dataclasses
import functools
import itertools
import json
import marshal
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tracelift_jax.tasks.sandbox.bundle import LOADER, PACKAGE, compiled
from tracelift_jax.tasks.sandbox.inside import runner
from tracelift_jax.tasks.sandbox.mounts import TEMPORARY, interpreter, mount_arguments
from tracelift_jax.tasks.sandbox.program import Limits, Status
from tracelift_jax.tasks.sandbox.seccomp import filter_program

START_SECONDS = 30.0
"""In which a box must stand, on however busy a machine."""
GRACE_SECONDS = 5.0
"""By which a run may end later than its limit before the box itself is given up."""
WATCH_SECONDS = 0.02
INODES = 16384
"""Files of a box at a time: each takes kernel memory that no process is charged for."""

_BOOT = f"""
import marshal, sys
with open(0, "rb", buffering=0, closefd=False) as control:
    size, data = int.from_bytes(control.read(4), "big"), b""
    while len(data) < size:
        data += control.read(size - len(data)) or sys.exit(1)
{LOADER}
package, modules, uid, left_open = marshal.loads(data)
load(package, modules).start(uid, left_open)()
"""
_INNER_UID = 1000
_numbers = itertools.count(os.getpid() * 64)


class BoxError(Exception):
    """A box ended by itself."""


class NoBox(BoxError):
    """There is no box to run anything in, through no fault of a program."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What process 1 says of a run; see `program.Ran`."""

    status: Status
    seconds: float
    stdout: bytes
    error: bytes


class Box:
    """A box; runs are asked for with `ask` and waited for with `wait`, one at a time.

    It is a context, at whose end no process of it exists.
    """

    def __init__(self, disk_mb: int):
        """Makes a box.

        Raises:
            NoBox: it does not stand; the message is the last line of what bubblewrap or Python says.
        """
        self.spent = False
        self._pidfd, self._folder, self._process = -1, -1, None
        self._control, theirs = socket.socketpair()
        errors = os.memfd_create("errors")
        try:
            with theirs:
                self._start(theirs, errors, disk_mb)
            self._await_ready()
        except BaseException as error:
            self.close()
            if not isinstance(error, BoxError | OSError):
                raise
            said = os.pread(errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()
            raise NoBox(said[-1] if said else str(error)) from error
        finally:
            os.close(errors)

    def __enter__(self) -> "Box":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """Kills every process of the box, which the kernel does when process 1 dies; does not wait."""
        self.spent = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()

    def alive(self) -> bool:
        """Whether process 1 is there."""
        gone = select.poll()
        gone.register(self._pidfd, select.POLLIN)
        return not gone.poll(0)

    def close(self) -> None:
        """Kills every process of the box and waits until they are gone."""
        self.kill()
        if self._pidfd >= 0:
            # Readable when the kernel has reaped the whole namespace.
            gone = select.poll()
            gone.register(self._pidfd, select.POLLIN)
            gone.poll()
        if self._process is not None:
            self._process.wait()
        for fd in (self._pidfd, self._folder):
            if fd >= 0:
                os.close(fd)
        self._pidfd, self._folder, self._process = -1, -1, None
        self._control.close()

    def set_source(self, source: bytes) -> None:
        """Says which program the runs are of."""
        self._send(("source", source, None), ())

    def ask(self, kind: str, data: bytes, limits: Limits, fds: tuple[int, ...] = (), extra: float = 0.0) -> None:
        """Asks for a run.

        Args:
            kind: "input", "serve" or "check". data: its input or the text of the check.
            fds: its end of the pipe between a program and a check. extra: seconds beyond the limit.

        Raises:
            BoxError: the box is gone.
        """
        seconds = limits.seconds + extra
        self._send((kind, data, dataclasses.astuple(dataclasses.replace(limits, seconds=seconds))), fds)
        self._began = time.monotonic()
        self._deadline = self._began + seconds + GRACE_SECONDS

    def fileno(self) -> int:
        """Readable when there is an answer."""
        return self._control.fileno()

    def exceeded(self, limits: Limits) -> Answer | None:
        """What the box takes above its limits, or None; called every `WATCH_SECONDS` while it runs something."""
        over = self._over(limits)
        return over and Answer(over[0], time.monotonic() - self._began, b"", over[1].encode())

    def _over(self, limits: Limits) -> tuple[Status, str] | None:
        if time.monotonic() > self._deadline:
            return "timeout", f"ran longer than {limits.seconds:g} s"
        pages, processes = _usage(self._pid)
        limit = limits.memory_mb << 20
        if pages * _PAGE > limit and _proportional(self._pid) > limit:
            return "memory", f"took more than {limits.memory_mb} MiB"
        if processes > 2 * limits.processes + 4:
            return "memory", f"had more than {limits.processes} processes"
        files = os.fstatvfs(self._folder)
        if files.f_files - files.f_ffree > INODES:
            return "memory", f"had more than {INODES} files"
        return None

    def answer(self, limits: Limits) -> Answer:
        """Takes the answer that has come.

        Raises:
            BoxError: the box is gone, or says what it cannot.
        """
        status, spent, seconds, out, error = runner.ANSWER.unpack(self._receive(runner.ANSWER.size))
        if status >= len(runner.STATUSES) or out > limits.output_kb * 1024 or error > runner.ERROR_BYTES:
            raise BoxError("an answer that cannot be")
        self.spent = bool(spent)
        return Answer(runner.STATUSES[status], seconds, self._receive(out), self._receive(error))

    def _start(self, theirs: socket.socket, errors: int, disk_mb: int) -> None:
        """Starts bubblewrap, and gives the box users of its own where this process may."""
        uid = _outer_uid()
        info, their_info = os.pipe()
        their_block, block = os.pipe()
        their_filter = os.memfd_create("filter")
        os.write(their_filter, filter_program())
        os.lseek(their_filter, 0, os.SEEK_SET)
        passed = (their_info, their_block, their_filter)
        users = ["--cap-drop", "ALL"]
        if uid is None:
            users += ["--uid", str(_INNER_UID), "--gid", str(_INNER_UID)]
        else:
            users += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--userns-block-fd", str(their_block)]
        command = [
            *(bubblewrap(), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"),
            *("--clearenv", "--setenv", "PYTHONHASHSEED", "0", "--hostname", "box"),
            *mount_arguments(),
            *("--perms", "1777", "--size", str(disk_mb << 20), "--tmpfs", TEMPORARY, "--remount-ro", "/"),
            *("--chdir", TEMPORARY, "--info-fd", str(their_info), "--seccomp", str(their_filter), *users),
            *("--", interpreter(), "-s", "-P", "-S", "-X", "utf8", "-c", _BOOT),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=passed,
                process_group=0,
                env={},
            )
            for fd in passed:
                os.close(fd)
            passed = ()
            self._pid = _child_pid(info)
            self._pidfd = os.pidfd_open(self._pid)
            # Where the whole machine runs out of memory, boxes go first.
            with contextlib.suppress(OSError):
                Path(f"/proc/{self._pid}/oom_score_adj").write_text("1000")
            if uid is not None:
                for name in ("uid_map", "gid_map"):
                    Path(f"/proc/{self._pid}/{name}").write_text(f"0 {os.geteuid()} 1\n{_INNER_UID} {uid} 1\n")
                os.write(block, b"1")
        finally:
            for fd in (*passed, info, block):
                os.close(fd)
        inner = None if uid is None else _INNER_UID
        frame = marshal.dumps((PACKAGE, compiled("runner"), inner, (their_info, their_block, their_filter)))
        self._control.sendall(len(frame).to_bytes(4, "big") + frame)

    def _await_ready(self) -> None:
        self._control.settimeout(START_SECONDS)
        if self._receive(1) != runner.READY:
            raise BoxError("what it says first is wrong")
        self._folder = os.open(f"/proc/{self._pid}/root{TEMPORARY}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _send(self, frame: tuple[Any, ...], fds: tuple[int, ...]) -> None:
        data = marshal.dumps(frame)
        try:
            # The descriptors travel with the first bytes.
            socket.send_fds(self._control, [len(data).to_bytes(4, "big")], fds)
            self._control.sendall(data)
        except OSError as error:
            raise BoxError(f"the box is gone: {error}") from error

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self._control.recv(count - len(data))
            except OSError as error:
                raise BoxError(f"the box is gone: {error}") from error
            if not part:
                raise BoxError("the box is gone")
            data += part
        return bytes(data)


_PAGE = os.sysconf("SC_PAGE_SIZE")


@functools.cache
def bubblewrap() -> str:
    """The program file of bubblewrap, or "" where there is none."""
    return shutil.which("bwrap") or ""


def _child_pid(info: int) -> int:
    """Process 1 of a box, as bubblewrap tells it.

    Raises:
        BoxError: it does not get that far.
    """
    data = b""
    while not data.rstrip().endswith(b"}"):
        part = os.read(info, 4096)
        if not part:
            raise BoxError("bubblewrap ended before there was a box")
        data += part
    return int(json.loads(data)["child-pid"])


def _outer_uid() -> int | None:
    """A user of its own for the next box, where this process is root and has users to give; else None.

    The kernel limits the processes of any user but root, and what root owns no box should be able to touch.
    """
    if os.geteuid() != 0:
        return None
    for line in reversed(Path("/proc/self/uid_map").read_text().splitlines()):
        first, _, count = (int(word) for word in line.split())
        if count >= 1 << 15:
            # The last ids of a range are nobody's, even those that others may take for a special user.
            usable = min(count // 4, 1 << 15)
            return first + count - 2 - usable + next(_numbers) % usable
    return None


def _processes(pid: int) -> list[int]:
    """A process and all its descendants; orphans of a box are children of its process 1."""
    found, left = [], [pid]
    while left:
        process = left.pop()
        found.append(process)
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", "rb") as file:
                    left += [int(word) for word in file.read().split()]
    return found


def _usage(pid: int) -> tuple[int, int]:
    """Resident pages of all processes of a box, shared ones counted for each, and how many processes there are."""
    pages, processes = 0, _processes(pid)
    for process in processes:
        with contextlib.suppress(OSError), open(f"/proc/{process}/statm", "rb") as file:
            pages += int(file.read().split()[1])
    return pages, len(processes)


def _proportional(pid: int) -> int:
    """Bytes that all processes of a box take together, shared ones counted once."""
    total = 0
    for process in _processes(pid):
        with contextlib.suppress(OSError), open(f"/proc/{process}/smaps_rollup", "rb") as file:
            total += next((int(line.split()[1]) << 10 for line in file if line.startswith(b"Pss:")), 0)
    return total
