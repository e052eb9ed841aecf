"""A sandbox for all tests of this folder, and a look at what programs leave behind."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox_left import PATIENT, descendants

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Program, Ran


def makes_boxes() -> bool:
    """Whether bubblewrap is here and may do what it is for, whatever our boxes are."""
    if not (program := shutil.which("bwrap")):
        return False
    command = [program, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", sys.executable, "-c", ""]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def boxes() -> Iterator[Bubblewrap]:
    try:
        sandbox = Bubblewrap()
    except UserError as error:
        if makes_boxes():
            raise
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.fixture
def run(boxes: Bubblewrap) -> Callable[..., Ran]:
    """Runs a program once."""

    def run(source: str, stdin: str = "", limits: Limits = PATIENT) -> Ran:
        (ran,) = boxes.run(Program(source, inputs=(stdin,)), limits)
        return ran

    return run


@pytest.fixture
def check(boxes: Bubblewrap) -> Callable[..., Ran]:
    """Runs a check of a program."""

    def run(source: str, check: str, limits: Limits = PATIENT) -> Ran:
        (ran,) = boxes.run(Program(source, checks=(check,)), limits)
        return ran

    return run


@pytest.fixture
def nothing_left(run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What there is after a test is what there was: processes, descriptors, files; and the next program runs.

    It runs in a folder of its own, where what a program writes by a relative name would show.
    """
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def seen() -> tuple[set[int], list[str], int]:
        return descendants(os.getpid()), os.listdir("."), len(os.listdir("/proc/self/fd"))

    before = seen()
    yield
    after = seen()
    if after[2] > before[2]:
        gc.collect()  # slow, and nearly always for nothing
        after = seen()
    assert after[:2] == before[:2] and after[2] <= before[2], (before, after)
    ran = run("print(input())", "still here")
    assert (ran.status, ran.stdout) == ("ok", "still here\n")
