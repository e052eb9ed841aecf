"""Programs that look, reach or lie: they see nothing of this machine, reach nothing of it, and are believed nothing."""

import os
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sandbox_left import HELD, PATIENT, boxes_with, let_go, until

from tracelift_jax.tasks.sandbox import Bubblewrap, Program, Ran

Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("nothing_left")

LOOKING = {
    "environment": "print(dict(os.environ), os.environb)",
    "another way to it": "import posix; print(posix.environ)",
    "processes": "print(os.path.exists('/proc/self'), os.getpid() < 99)",
    "processes of this machine": (
        "print(show('/proc'), *(show(f'/proc/{pid}/{name}') for pid in (1, PID) for name in ('fd', 'root')))"
    ),
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
    ran = run(f"PID = {os.getpid()}{PRELUDE}{LOOKING[name]}")
    expected = {
        "processes": "False True\n",
        "processes of this machine": " ".join(["FileNotFoundError"] * 5) + "\n",
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
    ran = run(source)
    assert ran.status == "ok", ran
    written = set(eval(ran.stdout))
    assert written == {"/tmp", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}


def test_files_of_another_candidate_are_not_there(boxes: Bubblewrap) -> None:
    """A program looks while another one holds its files."""
    held: list[tuple[Ran, ...]] = []
    writer = Program(HELD + "print('held')", inputs=("",))
    thread = threading.Thread(target=lambda: held.append(boxes.run(writer, PATIENT)))
    thread.start()
    assert until(lambda: len(boxes_with(boxes, "here")) == 1)
    (read,) = boxes.run(Program("import os; print(os.listdir('/tmp'))", inputs=("",)), PATIENT)
    (box,) = boxes_with(boxes, "here")
    let_go(box)
    thread.join()
    assert read.stdout == "[]\n" and held[0][0].stdout == "held\n"


def test_shared_memory_with_a_name_stays_in_its_box(boxes: Bubblewrap) -> None:
    """It is a file of the working folder, which goes with it, and not of the folder that a machine has for all."""
    name = f"tracelift-{uuid.uuid4().hex}"
    source = (
        f"import os\nfrom multiprocessing import resource_tracker, shared_memory\n"
        f"print('{name}' in os.listdir('/dev/shm'))\n"
        f"memory = shared_memory.SharedMemory('{name}', create=True, size=4096)\n"
        f"resource_tracker.unregister('/{name}', 'shared_memory')\nprint('{name}' in os.listdir('/dev/shm'))"
    )
    runs = boxes.run(Program(source, inputs=("", "")), PATIENT)
    assert [run.stdout for run in runs] == ["False\nTrue\n"] * 2, runs
    assert name not in os.listdir("/dev/shm")


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
    "namespaces by clone": (
        "number = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n"
        "if ctypes.CDLL(None).syscall(number, 0x10000000 | 17, 0, 0, 0, 0) < 0: raise OSError"
    ),
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
    "a hard link to what is outside": "os.link('/etc/ld.so.cache', 'x')",
    "a link written through": "os.symlink(os.__file__, 'x'); open('x', 'a')",
    "a standard library that is changed": "os.unlink(os.__file__)",
    "a program with the rights of another": "os.setresuid(-1, 0, 0)",
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


def test_servers_of_this_machine_cannot_be_reached(run: Run, tmp_path: Path) -> None:
    """On loopback, by a path, by an abstract name; the listeners are real and hear nothing."""
    abstract_name, path = f"\0{uuid.uuid4().hex}", str(tmp_path / "socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(abstract_name)
        unix.bind(path)
        for listener in (abstract, unix):
            listener.listen()
        ways = (
            f"socket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), 0.5)",
            f"socket.socket(socket.AF_UNIX).connect({abstract_name!r})",
            f"socket.socket(socket.AF_UNIX).connect({path!r})",
        )
        for way in ways:
            assert run(refused(way)).stdout.startswith("refused "), way
        # A packet may well be sent, to the box itself.
        run(refused(f"socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp.getsockname()[1]}))"))
        for listener in (tcp, udp, abstract, unix):
            listener.settimeout(0)
        for listener in (tcp, abstract, unix):
            with pytest.raises(BlockingIOError):
                listener.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)


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
    first, attack, last = boxes.run(Program(source, inputs=("go", "attack", "go")), PATIENT)
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
    "takes the place of standard output": (
        "import io, sys\nsys.stdout = sys.__stdout__ = io.StringIO()\nsys.stderr.close()\nprint('42')\n"
        "raise SystemExit(3)"
    ),
    "has a hook for exceptions": "import sys\nsys.excepthook = lambda *_: print('42')\n1 / 0",
    "leaves it to a child": (
        "import os\nif os.fork() == 0: print('42'); raise SystemExit(0)\nos.wait()\nraise SystemExit(3)"
    ),
    "partial output, then a crash": "import os\nprint('42', flush=True)\nos.abort()",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_status_cannot_be_forged(run: Run, name: str) -> None:
    assert run(FORGED[name]).status == "raised"


EARLY = ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "exit()", "quit(0)"]


@pytest.mark.parametrize("end", EARLY)
def test_an_end_in_time_says_no_more_than_was_printed(run: Run, end: str) -> None:
    """The verdict is of the caller, who compares the output, of which there is none."""
    ran = run(f"{end}\nprint('42')")
    assert (ran.status, ran.stdout) == ("ok", "")


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
    runs = boxes.run(Program(source, inputs=("first", "later-input")), PATIENT)
    assert runs[0].stdout == "False True\n"


def test_modules_put_beside_the_program_change_nothing(boxes: Bubblewrap) -> None:
    source = """
import os
for name in ('sitecustomize', 'usercustomize', 'random', 'json'):
    open(name + '.py', 'w').write('print("taken over")')
import json
print(json.dumps(input()))
"""
    runs = boxes.run(Program(source, inputs=("a", "b")), PATIENT)
    assert [ran.stdout for ran in runs] == ['"a"\n', '"b"\n']
