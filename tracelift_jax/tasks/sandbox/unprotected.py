"""No sandbox: programs run with this process's own rights. Opened by a setting that says so, and by nothing else."""

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tracelift_jax.tasks.sandbox.bundle import standalone
from tracelift_jax.tasks.sandbox.ends import end_of_check, end_of_process
from tracelift_jax.tasks.sandbox.mounts import interpreter
from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran, Status

_LIMITED = 'ulimit -S -t "$0"; exec "$@"'
"""Limits CPU time and becomes what follows: where this process is killed, nobody else stops a program that spins."""


class Unprotected:
    """Runs programs as processes like any other; of the limits it keeps `seconds` and `output_kb` alone.

    What a program leaves running is killed with it, except what has put itself into a process group of its own. Where
    the trainer is killed, a program ends when it has used its time on a core.
    """

    def close(self) -> None:
        """Nothing is kept."""

    def describe(self) -> str:
        """What isolates the programs."""
        return "NOTHING: programs run unprotected, with this process's own rights"

    def run(self, program: Program, limits: Limits) -> tuple[Ran, ...]:
        """See `Sandbox.run`."""
        runs = []
        for text in program.inputs:
            ended, stdout, seconds = _run(program.source, text, limits)
            runs.append(Ran(ended[0], stdout, ended[1], seconds))
        for check in program.checks:
            mark = secrets.token_hex(16)
            task = json.dumps({"mark": mark, "source": program.source, "check": check})
            ended, stdout, seconds = _run(standalone(), task, limits)
            status, said = end_of_check(stdout, mark, ended)
            runs.append(Ran(status, "", said, seconds))
        return tuple(runs)


def _run(source: str, text: str, limits: Limits) -> tuple[tuple[Status, str], str, float]:
    """Runs a program once: how it ended, what it printed, and how long it took."""
    began = time.monotonic()
    cpu = str(math.ceil(limits.seconds) + 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "main.py")
        file.write_bytes(source.encode(errors="replace"))
        with subprocess.Popen(
            ["/bin/sh", "-c", _LIMITED, cpu, interpreter(), "-I", "-X", "utf8", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            start_new_session=True,
        ) as process:
            code = None
            try:
                stdout, stderr = process.communicate(text.encode(errors="surrogateescape"), timeout=limits.seconds)
                code = process.returncode if process.returncode != -signal.SIGXCPU else None
            except subprocess.TimeoutExpired:
                stdout = stderr = b""
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    said, errors = stdout.decode(errors="replace"), stderr.decode(errors="replace")
    ended = end_of_process(code, said, errors, limits)
    return ended, said[: limits.output_kb * 1024], time.monotonic() - began
