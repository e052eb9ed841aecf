"""The shipped reward model, loaded once, and items to grade."""

import pytest
from serve_files import SHIPPED, Expected, graded_by_rollout

from tracelift_jax import gin_config
from tracelift_jax.config import DialGroups, DialTask, Scorer
from tracelift_jax.serve.scorer import Item, LoadedScorer, load_scorer


@pytest.fixture(scope="session")
def config() -> Scorer:
    return gin_config.load(Scorer, [str(SHIPPED)]).value


@pytest.fixture(scope="session")
def scorer(config) -> LoadedScorer:
    return load_scorer(config)


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """A true and four flawed traces of 20 problems."""
    groups = DialGroups(DialTask(min_ops=3)).groups("test")
    return [
        Item(group.problem, trace.reasoning)
        for group in (groups[i] for i in range(20))
        for trace in (*group.positives, *group.negatives)
    ]


@pytest.fixture(scope="session")
def expected(items) -> Expected:
    return graded_by_rollout(items)
