r"""LaTeX answers, compared by math-verify in a process of its own.

math-verify builds on sympy, which can be made to work for hours or to fill the memory by a short formula. So it runs in
`latex_worker`, which limits of time and memory end without harm: then there is no verdict, and a new worker is started
for the next answer. math-verify's own deadlines work in the main thread alone, and not within one operation.
"""

import atexit
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from tracelift_jax.errors import UserError
from tracelift_jax.tasks import latex_worker
from tracelift_jax.tasks.exact import TOLERANCE, only_number
from tracelift_jax.tasks.stretch import balanced, box, find_stretch
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG

LONGEST = 1000
"""Characters of an answer that math-verify is asked about. A longer one is right only as the same text."""

_MATH = re.compile(r"(?<!\\)(?:\$+|\\[()\[\]])")
_AROUND = " \t\r\n$*"
_ENDING = re.compile(r"(?<!\\right)[.,;:]\Z")  # `\right.` closes what shows no bracket
_LEADING = re.compile(r"(?:is\b)?[\s:]*")


class LatexWorker:
    """Compares LaTeX answers one at a time; started when first asked, and again after it died. Threads may share it."""

    def __init__(self, seconds: float = 5.0):
        """Gives each comparison so many seconds of processor time."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def compare(self, said: str, reference: str) -> int:
        """Whether two formulas mean the same: OK, WRONG, or FAILED where time or memory ran out or the worker died.

        Raises:
            UserError: math-verify is not installed, or does not start.
        """
        request = json.dumps({"said": said, "reference": reference, "seconds": self._seconds})
        with self._lock:
            try:
                reply = _ask(self._running(), request)
            except BaseException:  # of an interruption: a reply left unread would be taken for the next one's
                self._stop()
                raise
            if reply is None:
                self._stop()
                return FAILED
            return json.loads(reply)

    def close(self) -> None:
        """Ends the worker; asked again, it starts again."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner == os.getpid():  # a fork would share the pipes
            return self._process
        if importlib.util.find_spec("math_verify") is None:
            raise UserError("LaTeX answers need math-verify; install it: pip install 'tracelift_jax[latex]'")
        # By its path, so that it does not import this package; -P, so that it imports no file beside it either.
        command = [sys.executable, "-P", str(Path(latex_worker.__file__))]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        # Of a session of its own, so that Ctrl-C, which lets a run finish its step, does not end it.
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True, start_new_session=True)
        self._process, self._owner = process, os.getpid()
        ready = _line(process)
        if ready != '"ready"':
            raise UserError(
                f"math-verify does not start ({ready or 'no word from it'}); try: python -c 'import math_verify'"
            )
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str], request: str) -> str | None:
    assert process.stdin is not None
    try:
        process.stdin.write(request + "\n")
        process.stdin.flush()
    except BrokenPipeError:  # it died while idle
        return None
    return _line(process)


def _line(process: subprocess.Popen[str]) -> str | None:
    """The next line, or None where the worker is gone."""
    assert process.stdout is not None
    return process.stdout.readline().strip() or None


@functools.cache
def shared_worker() -> LatexWorker:
    """The worker of this process, ended with it."""
    worker = LatexWorker()
    atexit.register(worker.close)
    return worker


def same_formula(text: str, reference: str) -> int:
    """Whether the final answers of two texts are the same as formulas: OK, WRONG or FAILED.

    The same but for blanks is right, and plain numbers are compared as `exact` does; math-verify is asked for the rest,
    where neither is longer than `LONGEST` and braces match.

    Raises:
        UserError: math-verify is needed, and not installed.
    """
    said, wanted = find_formula(text), find_formula(reference)
    if not said or not wanted:
        return WRONG
    if "".join(said.split()) == "".join(wanted.split()):
        return OK
    numbers = only_number(said), only_number(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return OK if abs(numbers[0] - numbers[1]) <= TOLERANCE else WRONG
    if max(len(said), len(wanted)) > LONGEST or not balanced(said) or not balanced(wanted):
        return WRONG
    return shared_worker().compare(said, wanted)


def find_formula(text: str) -> str:
    r"""The final answer of a text as LaTeX, "" where there is none.

    What the last `\boxed{}` holds; else behind a marker (see `stretch.find_stretch`) the formula in what follows, or
    the line; else the last formula of all, or the text from `\begin{` on, or the last line.
    """
    content = box(text)
    if content is not None:
        return _bare(content)
    stretch = find_stretch(text)
    before, *formulas = _MATH.split(stretch.words.strip())
    filled = [formula for formula in formulas[::2] if formula.strip()]
    if stretch.words != text:
        if filled and "\n" not in before.strip():
            return _bare(filled[0])
        return _bare(_LEADING.sub("", stretch.words.strip().partition("\n")[0], count=1))
    if filled:
        return _bare(filled[-1])
    begin = text.find(r"\begin{")
    return _bare(text[begin:] if begin >= 0 else text.strip().rpartition("\n")[2])


def _bare(formula: str) -> str:
    return _ENDING.sub("", formula.strip(_AROUND)).strip(_AROUND)
