"""Tiny models through a whole evaluation: the same numbers as `rollout.solve` finds, whoever reads the reasoning."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from scripted import TASK, config, results, run, start
from tiny import make_train, model

from tracelift_jax.config import Benchmark, Evaluate, ExecutorModel, Frame, Prompts, Sampling
from tracelift_jax.evals.executors import Asked, Reasoning, bucket, show
from tracelift_jax.evals.work import Work
from tracelift_jax.rollout.solve import solve, solving_setup
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.planner_loop import planner_weights

PROMPTS = Prompts(stop=("\n",))
COUNT = 6


def graded(folder: Path, **changes) -> Evaluate:
    """Six problems, the untrained planner and reference reasoning, before the base as resident and by another name."""
    plain = {
        "train": make_train(folder, roles={"task": TASK, "prompt_tokens": 60}),
        "benchmarks": (Benchmark("dial", TASK, problems=COUNT),),
        "sources": ("none", "reference", "untrained"),
        "audits": ("other",),
        "audited": ("untrained",),
        "executors": (ExecutorModel("namesake", model(folder / "base")),),
        "samples": 3,
        "answers": 2,
    }
    return config(folder, **plain | changes)


def no_runs(file: str):
    raise AssertionError(file)


@pytest.fixture(scope="module")
def given(folder) -> Work:
    return start(graded(folder), no_runs)


@pytest.fixture(scope="module")
def path(given, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("local") / "out"
    run(given, path)
    return path


@pytest.fixture(scope="module")
def records(path) -> dict[tuple, list[dict]]:
    """Records by source, executor and mode, in the order of problems and traces."""
    out: dict[tuple, list[dict]] = {}
    for line in (path / "records.jsonl").read_text().splitlines():
        row = json.loads(line)
        out.setdefault((row["source"], row["executor"], row["mode"]), []).append(row)
    return out


@pytest.fixture(scope="module")
def solved(given):
    """What `tracelift solve` computes for the same problems: one greedy trace and one greedy answer each."""
    loaded, train = given.loaded, given.config.train
    trainable, frozen = loaded.trainable(train.seed)
    weights = planner_weights(loaded, frozen, trainable)
    [(batch, _, _)] = list(eval_batches(given.problems["dial"], loaded.encode(), COUNT))
    setup = solving_setup(loaded.setup, None)
    return jax.device_get(jax.jit(partial(solve, setup, True))(loaded.text, weights, batch, jax.random.key(0)))


@pytest.mark.slow
def test_greedy_traces_answers_and_grades_are_those_of_solve(records, solved, given):
    rows = records["untrained", "resident", "greedy"]
    assert len({row["reasoning"] for row in rows}) > 1
    for b, row in enumerate(rows):
        tokens = np.asarray(solved.answers.tokens.ids[b, 0])[np.asarray(solved.answers.tokens.valid[b, 0])]
        assert row["answers"] == [given.loaded.tokenizer.decode(tokens)]
        assert row["answer_tokens"] == [len(tokens)]
        assert row["device_verdicts"] == ["ok" if solved.answers.right[b, 0] else "wrong"]
        assert row["well_formed"] == (solved.judgement[b, 0] == 2)
        np.testing.assert_allclose(row["likelihood"], solved.answers.likelihood[b, 0], rtol=1e-4)
        np.testing.assert_allclose(row["score"], solved.grades.score[b, 0], rtol=1e-4)
        np.testing.assert_allclose(row["rubric"], solved.grades.rubric[b, 0], rtol=1e-4)
        if row["well_formed"]:
            np.testing.assert_allclose(row["uplift_likelihood"], solved.uplift[b, 0], atol=1e-5)
    for b, row in enumerate(records["none", "resident", "greedy"]):
        tokens = np.asarray(solved.direct.tokens.ids[b])[np.asarray(solved.direct.tokens.valid[b])]
        assert row["answers"] == [given.loaded.tokenizer.decode(tokens)]
        np.testing.assert_allclose(row["likelihood"], solved.direct.likelihood[b], rtol=1e-4)


@pytest.mark.slow
def test_sampled_traces_differ_and_their_likelihood_is_of_one_temperature(records):
    rows = records["untrained", "resident", "sampled"]
    assert len(rows) == 3 * COUNT and all(len(row["answers"]) == 2 for row in rows)
    assert [row["trace"] for row in rows[:4]] == [0, 1, 2, 0]
    assert len({row["reasoning"] for row in rows}) > COUNT
    assert len({answer for row in rows for answer in row["answers"]}) > 2
    assert {row["well_formed"] for row in rows} == {True, False}
    # The same reasoning, greedily and sampled: the likelihood does not depend on how answers are drawn.
    by_mode = [records["reference", "resident", mode] for mode in ("greedy", "sampled")]
    for greedy, sampled in zip(*by_mode, strict=True):
        np.testing.assert_allclose(greedy["likelihood"], sampled["likelihood"], rtol=1e-5)
        assert len(sampled["answers"]) == 6


@pytest.mark.slow
def test_malformed_traces_fail_whatever_was_answered(records):
    for row in (row for rows in records.values() for row in rows):
        if row.get("well_formed", True):
            assert (row["right"], row["counted_likelihood"]) == (row["verdicts"].count("ok"), row["likelihood"])
        else:
            assert (row["right"], row["counted_likelihood"]) == (0, 0.0)
            assert row["likelihood"] > 0
        if row["source"] != "none":
            alone = records["none", row["executor"], row["mode"]]
            [base] = [other for other in alone if other["problem_id"] == row["problem_id"]]
            assert row["uplift"] == pytest.approx(row["accuracy"] - base["accuracy"])
            assert row["uplift_likelihood"] == pytest.approx(row["counted_likelihood"] - base["likelihood"])


@pytest.mark.slow
def test_a_planners_reasoning_is_audited_trace_by_trace(records):
    """Somebody else's trace of the same place, as text, and as well formed as it was there."""
    for mode, count in (("greedy", 1), ("sampled", 3)):
        rows = {}
        for source in ("untrained", "untrained/other"):
            found = records[source, "resident", mode]
            rows[source] = {(row["problem_id"], row["trace"]): row for row in found}
            assert len(rows[source]) == count * COUNT
        for m in range(count):
            given = sorted(
                (row["reasoning"].strip(), row["well_formed"]) for key, row in rows["untrained"].items() if key[1] == m
            )
            got = sorted(
                (row["reasoning"], row["well_formed"]) for key, row in rows["untrained/other"].items() if key[1] == m
            )
            assert got == given


@pytest.mark.slow
def test_the_readers_on_device_and_host_agree(records):
    verdicts = [(row["verdicts"], row["device_verdicts"]) for rows in records.values() for row in rows]
    assert all(host == device for host, device in verdicts)
    assert any("ok" in host for host, _ in verdicts)


@pytest.mark.slow
def test_an_executor_with_weights_of_its_own_reads_the_same_text(records):
    """The base once more, as a model that reads text: what is given as text it must answer as the resident does."""
    for source in ("none", "reference"):
        for mode in ("greedy", "sampled"):
            pairs = zip(records[source, "resident", mode], records[source, "namesake", mode], strict=True)
            for mine, others in pairs:
                assert mine | {"executor": "namesake"} == others


def test_planners_tokens_pass_as_they_are_only_where_they_mean_the_same(given):
    resident, namesake = (given.candidates[name].open() for name in ("resident", "namesake"))
    assert resident.takes_tokens and namesake.takes_tokens  # its tokenizer has the same bytes for all tokens
    pieces = given.loaded.pieces
    tokens = tuple(given.loaded.tokenizer.encode(" 4")[:1] + given.loaded.tokenizer.encode("4 </reasoning>"))
    assert tokens != tuple(pieces.trace("4 4"))
    reasoning = Reasoning("4 4", tokens)
    assert show(pieces, reasoning, True, 60) == ([*pieces.open, *tokens], False)
    assert show(pieces, reasoning, False, 60) == ([*pieces.open, *pieces.trace("4 4")], False)


def test_reasoning_that_is_too_long_loses_its_end_and_is_counted(folder, given, tmp_path):
    short = start(graded(folder, reasoning_tokens=16, executors=(), modes=("greedy",)), no_runs)
    executor = short.candidates["resident"].open()
    shown, cut = show(executor.pieces, Reasoning("7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 1 = 3"), False, executor.longest)
    pieces = short.loaded.pieces
    assert cut and len(shown) == 16
    assert tuple(shown[-len(pieces.close) :]) == pieces.close
    whole = [*pieces.open, *pieces.trace("7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 1 = 3")]
    assert shown[: -len(pieces.close)] == whole[: 16 - len(pieces.close)]
    found = results(short, tmp_path / "out")
    long = sum(len(pieces.open) + len(pieces.trace(p.reasoning)) > 16 for p in short.problems["dial"])
    assert found["dial", "reference", "resident", "greedy"]["cut"] == long > 0


def test_words_and_sampling_of_an_executor_are_its_own(folder, given):
    words = dataclasses.replace(PROMPTS, executor=Frame(after=" now\n"))
    other = ExecutorModel(
        "other", model(folder / "base"), prompts=words, sampling=Sampling(max_tokens=2, temperature=0.1)
    )
    work = start(graded(folder, executors=(other,)), no_runs)
    asked = Asked(given.problems["dial"][:4], 4, None, 6, False, 7)
    mine, theirs = (work.candidates[name].open().answer(asked) for name in ("resident", "other"))
    assert {len(one.tokens) for rows in theirs for one in rows} == {6}
    assert max(n for rows in theirs for one in rows for n in one.tokens) <= 2
    likelihoods = [[one.likelihood for rows in said for one in rows] for said in (mine, theirs)]
    assert not np.allclose(*likelihoods)


def test_problems_are_left_out_for_all_where_one_executor_has_no_room(folder):
    lengths = {}
    roomy = start(graded(folder), no_runs)
    for problem in roomy.problems["dial"]:
        lengths[problem.problem_id] = len(roomy.loaded.pieces.problem("executor", problem))
    room = sorted(lengths.values())[COUNT // 2]
    narrow = ExecutorModel("narrow", model(folder / "base"), prompt_tokens=room)
    work = start(graded(folder, executors=(narrow,)), no_runs)
    fitting = tuple(row for row, problem in enumerate(work.problems["dial"]) if lengths[problem.problem_id] <= room)
    assert work.plan.rows["dial"] == fitting
    assert 0 < len(fitting) < COUNT
    assert work.described()["dial"]["left_out"] == COUNT - len(fitting)


def test_an_answer_without_room_has_no_likelihood_and_an_exact_verdict(given):
    problem = dataclasses.replace(given.problems["dial"][0], answer="123456789")
    formula = dataclasses.replace(given.problems["dial"][1], answer="\\pi", answer_kind="latex")
    asked = Asked([problem, formula, given.problems["dial"][2]], 4, None, 1, True, 0)
    [[long], [latex], [plain]] = given.candidates["resident"].open().answer(asked)
    assert (long.likelihood, long.read, latex.likelihood, latex.read) == (None,) * 4
    assert plain.likelihood is not None and len(plain.read) == 1
    assert all(isinstance(one.answers[0], str) for one in (long, latex, plain))


def test_few_shapes():
    assert [bucket(n) for n in (1, 64, 65, 128, 129, 1000)] == [64, 64, 128, 128, 256, 1024]
