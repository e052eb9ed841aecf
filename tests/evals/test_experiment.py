"""What an evaluation may be asked for, and how its work is cut."""

import dataclasses

import pytest
from scripted import TASK, config

from tracelift_jax.config import Benchmark, Evaluate, ExecutorModel, Model
from tracelift_jax.errors import UserError
from tracelift_jax.evals.plan import Plan, stable_hash


@pytest.fixture(scope="module")
def plain(folder) -> Evaluate:
    return config(folder)


BAD = [
    ({"samples": 0}, "Evaluate.samples must be at least 1, got 0"),
    ({"temperature": 0.0}, "Evaluate.temperature must be above 0, got 0.0; greedy is a mode"),
    ({"modes": ()}, "Evaluate.modes must not be empty"),
    ({"modes": ("greedy", "greedy")}, "Evaluate.modes must differ from each other, got 'greedy' twice"),
    ({"pass_at": (0,)}, "Evaluate.pass_at must be from 1 on, got 0"),
    ({"pass_at": (2, 2)}, "Evaluate.pass_at must differ from each other, got '2' twice"),
    (
        {"pass_at": (1, 5)},
        "Evaluate.pass_at: pass@5 needs 5 answers to a problem, and there will be 4; "
        "raise Evaluate.samples, or lower it",
    ),
    (
        {"pass_at": (2,), "modes": ("greedy",)},
        'Evaluate.pass_at: pass@2 needs 2 answers to a problem, and there will be 1; add mode "sampled", or lower it',
    ),
    ({"answer_only": "nothing"}, 'Evaluate.answer_only must hold "{answer}"'),
    ({"audited": ("untrained",)}, 'Evaluate.audited: "untrained" is not among Evaluate.sources'),
    ({"audited": ("none",)}, 'Evaluate.audited: "none" has no reasoning to audit'),
    ({"resident": False}, "Evaluate.executors must not be empty where there is no resident"),
    ({"runs": ("a",)}, 'Evaluate.runs: "trained" is not among Evaluate.sources'),
    ({"only": ("dail",)}, "Evaluate.only: no benchmark is called 'dail'; did you mean 'dial'?"),
    (
        {"runs": ("a/x", "b/x/"), "sources": ("trained", "reference")},
        "Evaluate.runs: the directories' names must differ from each other, got 'x' twice",
    ),
    (
        {"runs": ("runs/reference",), "sources": ("trained", "reference")},
        "Evaluate.runs: a directory's name must not be 'reference', which is a source already",
    ),
    (
        {"benchmarks": (Benchmark("a", TASK), Benchmark("a", TASK))},
        "Evaluate.benchmarks must differ from each other, got 'a' twice",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_is_refused(plain, changes, message):
    with pytest.raises(UserError) as error:
        dataclasses.replace(plain, **changes)
    assert str(error.value) == message


def test_names_that_would_not_be_told_apart():
    for make, name in (
        (lambda: Benchmark("a/b", TASK), "Benchmark.name"),
        (lambda: Benchmark("", TASK), "Benchmark.name"),
        (lambda: ExecutorModel("resident", Model(path="x")), "ExecutorModel.name"),
        (lambda: ExecutorModel("x", Model()), "ExecutorModel.tokenizer"),
    ):
        with pytest.raises(UserError, match=f"^{name}"):
            make()


def make_plan(plain, **changes) -> Plan:
    changed = dataclasses.replace(plain, **changes)
    rows = {"a": tuple(range(5)), "b": (0, 2)}
    return Plan(changed, rows, {"a": (0, 1, 2, 4), "b": ()}, ("one", "two"))


def test_sources_in_order(plain):
    plan = make_plan(
        plain,
        sources=("trained", "none", "untrained", "reference"),
        runs=("runs/x", "y"),
        audits=("other", "shuffled"),
        audited=("trained", "reference"),
    )
    audits = ("other", "shuffled")
    assert plan.sources() == (
        "none",
        *("reference", *(f"reference/{audit}" for audit in audits)),
        "untrained",
        *("x", *(f"x/{audit}" for audit in audits)),
        *("y", *(f"y/{audit}" for audit in audits)),
    )


def test_units_by_hand(plain):
    plan = make_plan(plain, sources=("none", "reference", "untrained"), audits=("other",), samples=3, answers=2)
    traces = [(u.source, u.benchmark, u.drawn, u.rows, u.traces) for u in plan.trace_units()]
    written = [("reference", "a", "fixed", (0, 1, 2, 4), 1), ("reference/other", "a", "fixed", (0, 1, 2, 4), 1)]
    for benchmark, batches in (("a", ((0, 1, 2, 3), (4,))), ("b", ((0, 2),))):
        for drawn, count in (("greedy", 1), ("sampled", 3)):
            written += [("untrained", benchmark, drawn, rows, count) for rows in batches]
    assert traces == written
    answers = [
        (u.executor, u.benchmark, u.source, u.mode, u.rows, u.traces, u.samples, u.drawn) for u in plan.answer_units()
    ]
    assert len(answers) == len(set(answers)) == 2 * (2 * (2 + 1 + 1 + 2) + 2 * (1 + 1))
    assert answers[:2] == [
        ("one", "a", "none", "greedy", (0, 1, 2, 3), 1, 1, "fixed"),
        ("one", "a", "none", "greedy", (4,), 1, 1, "fixed"),
    ]
    # As many answers from everybody: 6 behind one reasoning, or 2 behind each of 3.
    assert ("two", "a", "reference", "sampled", (0, 1, 2, 4), 1, 6, "fixed") in answers
    assert ("two", "b", "untrained", "sampled", (0, 2), 3, 2, "sampled") in answers
    assert [a[0] for a in answers] == ["one"] * 16 + ["two"] * 16


def test_hashes_depend_on_what_is_said_alone():
    assert stable_hash(0, "answers", "dial", "greedy", 1) == 1007770966  # sha256 of the parts, 0 between them
    assert stable_hash(0, "answers", "dial", "greedy", 2) != stable_hash(0, "answers", "dial", "greedy", 1)
    assert stable_hash("a", "b") != stable_hash("ab")
    assert 0 <= stable_hash("x") < 2**31
