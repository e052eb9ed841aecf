"""The runs of `experiments/gsm8k` that are one file each: their settings, their headers, and all of them end to end."""

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from tiny import metrics, run, write_models

from tracelift_jax import gin_config
from tracelift_jax.config import (
    Evaluate,
    GroupFiles,
    Guard,
    JsonlTask,
    LoraConfig,
    RewardConfig,
    Sampling,
    Train,
    TrainRm,
)
from tracelift_jax.errors import UserError
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.train.update import learning_rate

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "gsm8k"
SIZES = {"0.5b": "0.5B", "7b": "7B"}
ARMS = ("exec_only", "tracelift")
FLAGS = ("TRAIN=there/train.jsonl", "TEST=there/test.jsonl")


def file(arm: str, size: str) -> Path:
    return FOLDER / f"{arm}_qwen2.5_{size}.gin"


def load(arm: str, size: str, *flags: str) -> Train:
    return gin_config.load(Train, [str(file(arm, size))], [*FLAGS, *flags]).value


def load_rm(size: str, *flags: str) -> TrainRm:
    return gin_config.load(TrainRm, [str(file("rm", size))], [FLAGS[0], *flags]).value


# --------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arm", ARMS)
def test_the_settings_of_planners_are_the_papers(arm, size):
    train = load(arm, size)
    roles = train.roles
    assert roles.task == JsonlTask("there/train.jsonl", "there/test.jsonl", "gsm8k")
    assert roles.base.path == f"models/qwen2.5_{size}"
    assert (roles.planner_model, roles.executor_model) == (None, None)  # one base writes and answers
    assert roles.lora == LoraConfig(rank=16, alpha=32.0, dropout=0.05)
    assert roles.traces == 4
    assert roles.planner == Sampling(max_tokens=512, temperature=0.7, top_p=1.0)
    assert roles.executor == Sampling(max_tokens=256, temperature=0.5, top_p=1.0)
    assert roles.reward.repeats == 3
    assert train.schedule.steps == 600
    rates = [float(np.asarray(learning_rate(train.optimizer, 600)(update))) for update in (0, 300, 599)]
    np.testing.assert_allclose(rates, 5e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_arms_differ_in_the_reward_alone(size):
    plain, full = load("exec_only", size), load("tracelift", size)
    assert plain.roles.reward == RewardConfig(kind="exec_only") and plain.roles.reward_model is None
    assert full.roles.reward == RewardConfig(
        kind="tracelift", uplift="likelihood", baseline="cached", shaping="sign_aware"
    )
    grader = full.roles.reward_model
    assert grader is not None
    assert dataclasses.replace(grader, path=full.roles.base.path) == full.roles.base
    alike = dataclasses.replace(full.roles, reward=plain.roles.reward, reward_model=None)
    assert dataclasses.replace(full, roles=alike) == plain


@pytest.mark.parametrize("size", SIZES)
def test_the_settings_of_the_reward_model_are_the_papers(size):
    """Those of reward_models/train.gin, which `train/test_paper_settings.py` looks at, but for what the header says."""
    paper = [str(ROOT / "experiments" / "reward_models" / "train.gin")]
    path = f"models/qwen2.5_{size}_instruct"
    flags = [f"BASE={path}", "TRAIN=there/train.jsonl", "TEST=''"]
    words = ["Prompts.open='<reasoning>'", "Prompts.space=' '", "Prompts.close='</reasoning>'"]
    settings = load_rm(size)
    assert settings == gin_config.load(TrainRm, paper, [*flags, *words]).value
    assert settings.lora == LoraConfig(rank=32, alpha=64.0, dropout=0.05)
    assert (settings.optimizer.learning_rate, settings.epochs, settings.negatives) == (1e-4, 3, 4)
    assert settings.groups == GroupFiles("there/train.jsonl", "", seed=18, dev_share=0.1)
    assert load_rm(size, "TEST=there/dev.jsonl").groups == GroupFiles("there/train.jsonl", "there/dev.jsonl")


def test_every_run_is_guarded():
    wanted = (
        Guard("policy/kl_sampler", most=0.05, patience=3),
        Guard("policy/entropy", most=5.0, least=0.01, patience=20),
        Guard("rollout/well_formed", least=0.05, patience=50),
        Guard("optimizer/update_ratio", most=0.01, patience=10),
    )
    assert all(load(arm, size).guards == wanted for arm, size in itertools.product(ARMS, SIZES))
    switched = load("tracelift", "7b", "format/Guard.patience=601").guards
    assert [guard.patience for guard in switched] == [3, 20, 601, 10]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("arm", "missing"), [(arm, name) for arm in ARMS for name in ("TRAIN", "TEST")])
def test_what_is_missing_is_asked_for(arm, size, missing):
    flags = [flag for flag in FLAGS if not flag.startswith(missing)]
    with pytest.raises(UserError, match=rf"^{missing} has no value: give --gin\.{missing}="):
        gin_config.load(Train, [str(file(arm, size))], flags)


@pytest.mark.parametrize("size", SIZES)
def test_the_reward_model_is_trained_on_what_the_planners_run_shows_it(qwen_tokenizer, size):
    train, rm = load("tracelift", size), load_rm(size)
    shown, learnt = Pieces(train.roles.prompts, qwen_tokenizer), Pieces(rm.prompts, qwen_tokenizer)
    problem = Problem("p", "Janet has 16 eggs, eats 3 and sells the rest at $2. How much does she get?", "26")
    for pieces in (shown, learnt):
        assert pieces.trace("16 - 3 = 13.")  # not empty, so that what is compared is something
    assert shown.problem("reward_model", problem) == learnt.problem("reward_model", problem)
    assert (shown.open, shown.close) == (learnt.open, learnt.close)
    assert shown.trace("16 - 3 = 13.") == learnt.trace("16 - 3 = 13.")


# ---------------------------------------------------------------------------------------------------------- headers


def commands(path: Path) -> list[list[str]]:
    """The commands of a header, in words."""
    header = re.sub(r" \\\n#", "", path.read_text().split("from __gin__")[0])
    return [shlex.split(line) for line in re.findall(r"^#   ((?:hf|curl|tracelift) .*)", header, re.MULTILINE)]


def flag(words: list[str], name: str) -> str:
    [value] = [word.partition("=")[2] for word in words if word.startswith(f"--{name}=")]
    return value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arm", ARMS)
def test_commands_of_a_planners_header(arm, size, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    download, _, train, compare, *more = commands(file(arm, size))
    assert download == ["hf", "download", f"Qwen/Qwen2.5-{SIZES[size]}", "--local-dir", f"models/qwen2.5_{size}"]
    files, bindings, rest = gin_config.parse_flags(train[2:])
    assert files == [f"experiments/gsm8k/{arm}_qwen2.5_{size}.gin"]
    loaded = gin_config.load(Train, files, bindings)
    assert loaded.value == load(arm, size, "TRAIN=train.jsonl", "TEST=test.jsonl")
    assert rest == [f"--run_dir=runs/{arm}_qwen2.5_{size}"]
    both = [f"--run_dir=runs/{each}_qwen2.5_{size}" for each in ARMS]
    assert compare == ["tracelift", "eval", *both]
    if arm == "tracelift":
        [evaluate] = more
        files, bindings, rest = gin_config.parse_flags(evaluate[2:])
        assert files == [f"runs/{arm}_qwen2.5_{size}/config.gin", "experiments/evals/benchmarks.gin"]
        assert rest == [*both, f"--out=evals/qwen2.5_{size}"]
        kept = tmp_path / "config.gin"  # as training leaves it
        kept.write_text(loaded.operative)
        evaluated = gin_config.load(Evaluate, [str(kept), files[1]], bindings).value
        assert evaluated.train == loaded.value
        [chosen] = evaluated.chosen
        assert chosen.task == JsonlTask(test="test.jsonl", fields="gsm8k", name="gsm8k")
        assert len(evaluated.benchmarks) == 10


@pytest.mark.parametrize("size", SIZES)
def test_the_header_says_how_to_get_the_papers_reward(size):
    [line] = re.findall(r"^#   (--gin\.\S+ .*)", file("tracelift", size).read_text(), re.MULTILINE)
    _, bindings, rest = gin_config.parse_flags(shlex.split(line))
    assert not rest
    reward = load("tracelift", size, *bindings).roles.reward
    assert reward == RewardConfig("tracelift", uplift="sampled", repeats=3, baseline="resample", shaping="product")


@pytest.mark.parametrize("size", SIZES)
def test_commands_of_a_reward_models_header(size, monkeypatch):
    monkeypatch.chdir(ROOT)
    download, _, build, train = commands(file("rm", size))
    model = f"models/qwen2.5_{size}_instruct"
    assert download == ["hf", "download", f"Qwen/Qwen2.5-{SIZES[size]}-Instruct", "--local-dir", model]
    files, bindings, rest = gin_config.parse_flags(train[2:])
    settings = gin_config.load(TrainRm, files, bindings).value
    assert settings.model.path == model
    assert settings == load_rm(size, f"TRAIN={flag(build, 'out')}")
    grader = load("tracelift", size).roles.reward_model
    assert grader is not None and grader.path == f"{flag(rest, 'run_dir')}/model"


def test_the_command_of_the_guards_header(monkeypatch):
    monkeypatch.chdir(ROOT)
    [words] = commands(FOLDER / "guards.gin")
    files, bindings, _ = gin_config.parse_flags(words[2:])
    assert gin_config.load(Train, files, bindings).value.guards == load("exec_only", "0.5b").guards


# ------------------------------------------------------------------------------------------------------- end to end


def write_problems(source: Path, folder: Path) -> None:
    """The shortest problems of GSM8K whose answers the tiny base writes now and then."""
    lines = sorted(source.read_text().splitlines(), key=len)
    lines = [line for line in lines if json.loads(line)["answer"].endswith(("#### 2", "#### 4", "#### 6"))]
    (folder / "train.jsonl").write_text("".join(f"{line}\n" for line in lines[2:14]))
    (folder / "test.jsonl").write_text("".join(f"{line}\n" for line in lines[:2]))


# The files of the two sizes differ in their paths alone, as the tests above know.
@pytest.fixture(scope="module", params=[pytest.param(size, marks=pytest.mark.slow) for size in ("0.5b", "7b")])
def trained(request, shared_data, tmp_path_factory) -> tuple[str, Path]:
    """A size, and a folder in which its three files ran one after the other on tiny random weights."""
    size, folder = request.param, write_models(tmp_path_factory.mktemp("runs"))
    write_problems(shared_data / "gsm8k" / "test.jsonl", folder)
    run("build-groups", folder / "train.jsonl", f"--out={folder / 'groups.jsonl'}")
    reads = [f"BASE={folder}/base", f"TRAIN={folder}/groups.jsonl", "EPOCHS=1", "BATCH=4", "ACCUMULATE=1"]
    start("train-rm", file("rm", size), folder / "rm", *reads)
    plays = [f"BASE={folder}/base", f"TRAIN={folder}/train.jsonl", f"TEST={folder}/test.jsonl"]
    small = ["BATCH=8", "ACCUMULATE=2", "STEPS=2", "planner/Sampling.max_tokens=6", "executor/Sampling.max_tokens=3"]
    small += ["Roles.prompt_tokens=640", "Evaluation.problems=2", "Evaluation.batch_size=2"]
    for arm in ARMS:
        grader = [f"GRADER={folder}/rm/model"] * (arm == "tracelift")
        start("train", file(arm, size), folder / arm, *plays, *small, *grader)
    return size, folder


def start(command: str, gin_file: Path, run_dir: Path, *bindings: str) -> None:
    run(command, f"--gin_file={gin_file}", f"--run_dir={run_dir}", *(f"--gin.{binding}" for binding in bindings))


def test_the_reward_model_is_one_the_planner_can_have(trained):
    _, folder = trained
    rows = [row for row in metrics(folder / "rm") if "loss/total" in row]
    groups = len((folder / "groups.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == -(-(groups - round(groups / 10)) // 4)  # one epoch, a tenth held out
    assert (folder / "rm" / "trust.md").exists()
    judges = {arm: record(folder / arm)["weights"] for arm in ARMS}
    assert set(judges["exec_only"]) == {"executor"} and set(judges["tracelift"]) == {"executor", "reward_model"}
    assert judges["exec_only"]["executor"] == judges["tracelift"]["executor"]


def record(run_dir: Path) -> dict:
    """The first reward record of the second step."""
    return json.loads((run_dir / "traces" / "step_000002.jsonl").read_text().splitlines()[0])


def test_both_arms_train_and_say_what_guards_ask_for(trained):
    size, folder = trained
    for arm in ARMS:
        rows = [row for row in metrics(folder / arm) if "reward/mean" in row]
        assert [row["step"] for row in rows] == [1, 2]
        for row in rows:
            assert {guard.metric for guard in load(arm, size).guards} <= set(row)
            assert row["policy/kl_sampler"] < 0.05  # bfloat16, but one and the same policy
            assert (row["reward/grade"] > 0) == (arm == "tracelift")
        assert 0 < max(row["optimizer/update_ratio"] for row in rows) < 1e-3


def test_the_runs_are_evaluated_side_by_side(trained, capsys):
    _, folder = trained
    capsys.readouterr()
    run("eval", *(f"--run_dir={folder / arm}" for arm in ARMS))
    shown = capsys.readouterr().out
    assert all(arm in shown for arm in ARMS) and "2 held-out problems" in shown
