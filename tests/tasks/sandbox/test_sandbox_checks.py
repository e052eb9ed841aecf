"""Checks that call what a program defines: right answers pass, and nothing a program does makes a wrong one right."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox_left import HELD, PATIENT, QUICK, boxes_with, descendants, let_go, until

from tracelift_jax.tasks.sandbox import Bubblewrap, Program, Ran

Check = Callable[..., Ran]

PASSING = {
    "numbers": ("def f(x): return x + 1", "assert f(1) == 2 and f(-(10 ** 30)) == 1 - 10 ** 30 and f(0.5) == 1.5"),
    "kinds": (
        "def f(x): return x",
        "for x in [None, True, 0, -1, 2.5, 1j, '', 'é\\ud800', b'\\xff', bytearray(b'a'), [], (), {}, set(),"
        " [1, [2, (3,)]],"
        " {'a': {1: {2}}}, frozenset({1}), range(3, 9, 2), float('inf'), int]:\n"
        "    assert f(x) == x and type(f(x)) is type(x), x",
    ),
    "exact constants": ("def f(x): return x > 0", "assert f(1) is True and f(-1) is False"),
    "keywords and defaults": (
        "def f(a, *b, c=3, **d): return a, b, c, d",
        "assert f(1, 2, c=4, e=5) == (1, (2,), 4, {'e': 5})",
    ),
    "a function of the check": (
        "def f(x): return x * 2",
        "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)",
    ),
    "subclasses become plain": (
        "import collections, enum\nP = collections.namedtuple('P', 'x y')\nclass E(enum.IntEnum): A = 3\n"
        "def f(k): return [P(1, 2), collections.Counter('aab'), collections.OrderedDict(a=1), E.A][k]",
        "assert f(0) == (1, 2) and f(1) == {'a': 2, 'b': 1} and f(2) == {'a': 1} and f(3) == 3",
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i",
        "assert list(f(3)) == [0, 1, 2] and 2 in f(3) and 9 not in f(3)",
    ),
    "objects": (
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def total(node): return node.v + total(node.next) if node else 0",
        "a = Node(1)\na.next = Node(2)\na.next.next = Node(3)\nassert total(a) == 6 and a.next.v == 2\n"
        "assert a.next is not a and a.next == a.next and a.next.next.next is None",
    ),
    "objects like lists": (
        "import collections\ndef f(): return collections.deque([1, 2, 3])",
        "d = f()\nassert d[0] == 1 and len(d) == 3 and list(d) == [1, 2, 3]\nd[0] = 7\nd.append(4)\n"
        "assert list(d) == [7, 2, 3, 4] and d",
    ),
    "arguments changed in place": (
        "def f(x, d, s):\n    x.sort()\n    d['new'] = x[0]\n    s.clear()",
        "x, d, s = [3, 1, 2], {}, {1}\nassert f(x, d, s) is None\nassert (x, d, s) == ([1, 2, 3], {'new': 1}, set())",
    ),
    "exceptions": (
        "class Mine(ValueError): pass\ndef f(): raise Mine('no')",
        "try:\n    f()\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    raise AssertionError",
    ),
    "state between calls": (
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        "assert [f(), f(), f()] == [1, 2, 3]",
    ),
    "plain globals": ("LIMIT = [1, 2]", "assert LIMIT == [1, 2]"),
    "a built-in name that is the program's": ("def sum(a, b): return a * b", "assert sum(3, 4) == 12"),
    "its own main is left alone": ("def f(): return 1\nif __name__ == '__main__': input()", "assert f() == 1"),
    "printing": ("def f():\n    print('x' * 100)\n    return 1", "print('y')\nassert f() == 1"),
    "libraries of the check": ("def f(): return 0.1 + 0.2", "import math\nassert math.isclose(f(), 0.3)"),
    "recursion": ("def f(n): return n and n + f(n - 1)", "assert f(300) == 45150"),
    "types as arguments": ("def f(x, kind): return isinstance(x, kind)", "assert f(1, int) and not f('', int)"),
    "methods": (
        "class A:\n    def f(self, x): return x + 1\n    @staticmethod\n    def g(): return 5",
        "assert A().f(1) == 2 and A.g() == 5",
    ),
    "functions that it returns": ("def add(n): return lambda x: x + n", "assert add(2)(3) == 5"),
}


@pytest.mark.parametrize("name", PASSING)
def test_right_answers_pass(check: Check, name: str) -> None:
    ran = check(*PASSING[name])
    assert (ran.status, ran.stdout, ran.error) == ("ok", "", "")


FAILING = {
    "a wrong answer": ("def f(): return 1", "assert f() == 2", "failed", "AssertionError"),
    "words": ("def f(): return 1", "assert f() == 2, 'not two'", "failed", "AssertionError: not two"),
    "a missing name": ("def g(): return 1", "assert f() == 2", "failed", "NameError: name 'f' is not defined"),
    "a type that cannot be compared": (
        "def f(): return None",
        "assert f() < 2",
        "failed",
        "TypeError: '<' not supported between instances of 'NoneType' and 'int'",
    ),
    "it raises": ("def f(): raise KeyError('k')", "assert f() == 2", "raised", "KeyError: 'k'"),
    "it asserts": ("def f(): assert 0, 'mine'", "assert f() == 2", "raised", "AssertionError: mine"),
    "it raises before it is called": (
        "1 / 0\ndef f(): return 2",
        "assert f() == 2",
        "raised",
        "ZeroDivisionError: division by zero",
    ),
    "it ends": ("import sys\ndef f(): sys.exit(0)", "assert f() == 2", "raised", None),
    "it ends at once": (
        "import os\ndef f(): os._exit(0)",
        "assert f() == 2",
        "raised",
        "the program ended while it was called",
    ),
    "it ends before it is called": (
        "import os; os._exit(0)",
        "assert f() == 2",
        "raised",
        "the program ended while it was called",
    ),
    "a crash": ("import os\ndef f(): os.abort()", "assert f() == 2", "raised", "killed by SIGABRT"),
    "no Python": ("def f(:", "assert f() == 2", "uncompilable", "SyntaxError: invalid syntax (main.py, line 1)"),
    "it hangs": ("def f():\n    while True: pass", "assert f() == 2", "timeout", "ran longer than 0.4 s"),
    "it hangs before it is called": ("while True: pass", "assert f() == 2", "timeout", "ran longer than 0.4 s"),
    "memory": ("def f(): return bytearray(1 << 40)", "assert f() == 2", "memory", "MemoryError"),
    "memory before it is called": ("x = bytearray(1 << 40)", "assert f() == 2", "memory", "MemoryError"),
    "endless output": (
        "def f():\n    while True: print('x' * 999)",
        "assert f() == 2",
        "output",
        "printed more than it may",
    ),
    "a result too long": (
        "def f(): return bytes(17 << 20)",
        "assert f() == 2",
        "raised",
        "ValueError: a result of 17825814 bytes",
    ),
    "an endless result": ("def f():\n    while True: yield 1", "assert list(f()) == 2", "timeout", None),
    "half a message": (
        "import os\ndef f():\n    os.write(4, b'\\0\\0\\1\\0half')\n    return 2",
        "assert f() == 2",
        "timeout",
        None,
    ),
    "a result in itself": (
        "def f():\n    x = []\n    x.append(x)\n    return x",
        "assert f() == 2",
        "raised",
        "ValueError: a value nested too deeply",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_what_is_wrong_is_named(check: Check, name: str) -> None:
    source, text, status, error = FAILING[name]
    ran = check(source, text, QUICK if status == "timeout" else PATIENT)
    assert ran.status == status, ran
    assert error is None or ran.error == error


YES = (
    "class Yes(int):\n    __eq__ = __ne__ = __lt__ = __gt__ = __bool__ = lambda *_: True\n"
    "    __hash__ = int.__hash__\n    __contains__ = __bool__\n"
)
CHEATS = {
    "a number that equals all": (YES + "def f(): return Yes(3)", "assert f() == 2"),
    "a list that equals all": (
        "class L(list):\n    __eq__ = lambda *_: True\ndef f(): return L([1])",
        "assert f() == [2]",
    ),
    "a text that equals all": (
        "class S(str):\n    __eq__ = lambda *_: True\n    __hash__ = str.__hash__\ndef f(): return S('a')",
        "assert f() == 'b'",
    ),
    "an object that equals all": (
        YES.replace("(int)", "").replace("    __hash__ = int.__hash__\n", "") + "def f(): return Yes()",
        "assert f() == 2",
    ),
    "an object that holds all": (
        YES.replace("(int)", "").replace("    __hash__ = int.__hash__\n", "") + "def f(): return Yes()",
        "assert 2 in f()",
    ),
    "an object within a list": (
        YES.replace("(int)", "").replace("    __hash__ = int.__hash__\n", "") + "def f(): return [Yes()]",
        "assert f() == [2]",
    ),
    "an object as a key": (
        "class K:\n    __eq__ = lambda *_: True\n    __hash__ = lambda _: hash('a')\ndef f(): return {K(): 1}",
        "assert f() == {'a': 1}",
    ),
    "differences that are none": (
        "class F(float):\n    __sub__ = __rsub__ = __abs__ = lambda *_: 0.0\ndef f(): return F(9)",
        "assert abs(f() - 2) < 1e-6",
    ),
    "abs replaced": (
        "def abs(x): return 0\nimport builtins\nbuiltins.abs = abs\ndef f(): return 9",
        "assert abs(f() - 2) < 1e-6",
    ),
    "all replaced": ("def all(x): return True\ndef f(): return 9", "assert all([f() == 2])"),
    "set replaced": ("def set(x): return 0\ndef f(): return [9]", "assert set(f()) == set([2])"),
    "the check replaced": (
        "def check(c): pass\ndef f(): return 9",
        "def check(candidate):\n    assert candidate() == 2\ncheck(f)",
    ),
    "AssertionError replaced": (
        "class AssertionError(Exception): pass\nimport builtins\n"
        "builtins.AssertionError = AssertionError\ndef f(): return 9",
        "assert f() == 2",
    ),
    "an exception that equals all": (
        "class E(Exception):\n    __eq__ = lambda *_: True\ndef f(): raise E",
        "assert f() == 2",
    ),
    "SystemExit": ("def f(): raise SystemExit(0)", "assert f() == 2"),
    "GeneratorExit": ("def f(): raise GeneratorExit", "assert f() == 2"),
    "KeyboardInterrupt": ("def f(): raise KeyboardInterrupt", "assert f() == 2"),
    "a later exit": ("import atexit, os\natexit.register(os._exit, 0)\ndef f(): return 9", "assert f() == 2"),
    "a printed verdict": (
        "print('ok')\nimport os\nfor fd in range(1, 50):\n    try: os.write(fd, b'ok\\n')\n"
        "    except OSError: pass\ndef f(): return 9",
        "assert f() == 2",
    ),
    "frames walked for the check": (
        "import sys, gc\ndef f():\n    frame, seen = sys._getframe(), []\n    while frame:\n"
        "        seen.append(repr(frame.f_locals) + repr(frame.f_globals) + repr(frame.f_code.co_consts))\n"
        "        frame = frame.f_back\n"
        "    seen += [repr(o) for o in gc.get_objects() if isinstance(o, (list, dict, tuple))]\n"
        "    wanted = '3733137331373313'[::-1]\n"  # 31337 alone is now and then part of an address
        "    return int(wanted) if wanted in ''.join(seen) else 0",
        "assert f() == int('3133731337313373')\nexpected = 3133731337313373",
    ),
    "arguments that grow": ("def f(x):\n    x.append(x[0])\n    return 0", "x = [1]\nassert f(x) == 1"),
    "endless lengths": (
        "class A:\n    __len__ = lambda _: 2\n    __getitem__ = lambda *_: 5\ndef f(): return A()",
        "assert f() == [5, 5]",
    ),
    "a handle that is not there": (
        "import os, struct\ndef f():\n"
        "    body = b't\\0\\0\\0\\3s\\0\\0\\0\\2okh\\0\\0\\0\\x4d' + b'l' + bytes(4)\n"
        "    os.write(4, struct.pack('!I', len(body)) + body)\n    return 9",
        "assert f() == 2",
    ),
    "noise on the pipe": (
        "import os\ndef f():\n    os.write(4, b'\\0\\0\\0\\5noise')\n    return 9",
        "assert f() == 2",
    ),
    "a very long message": ("import os\ndef f():\n    os.write(4, b'\\xff' * 4000)\n    return 9", "assert f() == 2"),
}


RIGHT = Program("def f(): return 2", checks=("assert f() == 2",))


@pytest.fixture(scope="module")
def own_boxes(boxes: Bubblewrap) -> Iterator[Bubblewrap]:
    """A sandbox for the cheats, which leave nothing when it is closed."""
    gc.collect()
    before = descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
    with Bubblewrap() as sandbox:
        yield sandbox
    gc.collect()
    assert (descendants(os.getpid()), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize("name", CHEATS)
def test_a_wrong_answer_stays_wrong(own_boxes: Bubblewrap, name: str) -> None:
    """And the next program, whose check finds the same box, is as right as ever; no box is left but that one."""
    source, text = CHEATS[name]
    (ran,) = own_boxes.run(Program(source, checks=(text,)), PATIENT)
    assert ran.status in {"failed", "raised"}, ran
    assert own_boxes.run(RIGHT, PATIENT)[0].status == "ok"
    assert len(own_boxes._live) == 1


def test_a_cheat_does_not_touch_the_next_check(boxes: Bubblewrap) -> None:
    bad = Program("import os\nos.write(4, os.urandom(99))\ndef f(): os.kill(-1, 9)", checks=("assert f() == 2",))
    ends = [boxes.run(program, PATIENT)[0].status for program in (bad, RIGHT, bad, RIGHT)]
    assert ends == ["raised", "ok", "raised", "ok"]


def test_each_check_begins_anew(boxes: Bubblewrap) -> None:
    source = "n = 0\ndef f():\n    global n\n    n += 1\n    return n"
    runs = boxes.run(
        Program(source, checks=("assert f() == 1", "x = 1; assert f() == 1", "assert x", "assert f() == 1")), PATIENT
    )
    assert [ran.status for ran in runs] == ["ok", "ok", "failed", "ok"]


def test_a_check_that_is_no_python_says_nothing_of_the_program(check: Check) -> None:
    ran = check("def f(): return 2", "assert f( == 2")
    assert ran.status == "infrastructure" and ran.error.startswith("the check is no Python")


def test_what_a_check_cannot_pass_is_said(check: Check) -> None:
    ran = check("def f(g): return g(1)", "assert f(lambda x: x) == 1")
    assert (ran.status, ran.error) == ("failed", "TypeError: a check cannot pass a function to a program")


def in_memory_of(pid: int, words: bytes) -> bool:
    """Whether a process can be seen to hold these words, anywhere that it can write."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                first, last = (int(word, 16) for word in span.split("-"))
                memory.seek(first)
                if words in memory.read(last - first):
                    return True
    return False


def test_no_memory_of_the_box_of_the_program_holds_the_check(boxes: Bubblewrap) -> None:
    """Seen from outside, where everything can be read, while the check waits for an answer."""
    source = "kept = 'words-of-the-program'\ndef f():" + HELD.replace("\n", "\n    ") + "return 2"
    ended: list[Ran] = []
    program = Program(source, checks=("assert f() == 2, 'words-of-the-check'",))
    thread = threading.Thread(target=lambda: ended.extend(boxes.run(program, PATIENT)))
    thread.start()
    assert until(lambda: len(boxes_with(boxes, "here")) == 1)
    (box,) = boxes_with(boxes, "here")
    processes = [box._pid, *descendants(box._pid)]
    found = [
        [in_memory_of(pid, words) for pid in processes] for words in (b"words-of-the-program", b"words-of-the-check")
    ]
    let_go(box)
    thread.join()
    assert found == [[True, True], [False, False]]
    assert ended[0].status == "ok"


def test_the_check_is_not_in_the_box_of_the_program(boxes: Bubblewrap) -> None:
    """Its files, arguments and environment, in which a second program of one box looks after a first check ran."""
    source = """
import gc, os, sys
def f(): return [repr(o) for o in gc.get_objects() if 'ydobon-yb-detnaw'[::-1] in repr(o)[:10000] and not callable(o)]
seen = f()
"""
    check = "assert not f() and not seen, f()\nexpected = 'wanted' '-by-nobody'"
    runs = boxes.run(Program(source, checks=(check, check)), PATIENT)
    assert [ran.status for ran in runs] == ["ok", "ok"], runs
