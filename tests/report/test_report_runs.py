"""Run directories as reports read them: whole ones, unfinished ones, broken ones."""

import itertools
import json
import os

import hypothesis.strategies as st
import pytest
from hypothesis import given
from written import config, record, write_run

from tracelift_jax.errors import UserError
from tracelift_jax.report import runs
from tracelift_jax.report.runs import Column, even, read_run, read_runs
from tracelift_jax.report.sample import choose, shares


def test_columns_of_metrics(tmp_path):
    rows = [
        {"step": 0, "eval/sampled/accuracy": 0.5},
        {"step": 1, "reward/mean": 0.25, "loss/total": None},
        {"step": 2, "reward/mean": 0.5, "loss/total": 1},
        {"step": 2, "eval/sampled/accuracy": 0.75},
    ]
    run = read_run(write_run(tmp_path / "run", [], rows, config(schedule={"steps": 2})), "run")
    assert run.metrics == {
        "eval/sampled/accuracy": Column((0, 2), (0.5, 0.75)),
        "reward/mean": Column((1, 2), (0.25, 0.5)),
        "loss/total": Column((1, 2), (None, 1)),
    }
    assert (run.command, run.steps, run.last_step, run.notes) == ("train", 2, 2, ())


def test_a_run_that_goes_on(tmp_path):
    run_dir = write_run(tmp_path / "run", [record()], [{"step": 1, "a/b": 1.0}])
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "a/')
    (run_dir / "traces" / "step_000002.jsonl.partial").write_text("{")
    with open(run_dir / "traces" / "step_000001.jsonl", "a") as file:
        file.write('{"step": 1, "pro')
    run = read_run(run_dir, "run")
    assert run.metrics == {"a/b": Column((1,), (1.0,))}
    assert run.notes == ("It has done 1 of 4 steps: it still goes on, or was stopped.",)
    assert choose(run, 100).traces == 1


def test_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config()))
    run = read_run(tmp_path, "run")
    assert (run.metrics, run.traces, run.last_step, run.gin) == ({}, {}, 0, "")
    assert choose(run, 10).traces == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "{", "config.json: not JSON"),
        ("config.json", "[]", "config.json: expected an object"),
        ("metrics.jsonl", '{"step": 1}\n{"ste\n{"step": 2}\n', r"metrics.jsonl:2: not JSON"),
        ("metrics.jsonl", "3\n", r"metrics.jsonl:1: expected an object"),
        ("metrics.jsonl", '{"a/b": 1}\n', r"metrics.jsonl:1: has no step"),
        (
            "traces/step_000001.jsonl",
            '{"step": 1, "trace": 0}\n',
            r"step_000001.jsonl:1: a reward record without problem_id",
        ),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, said):
    run_dir = write_run(tmp_path / "run", [record()])
    (run_dir / name).write_text(text)
    with pytest.raises(UserError, match=said):
        choose(read_run(run_dir, "run"), 10)


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no such directory; give a run directory"):
        read_run(tmp_path / "nowhere", "x")
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_run(tmp_path, "x")


def test_names_tell_runs_apart(tmp_path):
    paths = [write_run(tmp_path / name, []) for name in ("a/seed0", "b/seed0", "c")]
    assert [run.name for run in read_runs(paths)] == ["a/seed0", "b/seed0", f"{tmp_path.name}/c"]
    assert [run.name for run in read_runs(paths[1:])] == ["seed0", "c"]
    with pytest.raises(UserError, match="given twice"):
        read_runs([paths[0], tmp_path / "a" / "." / "seed0"])


def test_long_runs_are_thinned_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MOST_ROWS", 3)
    rows = [{"step": step, "a/b": float(step)} for step in range(1, 8)] + [{"step": 4, "eval/x": 0.5}]
    run = read_run(write_run(tmp_path / "run", [], rows), "run")
    assert run.metrics == {"a/b": Column((1, 4, 7), (1.0, 4.0, 7.0)), "eval/x": Column((4,), (0.5,))}
    assert run.notes == ("Its curves show 3 of its 7 steps, evenly chosen.",)


@given(count=st.integers(1, 300), most=st.integers(1, 300))
def test_even_indices(count, most):
    chosen = even(count, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen)) and chosen[-1] == count - 1
    if most > 1:
        assert chosen[0] == 0
        gaps = [b - a for a, b in itertools.pairwise(chosen)]
        assert max(gaps, default=1) - min(gaps, default=1) <= 1


def group(step: int, problem: str, traces: int = 2) -> list:
    return [record(step=step, problem_id=problem, trace=trace) for trace in range(traces)]


def test_groups_of_a_step(tmp_path):
    # The same problem twice in a batch is two groups; and so is a problem of two processes.
    told = [*group(1, "a"), *group(1, "a"), *group(1, "b", 3)]
    run_dir = write_run(tmp_path / "run", told)
    (run_dir / "traces" / "step_000001.jsonl").rename(run_dir / "traces" / "step_000001-00000-of-00002.jsonl")
    second = "".join(json.dumps(one) + "\n" for one in group(1, "b", 1))
    (run_dir / "traces" / "step_000001-00001-of-00002.jsonl").write_text(second)
    shown = choose(read_run(run_dir, "run"), 100)
    assert [(g.records[0]["problem_id"], len(g.records)) for g in shown.groups] == [
        ("a", 2),
        ("a", 2),
        ("b", 3),
        ("b", 1),
    ]
    assert (shown.steps, shown.all_steps, shown.left_out, shown.notes) == (1, 1, False, ())


def test_an_even_sample_of_steps(tmp_path):
    told = [one for step in range(1, 8) for problem in "ab" for one in group(step, problem)]
    shown = choose(read_run(write_run(tmp_path / "run", told), "run"), 13)
    assert sorted({g.step for g in shown.groups}) == [1, 4, 7] and shown.traces == 12
    assert shown.notes == (
        "The page holds 12 of its traces, from 3 of its 7 steps with records, evenly chosen; "
        "--most_traces=N sets how many.",
    )


def test_whole_groups_of_a_large_step(tmp_path):
    told = [one for problem in "abcde" for one in group(1, problem, 4)]
    shown = choose(read_run(write_run(tmp_path / "run", told), "run"), 11)
    assert [g.records[0]["problem_id"] for g in shown.groups] == ["a", "e"] and shown.left_out


def test_what_small_runs_leave_over_goes_to_large_ones(tmp_path):
    def run(name: str, steps: int):
        told = [one for step in range(steps) for one in group(step, "a")]
        return read_run(write_run(tmp_path / name, told), name)

    # 2, 20 and 40 traces: the first takes 2 of its 10, the others 14 each of the 28 left.
    large = [run("c", 20), run("a", 1), run("b", 10)]
    assert shares(large, 30) == [14, 2, 14]
    assert shares(large, 1000) == [40, 2, 20]


def test_names_of_files_that_are_no_records(tmp_path):
    run_dir = write_run(tmp_path / "run", [record(step=12)])
    (run_dir / "traces" / "step_notes.jsonl").write_text("{}\n")
    assert list(read_run(run_dir, "run").traces) == [12]
    os.remove(run_dir / "config.gin")
    assert read_run(run_dir, "run").gin == ""
