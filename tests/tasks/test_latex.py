r"""LaTeX answers: decided by hand, in time and memory whatever they are, and never as code."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks import latex_worker
from tracelift_jax.tasks.latex import LONGEST, LatexWorker, find_formula, shared_worker
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG
from tracelift_jax.tasks.verify import verify

needs_math_verify = pytest.mark.skipif(
    find_spec("math_verify") is None, reason="no math-verify: pip install -e .[latex]"
)

FORMULAS = {
    "\\boxed{\\frac{1}{2}}": "\\frac{1}{2}",
    "first \\boxed{3}, then \\boxed{ x^{2} }. $y$": "x^{2}",
    "\\boxed{\\left\\{ x \\right.} }": "\\left\\{ x \\right.",
    "\\fbox{3}": "3",
    "cut off: \\boxed{x^{2": "x^{2",
    "\\boxed{} $y$": "y",
    "The answer is $x$ and not $y$.": "x",
    "The answer is: \\(x + 1\\).": "x + 1",
    "The final answer is\n\\[\nx\n\\]\nas $y$ shows": "x",
    "The answer is \\frac{1}{2}.\nThe rest is $y$": "\\frac{1}{2}",
    "Final Answer: (3, 4)\n": "(3, 4)",
    "$y$\n#### x^2\n": "x^2",
    "so $x$, hence $$y$$ at last": "y",
    "$x = \\$5$": "x = \\$5",
    "\\[ \\begin{pmatrix} 1 \\\\[2pt] 2 \\end{pmatrix} \\]": "\\begin{pmatrix} 1 \\\\[2pt] 2 \\end{pmatrix}",
    "\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}": "\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}",
    "We see\n\\frac{1}{2}": "\\frac{1}{2}",
    "18.": "18",
    "": "",
    "$$": "",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_where_the_formula_is(text):
    assert find_formula(text) == FORMULAS[text]


WITHOUT_MATH_VERIFY = [
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", OK),
    ("$\\frac{1}{2}$", "0.5", OK),
    ("1 / 3", "0.333333", OK),
    ("18", "17", WRONG),
    ("\\boxed{ x + 1 }", "x+1", OK),
    ("", "", WRONG),
    ("", "x", WRONG),
    ("x" * (LONGEST + 1), "x" * (LONGEST + 1), OK),
    ("x" * (LONGEST + 1), "x", WRONG),
    ("\\frac{1}{2", "x", WRONG),
    ("5} {6", "x", WRONG),
    ("__import__('os').system('false')", "5" * (LONGEST + 1), WRONG),
]


@pytest.mark.parametrize(("text", "reference", "wanted"), WITHOUT_MATH_VERIFY)
def test_what_needs_no_math_verify(text, reference, wanted, monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    shared_worker().close()
    assert verify(text, reference, "latex") == wanted


def test_math_verify_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    shared_worker().close()
    with pytest.raises(UserError, match=r"^LaTeX answers need math-verify; install it: pip install .*\[latex\]'$"):
        verify("x", "y", "latex")


VERDICTS = r"""
\frac12                                  | 1/2                                        | 1
11\sqrt2                                 | 11\sqrt{2}                                 | 1
2\sqrt{2}                                | \sqrt{8}                                   | 1
(x+1)^2                                  | x^2+2x+1                                   | 1
x^2+3x-6                                 | 3x+x^2-6                                   | 1
x^3+3x-6                                 | x^3+3x-5                                   | 0
2k+1                                     | 2n+1                                       | 0
6-5i                                     | -5i+6                                      | 1
50\%                                     | 50                                         | 1
50\%                                     | \frac12                                    | 1
90^\circ                                 | 90                                         | 1
10,\!000                                 | 10000                                      | 1
\$32,348                                 | 32348                                      | 1
18\text{ cm}                             | 18                                         | 1
5\text{ cm}^2                            | 5                                          | 1
(3,\frac{\pi}{2})                        | (3, \pi/2)                                 | 1
(3,4)                                    | (4,3)                                      | 0
[-2,7]                                   | [-2, 7]                                    | 1
(-2,7)                                   | [-2,7]                                     | 0
x \in [-2,7]                             | [-2,7]                                     | 1
(-\infty,2)\cup(3,\infty)                | (-\infty, 2) \cup (3, \infty)              | 1
1,2,3                                    | 3,2,1                                      | 1
1,2                                      | 1,2,3                                      | 0
\{1,2\}                                  | 1,2                                        | 1
x=5                                      | 5                                          | 1
\pm 3                                    | 3,-3                                       | 1
\pm 3                                    | 3                                          | 0
1 \pm \sqrt{19}                          | 1+\sqrt{19}, 1-\sqrt{19}                   | 1
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix}-\frac13\\\frac23\end{pmatrix} | 1
\begin{pmatrix} 1 \\ 2 \end{pmatrix}     | \begin{pmatrix}2\\1\end{pmatrix}           | 0
\text{Evelyn}                            | Evelyn                                     | 1
\text{(C)}                               | C                                          | 1
\text{even}                              | \text{odd}                                 | 0
2\frac{1}{2}                             | \frac52                                    | 1
\frac{1}{3}                              | 0.33                                       | 0
\pi                                      | 3.14                                       | 0
\log_2 3                                 | \frac{\ln 3}{\ln 2}                        | 1
5!                                       | 120                                        | 1
\binom{5}{2}                             | 10                                         | 1
\frac{1}{0}                              | 1                                          | 0
1234567890123456789012345678901234567890+x | x+1234567890123456789012345678901234567891 | 0
48151623!                                | x                                          | 0
\int_0^1 x dx                            | \frac12                                    | 1
2**10**10                                | x                                          | 0
__import__('os').system('false')         | x                                          | 0
\operatorname{system}(\text{false})      | x                                          | 0
"""


def table() -> list[tuple[str, str, int]]:
    rows = [[cell.strip() for cell in line.split(" | ")] for line in VERDICTS.strip().splitlines()]
    return [(said, reference, int(wanted)) for said, reference, wanted in rows]


@needs_math_verify
def test_decided_by_hand():
    wrong = []
    for said, reference, wanted in table():
        for text in (said, f"So it is $y$.\n\\boxed{{{said}}}"):
            got = verify(text, reference, "latex")
            if got != wanted:
                wrong.append((text, reference, got))
    assert not wrong


# --------------------------------------------------------------------------------------------------------- limits


@pytest.fixture(scope="module")
def worker():
    worker = LatexWorker(seconds=1)
    yield worker
    worker.close()


def pid(worker: LatexWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


@needs_math_verify
@pytest.mark.parametrize(
    ("bomb", "verdicts"),
    [
        ("10^{10^{10}}", [FAILED]),
        ("\\binom{10000000000}{5000000000}", [FAILED]),
        ("\\operatorname{eye}(100000)", [FAILED, WRONG]),  # sympy may notice that the memory does not suffice
    ],
)
def test_a_bomb_has_no_verdict_and_the_next_answer_has(worker, bomb, verdicts):
    begin = time.monotonic()
    assert worker.compare(bomb, "x+1") in verdicts
    assert time.monotonic() - begin < 60  # of a busy machine; on its own, 1 s and a start
    assert worker.compare("x+x", "2x") == OK
    assert worker.compare("x+x", "3x") == WRONG


@needs_math_verify
def test_one_worker_serves_many_answers_and_is_started_again_when_it_dies(worker):
    assert worker.compare("x+x", "2x") == OK
    first = pid(worker)
    assert worker.compare("y+y", "2y") == OK
    assert pid(worker) == first
    os.kill(first, signal.SIGKILL)
    assert worker.compare("x+x", "2x") == FAILED  # it died, that is all that is known
    assert worker.compare("x+x", "2x") == OK
    assert pid(worker) != first
    last = pid(worker)
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
    assert worker.compare("x+x", "2x") == OK


@needs_math_verify
def test_an_interrupted_answer_is_not_taken_for_the_next(worker):
    assert worker.compare("x+x", "2x") == OK

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            worker.compare("10^{10^{10}}", "x+1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert worker.compare("x+x", "2x") == OK


def test_a_worker_that_does_not_start(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ImportError('of this test')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"math-verify does not start .*ImportError: of this test"):
        LatexWorker().compare("x", "y")


# ----------------------------------------------------------------------------------------------------- never code

WATCHED = r"""
import json, sys
sys.path.insert(0, sys.argv[1])
from latex_worker import compare, no_code_from_text
no_code_from_text()
compare("x^2", "1")
seen = []
bad = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "os.remove")
def watch(event, args):
    if event == "compile" and args[0] is not None:
        seen.append(args[0].decode() if isinstance(args[0], bytes) else str(args[0]))
    if event in bad:
        seen.append("zqx " + event)
sys.addaudithook(watch)
verdicts = [compare(said, reference) for said, reference in json.load(sys.stdin)]
import sympy
try:
    refused = str(sympy.sympify("__import__('os').getpid()"))
except Exception as error:
    refused = type(error).__name__
try:
    lambdified = str(sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x") + 1))
except Exception as error:
    lambdified = type(error).__name__
numbers = [str(sympy.sympify(text)) for text in ("48", "0.5", "x")]
found = {"refused": refused, "lambdified": lambdified, "numbers": numbers}
print(json.dumps({"seen": seen, "verdicts": verdicts, **found}))
"""

# Each with a number or a name that nothing but the answer has.
ATTACKS = [
    ("48151623", "x"),
    ("1.48151623", "\\frac{1}{3}"),
    ("48151623e3", "x"),
    ("(x+1)^{48151623}", "(1+x)^{48151623}"),
    ("\\sum_{n=1}^{\\infty} \\frac{48151623}{n^2}", "\\frac{48151623\\pi^2}{6}"),
    ("\\int_0^{48151623} zqx \\, d zqx", "\\frac12"),
    ("zqx^5+48151623zqx=1", "zqx^5+zqx=1"),
    ("\\text{__import__('zqx').system('zqx')}", "x"),
    ("__import__('zqx')", "x"),
    ("\\operatorname{zqx}(48151623)", "\\operatorname{exec}(x)"),
    ("\\operatorname{eval}(\\text{zqx})", "x"),
    ("x_{__import__('zqx')}", "x"),
    ("\\mathrm{zqx}**48151623", "x"),
    ("f(zqx)=48151623", "f(x)=1"),
]


@needs_math_verify
def test_no_part_of_an_answer_is_compiled():
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED, str(Path(latex_worker.__file__).parent)],
        input=json.dumps(ATTACKS),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["verdicts"][3] == OK and set(result["verdicts"]) <= {OK, WRONG}
    assert [source for source in result["seen"] if "48151623" in source or "zqx" in source] == []
    assert result["seen"]  # the watch works: libraries compile code of their own
    assert result["refused"] == "SympifyError" and result["lambdified"] == "PermissionError"
    assert result["numbers"] == ["48", "0.500000000000000", "x"]
