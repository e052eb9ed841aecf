"""Whole evaluations before an executor that follows its reasoning to the letter: every outcome is known in advance."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from scripted import AUDITS, FILES, TASK, Scripted, config, results, run, start, with_executors

from tracelift_jax.config import Benchmark
from tracelift_jax.errors import UserError
from tracelift_jax.evals.evaluate import run_evaluation
from tracelift_jax.evals.executors import Said
from tracelift_jax.tasks.dial import true_steps
from tracelift_jax.tasks.problem import Problem

PROBLEMS = [TASK.problem("test", n) for n in range(TASK.test_size)]
BATCHES = 3  # of 4, 4 and 3 problems


@pytest.fixture(scope="module")
def whole(local, tmp_path_factory) -> Path:
    """An evaluation that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "out"
    run(with_executors(local, scripted=Scripted()), path)
    return path


def lines(path: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (path / name).read_text().splitlines()]


def test_every_outcome_is_as_known_in_advance(work, tmp_path):
    found = results(work, tmp_path / "out")
    half = [true_steps(p.start, p.ops[: len(p.ops) // 2])[-1].result == int(p.answer) for p in PROBLEMS]
    for mode in ("greedy", "sampled"):
        right = {source: found["dial", source, "scripted", mode]["accuracy"]["value"] for _, source, _, _ in found}
        assert right["none"] == 0.0
        assert right["reference"] == right["reference/answer_only"] == 1.0
        assert right["reference/truncated"] == pytest.approx(np.mean(half))
        assert right["reference/shuffled"] < 1 and right["reference/other"] < 0.5
        uplift = found["dial", "reference", "scripted", mode]["uplift"]
        assert (uplift["value"], uplift["n"]) == (1.0, 11)
    assert 0 < np.mean(half) < 1
    assert found["dial", "reference", "scripted", "greedy"]["leak"]["value"] == 0.0
    assert found["dial", "reference/answer_only", "scripted", "greedy"]["leak"]["value"] == 1.0
    assert found["dial", "reference", "scripted", "greedy"]["faithful"]["value"] == 1.0
    # Right, but not by these steps: every right answer behind other reasoning.
    other = found["dial", "reference/other", "scripted", "greedy"]
    assert other["wrong_reason"]["value"] == other["accuracy"]["value"]
    # It cannot tell a likelihood, and there is no reward model.
    assert other["likelihood"]["value"] is None and other["score"]["value"] is None


def test_what_is_written_is_what_audits_say(whole):
    traces = lines(whole, "traces.jsonl")
    assert len(traces) == 5 * 11
    by = {(row["source"], row["problem_id"]): row for row in traces}
    for problem in PROBLEMS:
        steps = problem.reasoning.split(" ; ")
        assert by["reference", problem.problem_id]["reasoning"] == problem.reasoning
        shuffled = by["reference/shuffled", problem.problem_id]["reasoning"].split(" ; ")
        assert sorted(shuffled) == sorted(steps) and (shuffled != steps or len(set(steps)) == 1)
        assert by["reference/truncated", problem.problem_id]["reasoning"] == " ; ".join(steps[: len(steps) // 2])
        assert by["reference/answer_only", problem.problem_id]["reasoning"] == f"= {problem.answer}"
    others = [by["reference/other", problem.problem_id]["reasoning"] for problem in PROBLEMS]
    assert sorted(others) == sorted(problem.reasoning for problem in PROBLEMS)
    assert all(other != problem.reasoning for other, problem in zip(others, PROBLEMS, strict=True))
    assert all(row["drawn"] == "fixed" and row["trace"] == 0 and row["well_formed"] for row in traces)


def test_every_record_has_its_parts(whole):
    records = lines(whole, "records.jsonl")
    assert len(records) == 6 * 2 * 11
    for row in records:
        size = 1 if row["mode"] == "greedy" else 4  # samples x answers
        assert len(row["answers"]) == len(row["verdicts"]) == size
        assert (row["right"], row["judged"]) == (row["verdicts"].count("ok"), size)
        assert row["device_verdicts"] is None and row["likelihood"] is None
        assert ("uplift" in row) == (row["source"] != "none") == ("reasoning" in row)
        if row["source"] != "none":
            assert row["uplift"] == row["accuracy"]  # alone it never knows
    keys = [(r["source"], r["mode"], r["problem_id"]) for r in records]
    assert len(set(keys)) == len(keys)
    assert [key[0] for key in keys[:22]] == ["none"] * 22


def test_how_the_executor_is_asked(work, tmp_path):
    run(work, tmp_path / "out")
    asked = work.candidates["scripted"].open().asked
    assert len(asked) == 6 * 2 * BATCHES
    assert {len(one.problems) for one in asked} == {4, 3} and {one.room for one in asked} == {4}
    assert {(one.greedy, one.samples) for one in asked} == {(True, 1), (False, 4)}
    # The same draws for all sources; others for each mode and batch.
    assert len({one.seed for one in asked}) == 2 * BATCHES
    again = with_executors(work, scripted=Scripted())
    run(again, tmp_path / "again")
    assert [one.seed for one in again.candidates["scripted"].open().asked] == [one.seed for one in asked]


def test_another_seed_draws_otherwise(folder, work, tmp_path):
    other = start(config(folder, seed=1), lambda file: pytest.fail(file))
    other = with_executors(other, scripted=Scripted())
    run(work, tmp_path / "a")
    run(other, tmp_path / "b")
    seeds = [{one.seed for one in w.candidates["scripted"].open().asked} for w in (work, other)]
    assert seeds[0].isdisjoint(seeds[1])
    a, b = (lines(tmp_path / name, "traces.jsonl") for name in "ab")
    for audit in ("shuffled", "other"):
        texts = [[r["reasoning"] for r in rows if r["source"].endswith(audit)] for rows in (a, b)]
        assert texts[0] != texts[1]


def test_what_never_came_is_no_wrong_answer(local, tmp_path):
    broken = frozenset(problem.problem_id for problem in PROBLEMS[:2])
    found = results(with_executors(local, scripted=Scripted(broken)), tmp_path / "out")
    group = found["dial", "reference", "scripted", "sampled"]
    assert (group["failed"], group["answers"]) == (8, 44)
    assert (group["accuracy"]["value"], group["accuracy"]["n"], group["uplift"]["n"]) == (1.0, 9, 9)


def test_executors_answer_one_after_the_other(local, tmp_path):
    opened = []

    class Known(Scripted):
        def answer(self, asked):
            opened.append(id(self))
            return super().answer(asked)

    work = with_executors(local, first=Known(), second=Known())
    found = results(work, tmp_path / "out")
    assert len(set(opened)) == 2 and sorted(opened) in (opened, opened[::-1])
    assert found["dial", "reference", "first", "greedy"]["accuracy"]["value"] == 1.0
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["executor second"] == "scripted"


# --- Interrupted ------------------------------------------------------------------------------------------------------


def test_cut_anywhere_it_goes_on_to_the_same_bytes(work, whole, tmp_path):
    """As a process killed at any byte of either file leaves it: traces come before records."""
    traces, records = ((whole / name).read_bytes() for name in FILES)
    rng = random.Random(0)
    cuts = [(rng.randrange(len(traces)), None) for _ in range(8)] + [
        (None, rng.randrange(len(records))) for _ in range(16)
    ]
    first_unit = sum(map(len, traces.splitlines(keepends=True)[:4]))
    cuts += [(0, None), (None, 0), (first_unit, None), (first_unit - 1, None), (None, len(records) - 1)]
    header = (whole / "evaluation.json").read_bytes()
    for number, (traces_end, records_end) in enumerate(cuts):
        path = tmp_path / str(number)
        path.mkdir()
        (path / "evaluation.json").write_bytes(header)
        (path / "traces.jsonl").write_bytes(traces[:traces_end])
        if records_end is not None:
            (path / "records.jsonl").write_bytes(records[:records_end])
        run(work, path)
        for name in (*FILES, "evaluation.json"):
            assert (path / name).read_bytes() == (whole / name).read_bytes(), (name, traces_end, records_end)


def test_what_is_done_is_not_done_again(local, whole, tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    for name in (*FILES, "evaluation.json"):
        (path / name).write_bytes((whole / name).read_bytes())
    fresh = with_executors(local, scripted=Scripted())
    run(fresh, path)
    assert fresh.candidates["scripted"].open().asked == []
    rows = (path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (path / "records.jsonl").write_bytes(b"".join(rows[:-5]))  # the last batch has 3 problems, the one before 4
    run(fresh, path)
    assert len(fresh.candidates["scripted"].open().asked) == 2


def refused(work, path: Path) -> str:
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(UserError) as error:
        run(work, path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert "\n" not in str(error.value)
    return str(error.value)


def copy(whole: Path, path: Path) -> Path:
    path.mkdir()
    for name in (*FILES, "evaluation.json"):
        (path / name).write_bytes((whole / name).read_bytes())
    return path


def test_another_evaluation_is_not_continued(folder, work, whole, tmp_path):
    path = copy(whole, tmp_path / "out")
    other = dataclasses.replace(work, config=dataclasses.replace(work.config, samples=3))
    assert refused(other, path) == f"{path}: holds another evaluation (config.samples: 2 and 3); choose another --out"


def test_another_executor_is_not_mixed_in(local, whole, tmp_path):
    path = copy(whole, tmp_path / "out")
    rows = (path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (path / "records.jsonl").write_bytes(b"".join(rows[:-3]))
    other = Scripted()
    other.fingerprint = "another"
    line = refused(with_executors(local, scripted=other), path)
    assert line == (
        f"{path}: holds another evaluation (executor scripted: 'scripted' and 'another'); choose another --out"
    )


@pytest.mark.parametrize("name", FILES)
def test_files_of_something_else(work, whole, tmp_path, name):
    path = copy(whole, tmp_path / "out")
    rows = (path / name).read_bytes().splitlines(keepends=True)
    (path / name).write_bytes(b"".join([rows[0], rows[2], rows[1], *rows[3:]]))
    assert f"{path / name}: byte {len(rows[0])}: not a record of this evaluation" in refused(work, path)
    (path / name).write_bytes(b"".join([*rows, rows[-1]]))
    assert f"{path / name}: has more lines than this evaluation" in refused(work, path)
    (path / name).write_bytes(b"[]\n")
    assert "not a record of this evaluation" in refused(work, path)


def test_killed_at_the_very_first_file(local, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.json.tmp").write_text('{"config"')
    evaluated = dataclasses.replace(local.config, sources=("none",), audited=(), modes=("greedy",))
    run_evaluation(evaluated, "", str(out), lambda file: pytest.fail(file))
    assert json.loads((out / "results.json").read_text())["groups"][0]["problems"] == 11
    (out / "evaluation.json").unlink()
    with pytest.raises(UserError, match="is not empty and holds no evaluation"):
        run_evaluation(evaluated, "", str(out), lambda file: pytest.fail(file))
    with pytest.raises(UserError, match="is a file; choose another --out"):
        run_evaluation(evaluated, "", str(out / "results.json"), lambda file: pytest.fail(file))


def test_answers_in_latex_are_judged_on_the_host(folder, tmp_path):
    pytest.importorskip("math_verify")

    @dataclasses.dataclass(frozen=True)
    class Formulas:
        def problems(self, split: str):
            answers = ("\\frac{\\sqrt{2}}{2}", "x+1", "\\text{blue}")
            reasoning = "We find\nit."
            return [
                Problem(f"f{n}", "The dial shows 1.", a, reasoning, answer_kind="latex") for n, a in enumerate(answers)
            ]

    class Says(Scripted):
        def answer(self, asked):
            return [
                [Said(("\\boxed{1/\\sqrt{2}}", "$x+1$", "blue")) for _ in rows] for rows in asked.reasoning or [[0]] * 3
            ]

    given = start(
        config(folder, benchmarks=(Benchmark("math", Formulas()),), audits=()), lambda file: pytest.fail(file)
    )
    run(with_executors(given, says=Says()), tmp_path / "out")
    rows = [
        row
        for row in lines(tmp_path / "out", "records.jsonl")
        if (row["source"], row["mode"]) == ("reference", "greedy")
    ]
    assert [row["verdicts"] for row in rows] == [
        ["ok", "wrong", "wrong"],
        ["wrong", "ok", "wrong"],
        ["wrong", "wrong", "ok"],
    ]


# --- Problems ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Some:
    """Dial problems, some of them changed."""

    without: int = 0
    longest: int = 0

    def problems(self, split: str):
        found = list(PROBLEMS)
        for n in range(self.without):
            found[n] = dataclasses.replace(found[n], reasoning=" ")
        for n in range(self.longest):
            found[n] = dataclasses.replace(found[n], text=found[n].text * 9)
        return found


def test_a_benchmark_with_and_without_reference_reasoning(folder, tmp_path):
    benchmarks = (Benchmark("some", Some(without=3, longest=1)), Benchmark("none", Some(without=11), problems=5))
    given = start(config(folder, benchmarks=benchmarks), lambda file: pytest.fail(file))
    work = with_executors(given, scripted=Scripted())
    about = given.described()
    assert (about["some"]["problems"], about["some"]["left_out"], about["some"]["without_reference"]) == (11, 1, 2)
    assert (about["none"]["problems"], about["none"]["left_out"], about["none"]["without_reference"]) == (5, 0, 5)
    assert given.plan.rows["some"] == tuple(range(1, 11))
    found = results(work, tmp_path / "out")
    assert {key[1] for key in found if key[0] == "none"} == {"none"}
    sizes = {key[1]: group["problems"] for key, group in found.items() if key[0] == "some"}
    assert sizes == {"none": 10, "reference": 8, **{f"reference/{audit}": 8 for audit in AUDITS}}


def test_nothing_fits(folder):
    benchmarks = (Benchmark("long", Some(longest=11)),)
    with pytest.raises(UserError, match=r"^Benchmark 'long': no problem fits Roles\.prompt_tokens; raise it$"):
        start(config(folder, benchmarks=benchmarks), lambda file: pytest.fail(file))


def test_one_problem_has_no_other(folder, tmp_path):
    given = start(config(folder, benchmarks=(Benchmark("one", TASK, problems=1),)), lambda file: pytest.fail(file))
    found = results(with_executors(given, scripted=Scripted()), tmp_path / "out")
    assert "reference/other" not in {key[1] for key in found}
    assert "reference/shuffled" in {key[1] for key in found}
