"""Closed by default: without a sandbox nothing runs, one line says why, and to run unprotected one must ask by name."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    assert len(os.listdir("/proc/self/fd")) == descriptors


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
    (ran,) = Unprotected().run(Program(source, inputs=("1",)), Limits(seconds=1.0, output_kb=2))
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
    (ran,) = Unprotected().run(Program(source, checks=("assert f(1) == 2",)), Limits(seconds=1.0))
    assert (ran.status, ran.stdout) == (status, "")


def test_where_there_are_no_users_to_give_boxes_are_made_all_the_same(
    boxes: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for anybody but root; the number of processes is then watched where the kernel does not limit it."""
    monkeypatch.setattr(box, "_outer_uid", lambda: None)
    bomb = "import os, time\nfor _ in range(200):\n if os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    with Bubblewrap() as sandbox:
        program = Program("def f(): return 2\nif __name__ == '__main__': print(input())", ("x",), ("assert f() == 2",))
        assert [run.status for run in sandbox.run(program, Limits())] == ["ok", "ok"]
        (ran,) = sandbox.run(Program(bomb, inputs=("",)), Limits(seconds=20.0))
        assert ran.error in {
            "had more than 32 processes",
            "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        }
        (ran,) = sandbox.run(Program("import os; os.kill(1, 9); print(os.getuid() > 0)", inputs=("",)), Limits())
        assert ran.stdout == "True\n"
