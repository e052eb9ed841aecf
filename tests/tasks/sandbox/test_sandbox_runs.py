"""How programs end when they mean no harm: the same as when Python runs them, and named exactly."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_left import PATIENT

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Program, Ran, run_program

Run = Callable[..., Ran]

ENDS = {
    "prints": ("print(1, 2)", "ok", "1 2\n", ""),
    "no newline": ("import sys; sys.stdout.write('x')", "ok", "x", ""),
    "says it well": ("import sys; sys.exit(0)", "ok", "", ""),
    "ends at once": ("import os; print('lost'); os._exit(0)", "ok", "", ""),
    "exit of site": ("print(1); exit()", "ok", "1\n", ""),
    "exit status": ("print(1); quit(3)", "raised", "1\n", "exit status 3"),
    "words for a status": ("import sys; sys.exit('no luck')", "raised", "", "no luck"),
    "raises": ("print(1)\n1 / 0", "raised", "1\n", "ZeroDivisionError: division by zero"),
    "raises late": ("def f():\n raise KeyError('k')\nf()", "raised", "", "KeyError: 'k'"),
    "assertion": ("assert 1 == 2, 'no'", "raised", "", "AssertionError: no"),
    "its own SyntaxError": ("exec('1 +')", "raised", "", "SyntaxError: invalid syntax"),
    "signal": ("import os; os.kill(os.getpid(), 11)", "raised", "", "killed by SIGSEGV"),
    "a signal without a name": ("import os; os.kill(os.getpid(), 40)", "raised", "", "killed by signal 40"),
    "no Python": ("def f(:", "uncompilable", "", "SyntaxError: invalid syntax (main.py, line 1)"),
    "Python 2": (
        "print 1",
        "uncompilable",
        "",
        "SyntaxError: Missing parentheses in call to 'print'. Did you mean print(...)? (main.py, line 1)",
    ),
    "indentation": (
        "if 1:\nprint(1)",
        "uncompilable",
        "",
        "IndentationError: expected an indented block after 'if' statement on line 1 (main.py, line 2)",
    ),
    "NUL": ("print(1)\0", "uncompilable", "", None),
    "half a pair": ("print('\ud800')", "uncompilable", "", None),
    "empty": ("", "ok", "", ""),
    "atexit": ("import atexit; atexit.register(print, 'bye')", "ok", "bye\n", ""),
    "threads": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "ok",
        "late\n",
        "",
    ),
    "a main module": ("if __name__ == '__main__': print(__import__('sys').argv)", "ok", "['main.py']\n", ""),
    "its own classes": (
        "import dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n x: int\n"
        "print(pickle.loads(pickle.dumps(A(3))))",
        "ok",
        "A(x=3)\n",
        "",
    ),
    "children": (
        "import multiprocessing as m\nif __name__ == '__main__':\n"
        " with m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, 2]))",
        "ok",
        "[1, 2]\n",
        "",
    ),
    "libraries": (
        "import collections, decimal, hashlib, heapq, itertools, json, math, random, re, sqlite3, zlib\n"
        "print(math.tau)",
        "ok",
        "6.283185307179586\n",
        "",
    ),
    "files": ("open('a', 'w').write('x' * 9)\nprint(len(open('a').read()))", "ok", "9\n", ""),
    "not UTF-8": (r"import sys; sys.stdout.buffer.write(b'a\xff\0b')", "ok", "a�\0b", ""),
    "surrogates": (r"print('\udcff')", "ok", "�\n", ""),
    "stderr is not output": ("import sys; print('x', file=sys.stderr)", "ok", "", ""),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_program_ends_as_python_ends_it(run: Run, name: str) -> None:
    source, status, stdout, error = ENDS[name]
    ran = run(source, limits=Limits(seconds=60.0))
    assert (ran.status, ran.stdout) == (status, stdout)
    assert error is None or ran.error == error


INPUTS = {
    "lines": ("a, b = map(int, input().split())\nprint(a + b)", "3 4\n", "7\n"),
    "carriage returns": ("print(repr(input()))", "x\r\ny", "'x'\n"),
    "all at once": ("import sys\nprint(sum(map(int, sys.stdin)))", "1\n2\n3", "6\n"),
    "by file number": ("print(open(0).read())", "x", "x\n"),
    "bytes": ("import sys\nprint(sys.stdin.buffer.read())", "é\udcff", r"b'\xc3\xa9\xff'" + "\n"),
    "a prompt": ("print(input('? '))", "x", "? x\n"),
    "much, read": ("import sys\nprint(len(sys.stdin.read()))", "x" * 3_000_000, "3000000\n"),
    "much, not read": ("print(1)", "x" * 3_000_000, "1\n"),
    "none": ("import sys\nprint(repr(sys.stdin.read()))", "", "''\n"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_program_finds_its_input(run: Run, name: str) -> None:
    source, stdin, stdout = INPUTS[name]
    ran = run(source, stdin, Limits(seconds=60.0))
    assert (ran.status, ran.stdout, ran.error) == ("ok", stdout, "")


def test_reading_past_the_end_raises_as_in_python(run: Run) -> None:
    assert run("input()").error == "EOFError: EOF when reading a line"


@pytest.mark.parametrize("folder, word", [("", "hang"), ("os.makedirs('deep/er')", "go")])
def test_runs_of_one_program_share_nothing(boxes: Bubblewrap, folder: str, word: str) -> None:
    """Neither names, nor files, nor processes; even after one was stopped. A folder that is left takes a new box."""
    source = """
import builtins, os, sys, time
try: os.kill(-1, 0); others = True
except ProcessLookupError: others = False
print(sorted(os.listdir('.')), hasattr(builtins, 'mark'), 'mark' in globals(), others)
word = input()
builtins.mark = mark = 1
open('left', 'w').write('x')
if os.fork() == 0:
    os.setsid(); os.closerange(0, 99); time.sleep(600)
if word == 'hang':
    while True: time.sleep(1)
"""
    runs = boxes.run(Program(source + folder, inputs=("go", word, "go", "go")), Limits(seconds=2.0))
    assert [ran.status for ran in runs] == ["ok", "timeout" if word == "hang" else "ok", "ok", "ok"]
    assert {ran.stdout for ran in (runs[0], *runs[2:])} == {"[] False False False\n"}


def test_there_is_one_run_for_each_input_and_check_in_their_order(boxes: Bubblewrap) -> None:
    source = "def f(x): return int(x)\nif __name__ == '__main__': print(f(input()))"
    runs = boxes.run(Program(source, ("1", "x", "3"), ("assert f(2) == 2", "assert f(2) == 3")), PATIENT)
    assert [(ran.status, ran.stdout) for ran in runs] == [
        ("ok", "1\n"),
        ("raised", ""),
        ("ok", "3\n"),
        ("ok", ""),
        ("failed", ""),
    ]
    assert boxes.run(Program(source), PATIENT) == ()


def test_wall_time_is_limited_and_told(run: Run) -> None:
    ran = run("import time\ntime.sleep(0.2)")
    assert ran.status == "ok" and 0.2 <= ran.seconds < PATIENT.seconds
    ran = run("import time\nprint('x', flush=True)\ntime.sleep(60)", limits=Limits(seconds=0.3))
    assert (ran.status, ran.stdout, ran.error) == ("timeout", "x\n", "ran longer than 0.3 s")
    assert 0.3 <= ran.seconds < 30


def test_output_up_to_the_limit_is_fine_and_one_byte_more_is_not(run: Run) -> None:
    limits = dataclasses.replace(PATIENT, output_kb=1)
    assert run("print('x' * 1023)", limits=limits).status == "ok"
    ran = run("print('x' * 1024)", limits=limits)
    assert (ran.status, ran.stdout) == ("output", "x" * 1024)


def test_sets_are_in_the_same_order_in_every_box(run: Run) -> None:
    assert len({run("print(list({'a', 'b', 'c', 'd', 'e', 'f'}))").stdout for _ in range(4)}) == 1


def test_one_program_by_its_source(boxes: Bubblewrap) -> None:
    assert run_program("print(int(input()) + 1)", "41", PATIENT).stdout == "42\n"
    assert run_program("while True: pass", limits=Limits(seconds=0.2)).status == "timeout"


@pytest.mark.usefixtures("boxes")
@settings(max_examples=10, deadline=None)
@given(words=st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_text_comes_back_as_it_went_in(words: list[str]) -> None:
    text = "\n".join(words)
    ran = run_program("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", text, PATIENT)
    assert (ran.status, ran.stdout) == ("ok", text)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_above_zero(field: str) -> None:
    with pytest.raises(UserError, match=rf"Limits\.{field} must be above 0"):
        Limits(**{field: 0})
