"""A check where there is one process and not two boxes: the program runs in a child of the checker.

Weaker than two boxes: the child is of the same user, so one that reads its parent's memory finds the check. But it does
not inherit the check, which is read after the child has been made, and it has neither the standard output nor the mark
of the verdict. Who started this ends what the program leaves running: all of it is in one process group.
"""

import _socket
import contextlib
import json
import os
import signal
import sys

from tracelift_jax.tasks.sandbox.inside import check, serve, wire

# Not from typing: see wire.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_TEXT = 500


def main() -> "NoReturn":
    """Reads {"mark", "source", "check"} from standard input; prints the mark, the status and what there is to say."""
    ours, theirs = (end.detach() for end in _socket.socketpair())
    said, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.close(said)
        _serve(theirs, report)
    os.close(theirs)
    os.close(report)
    task = json.loads(sys.stdin.buffer.read())
    wire.send(ours, task["source"].encode())
    status, error = check.verdict(task["check"], ours)
    if error == check.LOST:
        status, _, error = os.read(said, 2 * _TEXT).decode("utf-8", "replace").partition("\n")
        _, code = os.waitpid(pid, 0)
        if not status:
            status, error = "raised", f"{check.LOST}, with exit status {os.waitstatus_to_exitcode(code)}"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    print(task["mark"], status, error, sep="\n", flush=True)
    os._exit(0)


def _serve(fd: int, report: int) -> "NoReturn":
    """The program's process."""
    null = os.open("/dev/null", os.O_RDWR)
    for place in (0, 1, 2):
        os.dup2(null, place)
    source = wire.receive(fd)
    module = type(sys)("candidate")
    sys.modules["candidate"] = sys.modules["__main__"] = module
    status = "uncompilable"
    try:
        code = compile(source, "main.py", "exec", dont_inherit=True)
        status = "raised"
        exec(code, module.__dict__)
    except BaseException as error:
        status = "memory" if isinstance(error, MemoryError) else status
        os.write(report, f"{status}\n{type(error).__name__}: {error}"[:_TEXT].encode("utf-8", "replace"))
        os._exit(1)
    serve.serve(module.__dict__, fd)
