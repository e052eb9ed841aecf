"""Programs that mean harm: each is contained, named, leaves nothing behind, and the next one runs as if nothing was."""

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_left import QUICK

from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Program, Ran

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
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_what_takes_all_is_stopped_and_named(run: Run, name: str) -> None:
    source, statuses = EXHAUSTING[name]
    # What ends by time has little of it; what ends otherwise has enough, on a busy machine too.
    limits = QUICK if "timeout" in statuses else dataclasses.replace(QUICK, seconds=20.0)
    ran = run(source, limits=limits)
    assert ran.status in statuses, ran
    assert ran.seconds < limits.seconds + 2


LEAVING = {
    "orphan": "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)\nos.wait()",
    "zombies": "for _ in range(9):\n if os.fork() == 0: os._exit(0)",
    "a child that holds the pipes": "if os.fork() == 0: time.sleep(60)",
    "a child that writes on": "if os.fork() == 0:\n while True: os.write(2, b'.'); time.sleep(0.01)",
    "a stopped child": "if (pid := os.fork()) == 0: time.sleep(60)\nos.kill(pid, signal.SIGSTOP)",
    "a child with a new session and no pipes": "if os.fork() == 0:\n os.setsid(); os.closerange(0, 99); time.sleep(60)",
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_a_program_leaves_running_ends_with_it(run: Run, name: str) -> None:
    ran = run(f"import os, signal, time\n{LEAVING[name]}\nprint('done')")
    assert (ran.status, ran.stdout) == ("ok", "done\n")
    assert ran.seconds < QUICK.seconds


LOOKING = {
    "environment": "print(dict(os.environ), os.environb)",
    "another way to it": "import posix; print(posix.environ)",
    "processes": "print(os.path.exists('/proc/self'), os.getpid() < 99)",
    "home": "print(os.path.expanduser('~'), show('/home'), show('/root'))",
    "accounts": "print(show('/etc'), show('/var'), show('/run'), show('/srv'), show('/sys'))",
    "this project": "print([importlib.util.find_spec(n) for n in ('jax', 'tracelift_jax.tasks.prepare')])",
    "tests": "print([root for root, _, files in os.walk('/') if 'marks_of_a_secret.txt' in files])",
    "packages": "print([(r, d) for r, d, f in os.walk('/') if r.endswith('-packages') and (d or f)])",
}
PRELUDE = """
import importlib.util, os, sys
def show(path):
    try: return os.listdir(path)
    except OSError as error: return type(error).__name__
"""


@pytest.mark.parametrize("name", LOOKING)
def test_there_is_nothing_to_be_seen(run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is here (a key, a file, a folder's names) is not in what a program can print of it."""
    monkeypatch.setenv("SECRET_KEY", "a-key-of-the-trainer")
    (tmp_path / "marks_of_a_secret.txt").write_text("a-key-of-the-trainer")
    ran = run(PRELUDE + LOOKING[name], limits=Limits(seconds=10))
    expected = {
        "processes": "False True\n",
        "accounts": "['ld.so.cache'] " + " ".join(["FileNotFoundError"] * 4) + "\n",
        "this project": "[None, None]\n",
        "tests": "[]\n",
        "packages": "[]\n",
    }
    assert ran.status == "ok", ran
    if name in expected:
        assert ran.stdout == expected[name]
    assert "a-key-of-the-trainer" not in ran.stdout and "SECRET_KEY" not in ran.stdout


def test_only_the_working_folder_can_be_written(run: Run) -> None:
    source = (
        PRELUDE
        + """
found = []
for root, folders, files in os.walk('/'):
    for path in [root, *(os.path.join(root, file) for file in files)]:
        try:
            if os.path.isdir(path):
                open(os.path.join(path, 'mine'), 'w').close()
            elif not os.path.islink(path):
                os.close(os.open(path, os.O_WRONLY))
            else:
                continue
        except OSError:
            continue
        found.append(path)
print(found)
"""
    )
    ran = run(source, limits=Limits(seconds=20))
    assert ran.status == "ok"
    written = set(eval(ran.stdout))
    assert written == {"/tmp", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}


def test_files_of_another_candidate_are_not_there(boxes: Bubblewrap) -> None:
    writer = Program("open('secret', 'w').write('x')\nimport time; time.sleep(0.5); print('held')", inputs=("",))
    reader = Program("import os; print(os.listdir('/tmp'))", inputs=("",))
    held: list[tuple[Ran, ...]] = []
    thread = threading.Thread(target=lambda: held.append(boxes.run(writer, QUICK)))
    thread.start()
    time.sleep(0.25)
    (read,) = boxes.run(reader, QUICK)
    thread.join()
    assert read.stdout == "[]\n" and held[0][0].stdout == "held\n"


def refused(source: str) -> str:
    return (
        PRELUDE
        + "import ctypes, socket\ntry:\n"
        + "\n".join(f" {line}" for line in source.splitlines())
        + ("\nexcept OSError as error: print('refused', type(error).__name__)\nelse: print('done')")
    )


REFUSED = {
    "a link to what is outside": "os.symlink('/etc/passwd', 'x'); open('x').read()",
    "a link over the working folder": "os.rename('/tmp', '/elsewhere')",
    "a way out through the root": "open('../../../../etc/passwd').read()",
    "a device file": "os.mknod('x', 0o60666, os.makedev(254, 0))",
    "a disk": "os.open('/dev/vda', os.O_RDONLY)",
    "memory of the machine": "os.open('/dev/mem', os.O_RDONLY)",
    "root": "os.setuid(0)",
    "another user": "os.setuid(1)",
    "another group": "os.setgroups([0])",
    "a file given away": "open('x', 'w').close(); os.chown('x', 0, 0)",
    "a higher priority": "os.nice(-5)",
    "a change of root": "os.chroot('/tmp')",
    "a mount": "if ctypes.CDLL(None, use_errno=True).mount(b'x', b'/tmp', b'tmpfs', 0, 0): raise OSError",
    "namespaces": "if ctypes.CDLL(None).unshare(0x10000000): raise OSError",
    "namespaces by clone": "if ctypes.CDLL(None).syscall(56, 0x10000000 | 17, 0, 0, 0, 0) < 0: raise OSError",
    "tracing of process 1": "if ctypes.CDLL(None).ptrace(16, 1, 0, 0): raise OSError",
    "memory of process 1": "if ctypes.CDLL(None).process_vm_readv(1, 0, 0, 0, 0, 0) < 0: raise OSError",
    "shared memory": "if ctypes.CDLL(None).shmget(1, 4096, 0o1666) < 0: raise OSError",
    "the host of a virtual machine": "socket.socket(40, socket.SOCK_STREAM)",
    "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "cloud metadata": "socket.create_connection(('169.254.169.254', 80), 0.5)",
    "the world": "socket.create_connection(('1.1.1.1', 53), 0.5)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
    "DNS": "socket.getaddrinfo('example.com', 80)",
    "a socket of the system": "s = socket.socket(socket.AF_UNIX); s.connect('/run/docker.sock')",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(run: Run, name: str) -> None:
    ran = run(refused(REFUSED[name]))
    assert ran.status == "ok" and ran.stdout.startswith("refused "), ran


def test_a_program_that_sets_user_ids_gains_nothing(run: Run) -> None:
    source = (
        "open('x', 'w').write('#!/bin/sh')\nimport os\nos.chmod('x', 0o6755)\n"
        "print(oct(os.stat('x').st_mode), os.getuid() != 0, os.statvfs('.').f_flag & os.ST_NOSUID)"
    )
    assert run(source).stdout == f"0o106755 True {os.ST_NOSUID}\n"


def test_servers_of_this_machine_cannot_be_reached(run: Run) -> None:
    """On loopback, by a path, by an abstract name; the listener is real and hears nothing."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind("\0tracelift-test")
        abstract.listen()
        for listener in (tcp, abstract):
            listener.settimeout(0)
        port = tcp.getsockname()[1]
        assert run(refused(f"socket.create_connection(('127.0.0.1', {port}), 0.5)")).stdout.startswith("refused")
        unix = "s = socket.socket(socket.AF_UNIX); s.connect('\\0tracelift-test')"
        assert run(refused(unix)).stdout == "refused ConnectionRefusedError\n"
        for listener in (tcp, abstract):
            with pytest.raises(BlockingIOError):
                listener.accept()


ATTACKS = {
    "kills process 1": "os.kill(1, 9)",
    "stops process 1": "os.kill(1, 19)",
    "interrupts process 1": "os.kill(1, 2)",
    "terminates process 1": "os.kill(1, 15)",
    "kills all it may": "os.kill(-1, 9)",
    "kills its parent": "os.kill(os.getppid(), 9)",
    "all signals to process 1": "[os.kill(1, s) for s in range(1, 65)]",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_runner_outlives_attacks_and_says_of_each_run_what_it_was(boxes: Bubblewrap, name: str) -> None:
    source = f"import os\nif input() == 'attack': {ATTACKS[name]}\nprint('on')"
    first, attack, last = boxes.run(Program(source, inputs=("go", "attack", "go")), QUICK)
    assert (first.status, first.stdout) == (last.status, last.stdout) == ("ok", "on\n")
    assert attack.status in {"ok", "raised"}


def test_a_program_has_no_descriptor_but_its_own_three(run: Run) -> None:
    source = (
        "import os\nfound = []\nfor fd in range(4096):\n try: os.fstat(fd)\n except OSError: continue\n"
        " found.append(fd)\nprint(found)"
    )
    with open("/dev/null") as _, socket.socketpair()[0]:
        assert run(source).stdout == "[0, 1, 2]\n"


FORGED = {
    "prints what a runner says": "import sys; sys.stdout.buffer.write(bytes(22)); print('ok', 1); raise SystemExit(3)",
    "writes to all descriptors": (
        "import os\nfor fd in range(3, 99):\n try: os.write(fd, b'\\0' * 99)\n except OSError: pass\n"
        "raise SystemExit(3)"
    ),
    "changes what is built in": (
        "import builtins, os, sys\nbuiltins.print = os._exit = sys.exit = os.write = lambda *a: None\n"
        "raise SystemExit(3)"
    ),
    "partial output, then a crash": "import os\nprint('42', flush=True)\nos.abort()",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_status_cannot_be_forged(run: Run, name: str) -> None:
    assert run(FORGED[name]).status == "raised"


def test_inputs_of_later_runs_are_not_in_memory(boxes: Bubblewrap) -> None:
    source = """
import gc, sys
frame, seen = sys._getframe(), []
while frame:
    seen += [repr(frame.f_locals), repr(frame.f_globals)]
    frame = frame.f_back
seen += [repr(o) for o in gc.get_objects() if isinstance(o, (list, dict, tuple)) and o is not seen]
held = ''.join(seen)
print('tupni-retal'[::-1] in held, 'dleh'[::-1] in held)
"""
    runs = boxes.run(Program(source, inputs=("first", "later-input")), Limits())
    assert runs[0].stdout == "False True\n"


def test_modules_put_beside_the_program_change_nothing(boxes: Bubblewrap) -> None:
    source = """
import os
for name in ('sitecustomize', 'usercustomize', 'random', 'json'):
    open(name + '.py', 'w').write('print("taken over")')
import json
print(json.dumps(input()))
"""
    runs = boxes.run(Program(source, inputs=("a", "b")), Limits())
    assert [ran.stdout for ran in runs] == ['"a"\n', '"b"\n']


def test_memory_is_that_of_all_processes_together(run: Run) -> None:
    """Four children of 100 MiB each pass the limit of each process but not that of all."""
    source = (
        "import os, time\nfor _ in range({}):\n if os.fork() == 0:\n  x = os.urandom(100 << 20)\n"
        "  time.sleep(1.5)\n  os._exit(0)\nfor _ in range({}): os.wait()\nprint('done')"
    )
    limits = Limits(seconds=6.0, memory_mb=256)
    ran = run(source.format(4, 4), limits=limits)
    assert (ran.status, ran.error) == ("memory", "took more than 256 MiB")
    assert run(source.format(1, 1), limits=limits).stdout == "done\n"


def test_shared_pages_count_once(run: Run) -> None:
    source = (
        "import os, time\nx = os.urandom(100 << 20)\nfor _ in range(8):\n if os.fork() == 0:\n"
        "  time.sleep(0.5)\n  os._exit(0)\nfor _ in range(8): os.wait()\nprint('done')"
    )
    assert run(source, limits=Limits(seconds=6.0, memory_mb=256)).stdout == "done\n"


def test_after_a_run_was_stopped_for_memory_the_next_input_has_its_chance(boxes: Bubblewrap) -> None:
    source = (
        "import os\nn = int(input())\nx = [os.fork() for _ in range(n)]\ny = os.urandom(n * (60 << 20))\nprint('done')"
    )
    runs = boxes.run(Program(source, inputs=("0", "3", "0")), dataclasses.replace(QUICK, seconds=5.0))
    assert [ran.status for ran in runs] == ["ok", "memory", "ok"]


def test_processes_are_limited(run: Run) -> None:
    source = (
        "import os, time\nn = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(9)\n  n += 1\n"
        "except OSError as e: print(n, e)"
    )
    ran = run(source, limits=Limits(processes=10))
    assert ran.stdout == "9 [Errno 11] Resource temporarily unavailable\n"
