"""Programs that take all: each is contained, named, leaves nothing behind, and the next one runs as if nothing was."""

import dataclasses
from collections.abc import Callable

import pytest
from sandbox_left import PATIENT, QUICK

from tracelift_jax.tasks.sandbox import Bubblewrap, Program, Ran
from tracelift_jax.tasks.sandbox.box import GRACE_SECONDS

Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("nothing_left")

EXHAUSTING = {
    "fork bomb": ("import os\nwhile True:\n try: os.fork()\n except OSError: pass", {"timeout", "memory"}),
    "fork bomb that raises": ("import os\nwhile True: os.fork()", {"timeout", "raised"}),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {"timeout", "raised"},
    ),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"memory"}),
    "one big block": ("x = bytearray(1 << 40)", {"memory"}),
    "memory bomb of children": (
        "import os, time\nfor _ in range(4): os.fork()\n"
        "x = []\nwhile True:\n try: x.append(bytes(os.urandom(1 << 20)))\n except MemoryError: time.sleep(9)",
        {"memory"},
    ),
    "memory that nobody has": (
        "import os\ntry: os.memfd_create('x')\nexcept PermissionError: print('refused')",
        {"ok"},
    ),
    "endless output": ("while True: print('x' * 1000)", {"output"}),
    "endless errors": ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {"output"}),
    "output of a child": ("import os\nif os.fork() == 0:\n while True: os.write(1, b'x' * 999)\nos.wait()", {"output"}),
    "disk": ("f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))", {"raised"}),
    "disk of many files": ("i = 0\nwhile True:\n open(str(i), 'wb').write(bytes(1 << 20))\n i += 1", {"raised"}),
    "a file with a hole": ("open('x', 'wb').truncate(1 << 40)", {"raised"}),
    "inodes": ("i = 0\nwhile True:\n open(str(i), 'w').close()\n i += 1", {"memory"}),
    "folders in folders": ("import os\nwhile True: os.mkdir('a'); os.chdir('a')", {"memory", "timeout"}),
    "descriptors": ("x = []\nwhile True: x.append(open('/dev/null'))", {"raised"}),
    "spin": ("while True: pass", {"timeout"}),
    "spin of threads": (
        "import threading\ndef f():\n while True: pass\nfor _ in range(8): threading.Thread(target=f).start()",
        {"timeout"},
    ),
    "sleep": ("import time; time.sleep(999)", {"timeout"}),
    "waiting for input": ("import sys, os\nr, w = os.pipe()\nos.read(r, 1)", {"timeout"}),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
        {"raised", "memory", "timeout"},
    ),
    "recursion in C": (
        "x = []\nfor _ in range(10 ** 6): x = [x]\nprint(len(repr(x)))",
        {"raised"},
    ),
    "giant integer": ("print(len(bin(3 ** (10 ** 9))))", {"timeout", "memory"}),
    "giant constant": ("x = 'a' * 10 ** 12", {"memory"}),
    "catastrophic pattern": ("import re; re.match(r'(a+)+$', 'a' * 64 + 'b')", {"timeout"}),
    "deaf to SIGTERM": (
        "import signal, time\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "while True: time.sleep(1)",
        {"timeout"},
    ),
    "stopped": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"timeout"}),
    "source of 50 MB": ("x = 1\n" * 8_000_000, {"memory", "timeout"}),
    "source of 50 MB that is one string": ("x = '" + "y" * 50_000_000 + "'", {"ok", "memory", "timeout"}),
    "source nested deeply": ("(" * 100_000 + ")" * 100_000, {"uncompilable", "memory", "raised"}),
    "NUL bytes in the source": ("print(1)\0\0", {"uncompilable"}),
    "a source that is no UTF-8": ("print('\udcff')", {"uncompilable"}),
    "NUL bytes and invalid UTF-8 printed": (
        "import sys\nwhile True: sys.stdout.buffer.write(bytes(range(256)))",
        {"output"},
    ),
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_what_takes_all_is_stopped_and_named(run: Run, name: str) -> None:
    source, statuses = EXHAUSTING[name]
    limits = QUICK if "timeout" in statuses else PATIENT
    ran = run(source, limits=limits)
    assert ran.status in statuses, ran
    assert ran.seconds < limits.seconds + GRACE_SECONDS


LEAVING = {
    "orphan": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(600)\n os._exit(0)\nos.wait()",
    "zombies": "for _ in range(9):\n if os.fork() == 0: os._exit(0)",
    "a child that holds the pipes": "if os.fork() == 0: time.sleep(600)",
    "a child that writes on": "if os.fork() == 0:\n while True: os.write(2, b'.'); time.sleep(0.01)",
    "a stopped child": "if (pid := os.fork()) == 0: time.sleep(600)\nos.kill(pid, signal.SIGSTOP)",
    "a child with a new session and no pipes": (
        "if os.fork() == 0:\n os.setsid(); os.closerange(0, 99); time.sleep(600)"
    ),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_a_program_leaves_running_ends_with_it(run: Run, name: str) -> None:
    ran = run(f"import os, signal, time\n{LEAVING[name]}\nprint('done')")
    assert (ran.status, ran.stdout) == ("ok", "done\n")


FAMILY = """
import os, time
n, same, seconds = map(int, input().split())
shared = os.urandom(100 << 20) if same else b''
filled, full = os.pipe()
for _ in range(n):
    if os.fork() == 0:
        mine = b'' if same else os.urandom(100 << 20)
        os.write(full, b'.')
        time.sleep(600)
seen = b''
while len(seen) < n: seen += os.read(filled, n)
time.sleep(seconds)
print('done')
"""


def test_memory_is_that_of_all_processes_together(run: Run) -> None:
    """Four children of 100 MiB each pass the limit of each process but not that of all."""
    ran = run(FAMILY, "4 0 600")
    assert (ran.status, ran.error) == ("memory", "took more than 256 MiB")
    assert run(FAMILY, "1 0 1").stdout == "done\n"


def test_shared_pages_count_once(run: Run) -> None:
    assert run(FAMILY, "8 1 1").stdout == "done\n"


def test_after_a_run_was_stopped_for_memory_the_next_input_has_its_chance(boxes: Bubblewrap) -> None:
    runs = boxes.run(Program(FAMILY, inputs=("0 0 0", "4 0 600", "0 0 0")), PATIENT)
    assert [ran.status for ran in runs] == ["ok", "memory", "ok"]


def test_processes_are_limited(run: Run) -> None:
    source = (
        "import os, time\nn = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(600)\n  n += 1\n"
        "except OSError as e: print(n, e)"
    )
    ran = run(source, limits=dataclasses.replace(PATIENT, processes=10))
    assert ran.stdout == "9 [Errno 11] Resource temporarily unavailable\n"
