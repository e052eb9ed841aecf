"""The experiment of the paper's reward model: its settings, and a run of it with tiny random weights."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TASK, metrics, run, write_models

from tracelift_jax import gin_config
from tracelift_jax.config import LoraConfig, Scorer, TrainRm
from tracelift_jax.errors import UserError
from tracelift_jax.groups.load import load_groups
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.models import hf
from tracelift_jax.models.peft import read_adapter_config
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.losses import RewardModelLossConfig
from tracelift_jax.train.reward_model import with_steps
from tracelift_jax.train.update import learning_rate

FILE = Path(__file__).parents[2] / "experiments" / "reward_models" / "train.gin"
FLAGS = ("BASE=there/base", "TRAIN=there/train.jsonl", "TEST=there/dev.jsonl")


def load(*flags: str) -> TrainRm:
    return gin_config.load(TrainRm, [str(FILE)], [*FLAGS, *flags]).value


def test_the_settings_are_methods():
    settings = load()
    assert settings.lora == LoraConfig(rank=32, alpha=64.0, dropout=0.05)
    assert (settings.negatives, settings.epochs, settings.too_long) == (4, 3, "cut_problem")
    assert settings.prompt_tokens + settings.trace_tokens == 3072
    assert settings.loss == RewardModelLossConfig(
        dimensions=1.0,
        total=0.5,
        rank=0.7,
        rank_negatives=0.0,
        prefix=0.0,
        language=0.0,
        huber_delta=1.0,
        margin=0.15,
        dimension_loss="cross_entropy",
    )
    optimizer = settings.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_share) == (1e-4, 0.01, 0.03)
    # What the paper's code leaves to its trainer: AdamW's constants, the clipping, and a linear decay to 0.
    assert (optimizer.b1, optimizer.b2, optimizer.epsilon, optimizer.clip_norm) == (0.9, 0.999, 1e-8, 1.0)
    assert (optimizer.schedule, optimizer.final) == ("linear", 0.0)
    assert settings.batch_size == optimizer.accumulate == 16


def test_the_words_are_those_of_the_released_models():
    released = FILE.with_name("released.gin")
    assert load().prompts == gin_config.load(Scorer, [str(released)], ["MODEL=there"]).value.prompts


def test_the_command_of_the_header(monkeypatch):
    monkeypatch.chdir(FILE.parents[2])
    header = FILE.read_text().split("from __gin__")[0]
    commands = re.findall(r"^#   ((?:hf|tracelift) .*)", re.sub(r" \\\n#", "", header), re.MULTILINE)
    download, train = map(shlex.split, commands)
    files, bindings, rest = gin_config.parse_flags(train[2:])
    settings = gin_config.load(TrainRm, files, bindings).value
    assert train[:2] == ["tracelift", "train-rm"] and rest == ["--run_dir=runs/grader"]
    assert download[-2:] == ["--local-dir", settings.model.path]


def test_three_epochs_of_the_papers_groups_are_505_steps():
    [group] = DialGroups(TASK).groups("test")[:1]
    config = with_steps(load(), [group] * 2700, lambda row, group: row if row < 2690 else None)
    assert config.schedule.steps == 505  # 3 * 2690 / 16 = 504.4
    rates = [np.asarray(learning_rate(config.optimizer, config.schedule.steps)(update)) for update in range(505)]
    # 3 % of 505 are 15.15: the 16th update is the first at the peak, from where it falls by 1e-4 / 489 each.
    np.testing.assert_allclose([rates[0], rates[15], rates[16]], [1e-4 / 16, 1e-4, 1e-4], rtol=1e-6)
    np.testing.assert_allclose([rates[17], rates[504]], [1e-4 * 488 / 489, 1e-4 / 489], rtol=1e-3)


def test_without_epochs_the_schedule_says_how_long():
    config = load("TrainRm.epochs=0", "Schedule.steps=7")
    assert with_steps(config, [], lambda row, group: row) is config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["Schedule.steps=600"], "TrainRm.epochs = 3 and Schedule.steps = 600: give one of the two"),
        (["TrainRm.epochs=-1"], "TrainRm.epochs must not be negative, got -1"),
        (["OptimizerConfig.warmup=5"], "OptimizerConfig.warmup = 5 and warmup_share = 0.03: give one of the two"),
        (["OptimizerConfig.warmup_share=3.0"], r"OptimizerConfig.warmup_share must lie in \[0, 1\), got 3.0"),
    ],
)
def test_two_ways_to_say_one_thing_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        load(*flags)


def test_where_no_group_fits_there_are_no_epochs():
    with pytest.raises(UserError, match="not one of the 5 training groups fits"):
        with_steps(load(), DialGroups(TASK).groups("test"), lambda row, group: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Three epochs of six groups, four a step, of tiny random weights; half of the groups are of code."""
    folder = write_models(tmp_path_factory.mktemp("paper"))
    for split in ("train", "test"):
        groups = [
            dataclasses.replace(group, rubric_name="code", tests="1 -> 2") if row % 2 else group
            for row, group in enumerate(DialGroups(TASK).groups(split))
        ]
        lines = [json.dumps(group.to_json()) + "\n" for group in groups]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    paths = [f"BASE={folder / 'base'}", f"TRAIN={folder / 'train.jsonl'}", f"TEST={folder / 'test.jsonl'}"]
    flags = [f"--gin.{flag}" for flag in (*paths, "BATCH=4", "ACCUMULATE=2")]
    run("train-rm", f"--gin_file={FILE}", *flags, f"--run_dir={folder / 'run'}")
    return folder


@pytest.mark.slow
def test_three_epochs_are_trained(trained):
    # 3 * 6 / 4 = 4.5
    assert [row["step"] for row in metrics(trained / "run") if "loss/total" in row] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_the_adapter_is_on_all_projections(trained):
    adapter = trained / "run" / "adapter"
    lora = read_adapter_config(adapter)
    assert (lora.rank, lora.alpha) == (32, 64.0)
    projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert set(json.loads((adapter / "adapter_config.json").read_text())["target_modules"]) == projections


@pytest.mark.slow
def test_the_written_model_was_measured_in_the_words_of_the_released(trained):
    """Each held-out group read as flat texts, by the model that was written."""
    folder = trained / "run" / "model"
    shape, tokenizer = hf.read_config(folder), Tokenizer.load(folder)
    params, heads = hf.load_reward_model(folder, shape)
    model = Transformer(shape)

    @jax.jit
    def score(ids, last):
        hidden, _ = model.apply({"params": params}, ids, jnp.arange(ids.shape[1])[None] <= last)
        graded: Any = RubricHeads(shape.width).apply({"params": heads}, hidden[0, last])
        return graded.score

    errors = []
    for group in load_groups(trained / "test.jsonl"):
        tests = "<tests>\n1 -> 2\n</tests>\n" if group.rubric_name == "code" else ""
        problem = (
            f"<task>{group.rubric_name}</task>\n<type>math</type>\n<problem>\n{group.problem}\n</problem>\n{tests}"
        )
        pool = (group.positives[0], *(group.negatives[row % len(group.negatives)] for row in range(4)))
        for trace in pool:
            ids = tokenizer.encode(problem) + tokenizer.encode(f"<reasoning>\n{trace.reasoning}\n</reasoning>")
            padded = jnp.array([ids + [0] * (384 - len(ids))])
            errors.append(abs(float(score(padded, len(ids) - 1)) - trace.rubric.total))
    [row] = [row for row in metrics(trained / "run") if row["step"] == 5 and "held_out/mae" in row]
    assert row["held_out/groups"] == 5
    np.testing.assert_allclose(row["held_out/mae"], np.mean(errors), rtol=0.02)  # bfloat16, the adapter merged in
