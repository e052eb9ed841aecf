"""The process in which math-verify compares LaTeX answers; started by `tasks.latex`, and by its path: no package.

Lines of JSON: `{"said", "reference", "seconds"}` in, a verdict out. The first one out is `"ready"`, or what is missing.

No text becomes code. math-verify reads LaTeX by a grammar; its way of reading plain expressions goes through Python's
`eval` and is not asked for. The grammar still has sympy read each of its numbers, which sympy does by `eval` too, and
sympy compiles a formula that it evaluates often. `no_code_from_text` takes all of that away.

Time ends by the kernel's timers, which kill the process even within one product of huge integers; memory by a limit of
the process. It is processor time, so that verdicts do not depend on what else the machine does.
"""

import contextlib
import importlib
import json
import logging
import os
import re
import resource
import signal
import sys
from typing import Any, NoReturn, TextIO

OK, WRONG, FAILED = 1, 0, -1
"""As in `tasks.verdict`, which this file does not import."""

MEMORY_BYTES = 2 << 30
START_SECONDS = 60.0

_INTEGER = re.compile(r"\d+", re.ASCII)
_DECIMAL = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,6})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*")


def no_code_from_text() -> None:
    """Makes sympy read a text as a number or a name and nothing else, and lets it compile no formula."""
    parser: Any = importlib.import_module("sympy.parsing.sympy_parser")
    compiler: Any = importlib.import_module("sympy.utilities.lambdify")
    parser.parse_expr = _literal  # which `sympify` looks up whenever it is given a text
    for module in (parser, compiler):
        module.eval = module.exec = module.compile = _refuse  # a module's own names hide the built-in ones


def _literal(text: str, *_: object, **__: object) -> Any:
    from sympy import Float, Integer, Symbol, SympifyError

    if _INTEGER.fullmatch(text):
        return Integer(int(text))
    if _DECIMAL.fullmatch(text):
        return Float(text)
    if _NAME.fullmatch(text):
        return Symbol(text)
    raise SympifyError(text)


def _refuse(*_: object) -> NoReturn:
    raise PermissionError("no text becomes code here")


def compare(said: str, reference: str) -> int:
    """Whether two formulas mean the same; FAILED where the memory or the stack was too small to tell."""
    from math_verify import LatexExtractionConfig, parse, verify

    rules = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
    try:
        wanted, got = (
            parse(rf"\boxed{{{text}}}", rules, parsing_timeout=0, raise_on_error=True) for text in (reference, said)
        )
        return OK if verify(wanted, got, timeout_seconds=0, raise_on_error=True) else WRONG
    except (MemoryError, RecursionError):
        return FAILED
    except Exception:
        return WRONG  # things that cannot be compared, as a point and an interval, are not the same


def _limit_time(seconds: float) -> None:
    """Has the kernel end this process after so much processor time, or ten times that by the clock; 0 lifts it."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _serve(requests: TextIO, replies: TextIO) -> None:
    for line in requests:
        request = json.loads(line)
        _limit_time(request["seconds"])
        verdict = compare(request["said"], request["reference"])
        _limit_time(0)
        print(json.dumps(verdict), file=replies, flush=True)


def main() -> None:
    """Says "ready" and answers until the input ends."""
    _limit_time(START_SECONDS)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no reply
    logging.disable(logging.CRITICAL)
    try:
        no_code_from_text()
        compare(r"(x+1)^2", "x^2+2x+1")  # imports what is imported late
    except ImportError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), file=replies, flush=True)
        return
    _limit_time(0)
    print(json.dumps("ready"), file=replies, flush=True)
    _serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
