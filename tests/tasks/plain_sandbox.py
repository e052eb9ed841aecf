"""A sandbox that closes nothing: plain Python processes, for programs that the tests wrote themselves.

As in a real one a check is no part of the program: it calls what that defines, and plain values go over.
"""

import json
import subprocess
import sys

from tracelift_jax.tasks.sandbox.program import Limits, Program, Ran

_CHECK = """
import json, sys
source, checks = json.load(sys.stdin)

def plain(value):
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    raise TypeError(f"{value!r} is no plain value")

def outside(function):
    return lambda *a, **k: plain(function(*plain(a), **plain(k)))

ended = []
for check in checks:
    try:
        inside = {"__name__": "program"}
        exec(compile(source, "program", "exec"), inside)
        reached = {name: outside(value) for name, value in inside.items() if callable(value) and name[:2] != "__"}
        exec(compile(check, "check", "exec"), reached)
        ended.append(("ok", ""))
    except AssertionError as error:
        ended.append(("failed", repr(error)))
    except SyntaxError as error:
        ended.append(("uncompilable", repr(error)))
    except Exception as error:
        ended.append(("raised", repr(error)))
json.dump(ended, sys.stderr)
"""


class PlainSandbox:
    """Runs each input in a process, and all checks in another."""

    def run(self, program: Program, limits: Limits) -> tuple[Ran, ...]:
        ran = [self._input(program.source, text, limits) for text in program.inputs]
        if program.checks:
            asked = json.dumps([program.source, program.checks])
            done = subprocess.run([sys.executable, "-I", "-c", _CHECK], input=asked, text=True, capture_output=True)
            ran += [Ran(status, error=error) for status, error in json.loads(done.stderr.splitlines()[-1])]
        return tuple(ran)

    def describe(self) -> str:
        return "no isolation"

    def _input(self, source: str, text: str, limits: Limits) -> Ran:
        command = [sys.executable, "-I", "-c", source]
        try:
            done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return Ran("timeout")
        if done.returncode == 0:
            return Ran("ok", done.stdout)
        last = done.stderr.strip().splitlines()[-1]
        return Ran("uncompilable" if last.startswith("SyntaxError") else "raised", done.stdout, last)
