"""Tiny models, read once."""

from pathlib import Path

import pytest
from scripted import Scripted, config, start, with_executors
from tiny import write_models

from tracelift_jax.evals.work import Work


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
