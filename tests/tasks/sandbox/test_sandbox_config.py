"""Closed by default: without a sandbox nothing runs, one line says why, and to run unprotected one must ask by name."""

import dataclasses
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_left import PATIENT, descendants, is_running, until

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import (
    Bubblewrap,
    Limits,
    Program,
    SandboxConfig,
    Unprotected,
    box,
    open_pool,
    open_sandbox,
)
from tracelift_jax.tasks.sandbox.box import bubblewrap

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder where programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    bubblewrap.cache_clear()
    yield tmp_path
    bubblewrap.cache_clear()


def install(folder: Path, script: str) -> None:
    file = folder / "bwrap"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_without_bubblewrap_nothing_runs_and_it_says_how_to_get_it(path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_sandbox(SandboxConfig())
    said = str(caught.value)
    assert said.startswith("no sandbox: bubblewrap is missing; install it (apt-get install bubblewrap), or ")
    assert "backend='remote'" in said and "\n" not in said
    with pytest.raises(UserError, match="bubblewrap is missing"):
        open_pool(SandboxConfig())


def test_where_no_box_can_be_made_it_says_what_bubblewrap_says(path: Path) -> None:
    install(path, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError) as caught:
        open_sandbox(SandboxConfig())
    said = str(caught.value)
    assert "bwrap: No permissions to create new namespace" in said and "unprivileged_userns_clone" in said
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # what other tests left may be closed meanwhile


def test_a_bubblewrap_that_says_nothing(path: Path) -> None:
    install(path, "exit 0")
    with pytest.raises(UserError, match="cannot make a box: bubblewrap ended before there was a box;"):
        open_sandbox(SandboxConfig())


def test_a_sandbox_that_breaks_later_says_nothing_of_programs(boxes: Bubblewrap, path: Path) -> None:
    """Unplugged in the middle: the runs are of no status that speaks of the program."""
    bubblewrap.cache_clear()
    program = Program("print(1)\ndef f(): return 1", inputs=("", ""), checks=("assert f() == 1",))
    runs = boxes.run(program, Limits())
    assert [run.status for run in runs] == ["infrastructure"] * 3
    assert all(run.error.startswith("no box: ") for run in runs)


def test_running_unprotected_must_be_asked_for(path: Path) -> None:
    sandbox = open_sandbox(SandboxConfig(danger_run_unprotected=True))
    assert isinstance(sandbox, Unprotected)
    assert sandbox.describe().startswith("NOTHING")


REFUSED = {
    "a backend that is none": ({"backend": "docker"}, "SandboxConfig.backend: expected one of 'bubblewrap', 'remote'"),
    "no address": ({"backend": "remote"}, "SandboxConfig.url must be like"),
    "a wrong address": ({"backend": "remote", "url": "sandbox:8080"}, "SandboxConfig.url must be like"),
    "an address for no server": ({"url": "http://x"}, "SandboxConfig.url is for backend='remote'"),
    "both": ({"backend": "remote", "url": "http://x", "danger_run_unprotected": True}, "danger_run_unprotected is for"),
    "workers": ({"workers": -1}, "SandboxConfig.workers must not be negative"),
    "a word for a truth": ({"danger_run_unprotected": "yes"}, "expected bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_settings(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        SandboxConfig(**settings)


def soon(status: str, output_kb: int = 64) -> Limits:
    """Little time for what is to be stopped by the clock, and enough for all else."""
    return Limits(seconds=0.6 if status == "timeout" else 60.0, output_kb=output_kb)


UNPROTECTED = {
    "ok": ("print(int(input()) + 1)", "ok", "2\n"),
    "raised": ("print(1); raise KeyError('x')", "raised", "1\n"),
    "uncompilable": ("def f(:", "uncompilable", ""),
    "timeout": ("while True: pass", "timeout", ""),
    "memory": ("raise MemoryError", "memory", ""),
    "output": ("print('x' * 3000)", "output", "x" * 2048),
}


@pytest.mark.parametrize("name", UNPROTECTED)
def test_unprotected_runs_end_as_sandboxed_ones(name: str) -> None:
    source, status, stdout = UNPROTECTED[name]
    (ran,) = Unprotected().run(Program(source, inputs=("1",)), soon(status, output_kb=2))
    assert (ran.status, ran.stdout) == (status, stdout)


CHECKS = {
    "ok": ("def f(x): return x + 1", "ok"),
    "failed": ("def f(x): return x", "failed"),
    "raised": ("def f(x): return x / 0", "raised"),
    "raised early": ("1 / 0", "raised"),
    "memory": ("raise MemoryError", "memory"),
    "uncompilable": ("def f(:", "uncompilable"),
    "ended": ("import os\ndef f(x): os._exit(0)", "raised"),
    "timeout": ("while True: pass", "timeout"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_unprotected_checks_too(name: str) -> None:
    source, status = CHECKS[name]
    (ran,) = Unprotected().run(Program(source, checks=("assert f(1) == 2",)), soon(status))
    assert (ran.status, ran.stdout) == (status, "")


LASTING = {
    "a check": ("{mark}\ndef f():\n    while True: pass", {"checks": ("assert f() == 2",)}),
    "a child": ("import os\nif os.fork() == 0:\n    {mark}\n    while True: pass", {"inputs": ("",)}),
    "a child of a check": (
        "import os, time\nif os.fork() == 0:\n    {mark}\n    time.sleep(600)\ntime.sleep(0.5)\ndef f(): return 2",
        {"checks": ("assert f() == 2",)},
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_unprotected_programs_are_ended_too(name: str, tmp_path: Path) -> None:
    """The process of the program, its children, and the child of the checker that it is."""
    source, runs = LASTING[name]
    mark = f"print(__import__('os').getpid(), file=open({str(tmp_path / 'pid')!r}, 'w'), flush=True)"
    (ran,) = Unprotected().run(Program(source.format(mark=mark), **runs), Limits(seconds=2.0))
    assert ran.status in {"ok", "timeout"}, ran
    pid = int((tmp_path / "pid").read_text())
    assert until(lambda: not is_running(pid), 10.0)


def test_unprotected_programs_do_not_spin_on_without_their_trainer(tmp_path: Path) -> None:
    """It is killed, and can do nothing about them; the kernel counts their time, here that of a checker's child."""
    script = (
        "from tracelift_jax.tasks.sandbox import Limits, Program, Unprotected\n"
        "Unprotected().run(Program('while True: pass', checks=('assert f()',)), Limits(seconds=0.9))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment) as trainer:
        assert until(lambda: len(descendants(trainer.pid)) == 2)
        left = descendants(trainer.pid)
        trainer.kill()
    assert until(lambda: not any(is_running(pid) for pid in left))


def test_where_there_are_no_users_to_give_boxes_are_made_all_the_same(
    boxes: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for anybody but root; the number of processes is then watched where the kernel does not limit it."""
    monkeypatch.setattr(box, "_outer_uid", lambda: None)
    bomb = "import os, time\nfor _ in range(200):\n if os.fork() == 0: time.sleep(600)\ntime.sleep(600)"
    with Bubblewrap() as sandbox:
        program = Program("def f(): return 2\nif __name__ == '__main__': print(input())", ("x",), ("assert f() == 2",))
        assert [run.status for run in sandbox.run(program, PATIENT)] == ["ok", "ok"]
        (ran,) = sandbox.run(Program(bomb, inputs=("",)), dataclasses.replace(PATIENT, memory_mb=1024))
        assert ran.error in {
            "had more than 32 processes",
            "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        }
        (ran,) = sandbox.run(Program("import os; os.kill(1, 9); print(os.getuid() > 0)", inputs=("",)), PATIENT)
        assert ran.stdout == "True\n"
        for path in ("'/mine'", "os.__file__"):  # what is shown belongs to the same user here
            (ran,) = sandbox.run(Program(f"import os; open({path}, 'a')", inputs=("",)), PATIENT)
            assert ran.error.startswith("OSError: [Errno 30] Read-only file system: ")
