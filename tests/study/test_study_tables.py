"""The study's files to arrays and tables, on records written by hand."""

import dataclasses
import json

import numpy as np
import pytest
import study_measures as measures
import study_page as page
import study_results as results
import study_signal as signal
from study_plan import ARMS, ARMS_OF, HERE, REGIMES, ROOT, Settings, Study

from tracelift_jax import gin_config
from tracelift_jax.config import Evaluate, ExecutorModel, Sft, Train, TrainRm
from tracelift_jax.rollout.reward_config import RewardConfig


def line(source, problem, faithful=True, verdicts=("ok",), executor="resident", uplift=0.0, score=1.0, formed=True):
    right = sum(verdict == "ok" for verdict in verdicts) if formed else 0
    return {
        "source": source,
        "executor": executor,
        "problem_id": problem,
        "faithful": faithful,
        "verdicts": list(verdicts),
        "accuracy": right / len(verdicts),
        "uplift_likelihood": uplift,
        "score": score,
        "well_formed": formed,
    }


ROWS = [
    line("seed0", "a", True, ["ok"], uplift=0.5),
    line("seed0", "a", False, ["ok"], uplift=0.1),
    line("seed0", "b", False, ["wrong"], uplift=-0.2),
    line("seed0", "b", True, ["ok"], uplift=0.2),
    line("seed0", "a", True, ["wrong"], "unseen"),
    line("seed0", "a", False, ["ok"], "unseen"),
    line("seed0", "b", False, ["wrong"], "unseen"),
    line("seed0", "b", True, ["wrong"], "unseen"),
    line("none", "a", True, ["ok", "wrong", "wrong", "wrong"]),
]


def test_measures_are_means_within_problems():
    found = measures.by_problem(ROWS, "seed0")
    expected = {
        "accuracy": [1, 0.5],
        "faithful": [0.5, 0.5],
        "wrong_reason": [0.5, 0],
        "uplift": [0.3, 0],
        "unseen": [0.5, 0],
    }
    assert found.keys() == expected.keys() == page.HEADS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12)
    assert measures.alone(ROWS, "none", "resident") == 0.25
    assert measures.alone_by_problem(ROWS, "resident").tolist() == [0.25]
    untrained = [row | {"source": "untrained"} for row in ROWS[:8]]
    assert measures.behind(untrained, "resident", True) == 1
    assert measures.behind(untrained, "resident", False) == 0.5
    assert measures.behind(untrained, "unseen", False) == 0.5


def write_metrics(folder, accuracy, faithful):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 0, "eval/sampled/accuracy": 1.0}]
    rows += [
        {"step": n + 1, "reward/accuracy": a, "reward/faithful": f}
        for n, (a, f) in enumerate(zip(accuracy, faithful, strict=True))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_learning_is_told_in_traces(tmp_path):
    """Five steps at 0.9 come first at step 7; the faithful share never gets there."""
    write_metrics(tmp_path, [0.5, 0.5, *[0.9] * 6], [0.8] * 8)
    assert measures.learning(tmp_path, traces=128) == measures.Learning(7 * 128, None)


def test_ranking_by_hand():
    """First problem: above both, twice. Second: a tie and above. Group means off, the correlation is 9 / 12."""
    rewards = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    faithful = np.array([[True, False, False], [True, False, False], [True, True, True]])
    found = signal.rank(rewards, faithful)
    assert (found.above.value, found.above.n, found.tied) == (0.875, 2, 0.25)
    assert found.correlation == pytest.approx(0.75)


def test_rewards_are_those_of_training():
    """Of a well formed trace and of one that is not, by METHOD's equations."""
    rows = [
        line("untrained", "a", True, ["ok", "ok", "ok", "wrong"], uplift=-0.5, score=0.8),
        line("untrained", "a", False, ["ok", "ok", "ok", "ok"], uplift=-0.25, score=0.4, formed=False),
        line("none", "a", True, ["wrong", "ok", "ok", "ok", "wrong", "ok", "wrong", "wrong"]),
    ]
    traces = signal.read_traces(rows)
    found = {arm: signal.reward(traces, config)[0] for arm, config in signal.REWARDS.items()}
    expected = {
        "exec_only": [1, 0],
        "tracelift_paper": [0.5 + 0.5 * 0.8 * (2 / 3 - 1), 0],  # the second has no grade
        "tracelift": [0.5 + 0.5 * 0.2 * -0.5, 0.5 * -0.25],  # without a grade harm counts in full
        "rm_only": [0.5 + 0.5 * 0.8, 0],
        "uplift_only": [0.5 + 0.5 * -0.5, 0.5 * -0.25],
    }
    for arm, values in expected.items():
        np.testing.assert_allclose(found[arm], values, atol=1e-6)


def flags_of(job):
    files, bindings, rest = gin_config.parse_flags(list(job.command[1:]))
    assert not [flag for flag in rest if not flag.startswith(("--run_dir=", "--out="))]
    return files, bindings


@pytest.mark.parametrize(("regime", "arm"), [(regime, arm) for regime in REGIMES for arm in ARMS_OF[regime]])
def test_every_run_loads_and_differs_in_its_reward_alone(tmp_path, regime, arm):
    study = Study(tmp_path, Settings(steps=7))
    train = gin_config.load(Train, *flags_of(study.training(regime, arm, 3))).value
    assert train.roles.reward == signal.REWARDS[arm]
    assert (train.seed, train.schedule.steps) == (3, 7)
    assert train.batch_size * train.roles.traces == results.TRACES
    own = train.roles.executor_model
    strong = regime in ("strong", "rough")
    assert (own.path if own else "") == (f"{tmp_path}/strong_executor/model" if strong else "")
    grader = f"{tmp_path}/rough_rm/model" if regime == "rough" else "assets/dial/reward_model"
    assert train.roles.reward_model.path == grader
    ops = (train.roles.task.min_ops, train.roles.task.max_ops)
    assert ops == ((3, 6) if regime == "weak" else (2, 4))


def test_the_papers_reward():
    paper = signal.REWARDS["tracelift_paper"]
    assert paper == RewardConfig(kind="tracelift", uplift="sampled", repeats=3, baseline="resample", shaping="product")


def test_evaluations_and_executors_load(tmp_path):
    study = Study(tmp_path, Settings(problems=9, executor_steps=4))
    for regime in REGIMES:
        before = gin_config.load(Evaluate, *flags_of(study.baseline(regime))).value
        after = gin_config.load(Evaluate, *flags_of(study.measurement(regime, "rm_only", 1))).value
        assert before.benchmarks == after.benchmarks and before.benchmarks[0].problems == 9
        assert before.benchmarks[0].task == before.train.roles.task
        assert before.answers == 1 + signal.REPEATS
        [unseen] = before.executors
        assert isinstance(unseen, ExecutorModel) and unseen.model.path == f"{tmp_path}/unseen/model"
    trained = [gin_config.load(Sft, *flags_of(job)).value for job in study.models(["strong"])]
    assert [sft.schedule.steps for sft in trained] == [4, 4, 4]
    assert [sft.model.path for sft in trained] == ["", f"{tmp_path}/answers_alone/model", ""]
    assert [sft.direct_weight for sft in trained] == [10, 0.3, 0.3]
    assert [job.path.name for job in study.models(["weak"])] == ["unseen"]
    [rough] = [job for job in study.models(["rough"]) if job.command[0] == "train-rm"]
    graders = gin_config.load(TrainRm, *flags_of(rough)).value
    assert (graders.schedule.steps, graders.model.path) == (4, "assets/dial/base")
    assert str(study.run("weak", "rm_only", 1)) in study.measurement("weak", "rm_only", 1).command[-2]


def test_a_seed_is_done_in_all_arms_before_the_next(tmp_path):
    study = Study(tmp_path, Settings())
    names = [job.path.relative_to(tmp_path).as_posix() for job in study.jobs(["weak", "strong"], ["exec_only"], 2)]
    assert names[:5] == ["answers_alone", "strong_executor", "unseen", "weak/before", "strong/before"]
    assert names[5:] == [
        f"{regime}/exec_only/seed{seed}{what}"
        for seed in (0, 1)
        for regime in ("weak", "strong")
        for what in ("", "_measured")
    ]


def test_jobs_come_after_what_they_read(tmp_path):
    """Of each job all others whose folder its command names."""
    jobs = list(Study(tmp_path, Settings()).jobs(list(REGIMES), ["exec_only", "rm_only"], 2))
    for job in jobs:
        values = {flag.partition("=")[2].removesuffix("/model") for flag in job.command}
        named = [one for one in jobs if one != job and str(one.path) in values]
        assert {one.path for one in named} == {one.path for one in job.after}, job.path


def fake(study, regime, arm, seed, rows, accuracy):
    write_metrics(study.run(regime, arm, seed), accuracy, accuracy)
    folder = study.measured(regime, arm, seed)
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for job in (study.training(regime, arm, seed), study.measurement(regime, arm, seed)):
        job.stamp.write_text('{"seconds": 1800, "date": "2026-01-02", "machine": "a box"}')


def write_before(study, regime):
    """Half of the answers right alone, all behind whatever is read."""
    before = study.before(regime)
    before.mkdir(parents=True)
    rows = [line("none", "a", True, ["ok", "wrong"] * 4, executor) for executor in ("resident", "unseen")] + [
        line(source, "a", kind, ["ok"] * 4, executor)
        for executor in ("resident", "unseen")
        for source, kind in (
            ("reference", True),
            ("reference/other", False),
            ("reference/answer_only", False),
            ("untrained", True),
            ("untrained", False),
        )
    ]
    (before / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study.baseline(regime).stamp.write_text('{"seconds": 0, "date": "2026-01-01", "machine": "a box"}')


def test_tables_by_hand(tmp_path):
    study = Study(tmp_path, Settings(steps=8))
    write_before(study, "weak")
    for seed in range(2):
        own = [row | {"source": f"seed{seed}"} for row in ROWS[:8]]
        fake(study, "weak", "exec_only", seed, own, [0.5] * 8)
        better = [row | {"accuracy": 1.0} for row in own]
        fake(study, "weak", "rm_only", seed, better, [0.9] * (5 + seed) + [0.0] * (3 - seed))
    results.collect(study, list(REGIMES), list(ARMS), 5)
    text = page.report(study, list(REGIMES), list(ARMS), 5)
    assert "a box, 2026-01-01 to 2026-01-02; 8 steps, 256 held-out problems" in text
    assert "### Weak executor\n\n4 of 25 runs are in." in text and "### Strong executor" not in text
    cells = {tuple(part.strip() for part in row.split("|")[1:-1]) for row in text.splitlines() if row[:1] == "|"}
    executor = ("weak regime: executor of training", "0.500", *["1.000"] * 5)
    assert executor in cells
    half = "0.500 (0.500, 0.500)"
    told = (
        "execution only",
        "2",
        "0.750 (0.750, 0.750)",
        half,
        "0.250 (0.250, 0.250)",
        "0.150 (0.150, 0.150)",
        "0.250 (0.250, 0.250)",
    )
    assert (*told, *["> 1,024 (> 1,024 to > 1,024; 0 of 2 got there)"] * 2) in cells
    [ours] = [row for row in cells if row[0] == "reward model only" and len(row) == 9]
    assert ours[2] == "1.000 (1.000, 1.000)" and ours[7] == "640 (640 to 640)"
    better = ("reward model only", "accuracy", "2", "+0.250 (+0.250, +0.250)")
    [compared] = [row for row in cells if row[:4] == better]
    assert compared[4:] == ("(+0.000, +0.500)", "0.500")
    assert ("reward model only", "traces to 0.9 accuracy", "2", "sooner 2, later 0", "", "0.500") in cells
    assert ("weak", "execution only", "0.500", "1.000", "0.000", "1", "0.500") in cells
    assert "\n\n4 runs.\n" in page.report(study, ["weak"], ["exec_only", "rm_only"], 2)


def test_faithful_shares_of_problems_solved_alone_and_of_others():
    """40 solved problems and 60 others; a regime with fewer of either has no row."""
    solved = np.arange(100) < 40
    traces = signal.Traces(*[np.zeros((100, 2))] * 5)
    found = results.Before({}, solved, {"faithful": np.where(solved, 0.5, 0.25)}, traces, {})
    run = results.Run({"faithful": np.where(solved, 1.0, 0.75)}, measures.Learning(None, None), {})
    few = dataclasses.replace(found, solved=np.arange(100) < 39)
    table = page.solved_table({"strong": found, "weak": few}, {"strong": {("rm_only", 0): run}, "weak": {}})
    assert table.splitlines()[2:] == [
        "| strong | before training |  | 0.500 | 0.250 |",
        "| strong | reward model only | 1 | 1.000 | 0.750 |",
    ]


def test_pairs_of_arms_by_hand():
    """Two seeds, two problems: 0.5 and 0.25 more faithful on average."""

    def run(*faithful):
        return results.Run({"faithful": np.array(faithful)}, measures.Learning(None, None), {})

    runs = {("tracelift", 0): run(1, 0.5), ("tracelift", 1): run(1, 1), ("tracelift", 2): run(0, 0)}
    runs |= {("tracelift_paper", 0): run(0.5, 0), ("tracelift_paper", 1): run(0.75, 0.75)}
    [row] = page.pairs_table(runs).splitlines()[2:]
    cells = [part.strip() for part in row.split("|")[1:-1]]
    assert cells[0] == "TraceLift, ours, less TraceLift, the paper's"
    assert (cells[1], cells[2][:6], cells[4]) == ("2", "+0.375", "0.500")


def test_the_rough_regime_has_execution_only_from_the_strong_one(tmp_path):
    study = Study(tmp_path, Settings(steps=8))
    write_before(study, "rough")
    fake(study, "strong", "exec_only", 0, ROWS[:8], [0.5] * 8)
    fake(study, "rough", "rm_only", 0, [row | {"accuracy": 1.0} for row in ROWS[:8]], [0.9] * 8)
    results.collect(study, list(REGIMES), list(ARMS), 1)
    text = page.report(study, ["rough"], list(ARMS), 1)
    assert "1 of 2 runs are in." in text and "| execution only | 1 | 0.750 |" in text
    assert "| reward model only | accuracy | 1 | +0.250 |" in text


def test_one_run_has_no_intervals_and_nothing_to_compare(tmp_path):
    study = Study(tmp_path, Settings(steps=8))
    fake(study, "weak", "exec_only", 0, ROWS[:8], [0.9] * 8)
    results.collect(study, ["weak"], list(ARMS), 1)
    runs = page.finished(study, "weak", list(ARMS))
    assert list(runs) == [("exec_only", 0)]
    table = page.arms_table(runs, measures.by_problem(ROWS, "seed0"), end=1024)
    told = "| execution only | 1 | 0.750 | 0.500 | 0.250 | 0.150 | 0.250 | 640 | 640 |"
    assert table.splitlines()[-1] == told
    assert page.differences_table(runs).startswith("No seed is in yet")


def test_what_is_kept_is_a_study_to_go_on_with(tmp_path):
    """Copied, its results need no job and make the same tables; what was not done is still to do."""
    study, kept = Study(tmp_path / "a", Settings(steps=8)), Study(tmp_path / "b", Settings(steps=8))
    fake(study, "weak", "exec_only", 0, ROWS[:8], [0.9] * 8)
    (study.unseen().path / "model").mkdir(parents=True)
    (study.unseen().path / "model" / "weights").write_text("1")
    study.unseen().stamp.write_text('{"seconds": 1, "date": "2026-01-03", "machine": "a box"}')
    (study.out / "settings.json").write_text("{}")
    results.collect(study, ["weak"], list(ARMS), 1)
    before = study.result("weak", "exec_only", 0).read_text()
    results.collect(study, ["weak"], list(ARMS), 1)
    assert study.result("weak", "exec_only", 0).read_text() == before
    results.keep(study, kept.out)
    files = sorted(file.relative_to(kept.out).as_posix() for file in kept.out.rglob("*") if file.is_file())
    assert files == ["settings.json", "unseen.done", "unseen/model/weights", "weak/exec_only/seed0.json"]
    assert page.report(kept, ["weak"], list(ARMS), 2) == page.report(study, ["weak"], list(ARMS), 2)
    names = [job.path.relative_to(kept.out).as_posix() for job in kept.jobs(["weak"], ["exec_only"], 2)]
    assert names == ["unseen", "weak/before", "weak/exec_only/seed1", "weak/exec_only/seed1_measured"]


def test_numbers_are_kept_short_and_whole(tmp_path):
    kept = results._lists({"a": np.array([[1.0, 0.25], [-0.0, 1 / 3]]), "b": np.array([True, False])})
    assert json.dumps(kept) == '{"a": [[1, 0.25], [0, 0.3333]], "b": [1, 0]}'


def test_nothing_yet(tmp_path):
    text = page.report(Study(tmp_path, Settings()), ["weak"], list(ARMS), 5)
    assert text.startswith("Nothing is done yet; 110 steps")


def test_the_page_is_made_of_what_is_kept():
    kept = Study(HERE / "results", Settings())
    assert json.loads((kept.out / "settings.json").read_text()) == dataclasses.asdict(kept.settings)
    text = (ROOT / "docs" / "study.md").read_text()
    assert page.put(text, "study", page.report(kept, list(REGIMES), list(ARMS), 5)) == text


def test_the_page_has_its_place():
    text = (ROOT / "docs" / "study.md").read_text()
    assert "\nnew\n" in page.put(text, "study", "new")
    with pytest.raises(ValueError, match="the page has no <!-- other: begin -->"):
        page.put(text, "other", "")
    assert HERE.is_relative_to(ROOT)
