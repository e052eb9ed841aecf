"""A sandbox for all tests of this folder, and a look at what programs leave behind."""

import gc
import os
import time
from collections.abc import Callable, Iterator

import pytest
from sandbox_left import QUICK, descendants

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.sandbox import Bubblewrap, Limits, Program, Ran


@pytest.fixture(scope="session")
def boxes() -> Iterator[Bubblewrap]:
    try:
        sandbox = Bubblewrap()
    except UserError as error:
        pytest.skip(str(error))
    with sandbox:
        yield sandbox


@pytest.fixture
def run(boxes: Bubblewrap) -> Callable[..., Ran]:
    """Runs a program once."""

    def run(source: str, stdin: str = "", limits: Limits = QUICK) -> Ran:
        (ran,) = boxes.run(Program(source, inputs=(stdin,)), limits)
        return ran

    return run


@pytest.fixture
def check(boxes: Bubblewrap) -> Callable[..., Ran]:
    """Runs a check of a program."""

    def run(source: str, check: str, limits: Limits = QUICK) -> Ran:
        (ran,) = boxes.run(Program(source, checks=(check,)), limits)
        return ran

    return run


@pytest.fixture
def nothing_left(run: Callable[..., Ran]) -> Iterator[None]:
    """What there is after a test is what there was: processes, descriptors, files; and the next program runs."""

    def seen() -> tuple[set[int], int, set[str], set[str]]:
        gc.collect()
        return (
            descendants(os.getpid()),
            len(os.listdir("/proc/self/fd")),
            set(os.listdir("/dev/shm")),
            set(os.listdir(".")),
        )

    before = seen()
    yield
    assert seen() == before
    began = time.monotonic()
    assert run("print(input())", "still here").stdout == "still here\n"
    assert time.monotonic() - began < 5
