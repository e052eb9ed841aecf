"""Tiny models, read once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import Scripted, config, start, with_executors
from tiny import write_models

from tracelift_jax.config import Limits, SandboxConfig
from tracelift_jax.errors import UserError
from tracelift_jax.evals.work import Work
from tracelift_jax.rollout.judging import ProgramJudge


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("evals"))


@pytest.fixture(scope="session")
def local(folder) -> Work:
    """Eleven problems, reference reasoning, all audits; the resident executor."""
    return start(config(folder), lambda file: pytest.fail("no trained planner is asked for"))


@pytest.fixture
def work(local) -> Work:
    """The same before an executor that follows the reasoning."""
    return with_executors(local, scripted=Scripted())


@pytest.fixture(scope="session")
def program_judge() -> Iterator[ProgramJudge]:
    """Runs programs in real boxes; skips where none can be made."""
    try:
        judge = ProgramJudge(SandboxConfig(limits=Limits(seconds=20.0)))
    except UserError as error:
        pytest.skip(str(error))
    with judge:
        yield judge
