"""`tracelift export`: two steps of training, written for transformers or peft, and read again."""

import json

import jax
import numpy as np
import pytest
from tiny import GIN_DIAL, GIN_HEADER, GIN_RM, assert_same, command, run, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.models import hf, peft
from tracelift_jax.models.transformer import Transformer, forward, logits_of
from tracelift_jax.train.planner_loop import planner_weights, trained_planner
from tracelift_jax.train.roles import load_roles

IDS = np.arange(3, 19, dtype=np.int32)[None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A planner's run of two steps, and the planner as the run itself would go on with it."""
    folder = write_models(tmp_path_factory.mktemp("export"))
    (folder / "base" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1]}))
    gin = write_gin(folder)
    run("train", f"--gin_file={gin}", f"--run_dir={folder / 'run'}", "--gin.STEPS=2", "--gin.Evaluation.problems=1")
    experiment = gin_config.load(config.Train, [str(folder / "run" / "config.gin")]).value
    loaded = load_roles(experiment.roles)
    step, weights = trained_planner(experiment, loaded, str(folder / "run"))
    assert step == 2
    return folder, loaded, weights


def logits(shape, variables) -> np.ndarray:
    @jax.jit
    def run(variables):
        model = Transformer(shape)
        hidden, _ = forward(model, variables, IDS, np.ones(IDS.shape, bool))
        return logits_of(model, variables, hidden)

    return np.asarray(run(variables))


def test_the_merged_model_is_the_planner(trained, tmp_path):
    folder, loaded, weights = trained
    run("export", folder / "run", f"--out={tmp_path / 'out'}")
    shape, params = hf.load(tmp_path / "out")
    before = logits(loaded.executor.shape, weights.executor)
    planner = logits(loaded.planner_shape, weights.planner)
    np.testing.assert_allclose(logits(shape, {"params": params}), planner, atol=1e-5)
    assert np.abs(planner - before).max() > 1e-3  # it learned something
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "base" / name).read_bytes()


def test_the_adapter_is_the_planner(trained, tmp_path):
    folder, loaded, weights = trained
    run("export", folder / "run", f"--out={tmp_path}", "--adapter")
    lora = peft.load_adapter(tmp_path, loaded.planner_shape)
    assert_same(lora, jax.device_get(weights.planner["lora"]))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder / "base")


def test_an_exported_planner_trains_on(trained, tmp_path):
    """As `Roles.lora = @Adapter()`: the run begins with the planner that was exported."""
    folder, _, weights = trained
    run("export", folder / "run", f"--out={tmp_path / 'out'}", "--adapter")
    text = (folder / "tiny.gin").read_text().replace("@config.LoraConfig()", "@config.Adapter()")
    lines = [line for line in text.splitlines() if not line.startswith("config.LoraConfig.")]
    gin = tmp_path / "on.gin"
    gin.write_text("\n".join([*lines, f"config.Adapter.path = '{tmp_path / 'out'}'"]))
    experiment = gin_config.load(config.Train, [str(gin)]).value
    loaded = load_roles(experiment.roles)
    trainable, frozen = loaded.trainable(0)
    assert_same(jax.device_get(planner_weights(loaded, frozen, trainable).planner["lora"]), weights.planner["lora"])


def test_a_moved_base_is_given_on_the_command_line(trained, tmp_path):
    folder, _, _ = trained
    outcome = command("export", folder / "run", f"--out={tmp_path / 'o'}", f"--gin.base/config.Model.path={tmp_path}")
    assert outcome.code == 2 and str(tmp_path) in outcome.errors and outcome.errors.count("\n") == 1


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """A reward model's run of one step that trains an adapter on the dial tokenizer's tiny base."""
    folder = write_models(tmp_path_factory.mktemp("supervised"))
    gin = folder / "rm.gin"
    gin.write_text(
        f"""{GIN_HEADER}{GIN_DIAL}{GIN_RM}
config.TrainRm.groups = @config.DialGroups()
config.DialGroups.task = @config.DialTask()
config.TrainRm.model = @config.Model()
config.Model.path = '{folder / "base"}'
config.Model.remat = 'none'
config.TrainRm.lora = @config.LoraConfig()
config.LoraConfig.rank = 2
config.TrainRm.prompt_tokens = 30
config.TrainRm.trace_tokens = 32
config.Schedule.steps = 1
"""
    )
    run("train-rm", f"--gin_file={gin}", f"--run_dir={folder / 'run'}")
    return folder, gin


@pytest.mark.parametrize("flag", [[], ["--adapter"]], ids=["model", "adapter"])
def test_a_reward_models_export_is_what_its_run_wrote(supervised, tmp_path, flag):
    folder, _ = supervised
    run("export", folder / "run", f"--out={tmp_path}", *flag)
    written = folder / "run" / ("adapter" if flag else "model")
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in written.iterdir()}
    for file in written.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_an_int8_reward_model_leaves_an_adapter_with_heads(supervised, tmp_path):
    _, gin = supervised
    run("train-rm", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", "--gin.Model.weights=int8")
    assert not (tmp_path / "run" / "model").exists()
    assert peft.read_adapter_config(tmp_path / "run" / "adapter").rank == 2
    config = hf.read_config(supervised[0] / "base")
    assert peft.load_heads(tmp_path / "run" / "adapter", config)["dimensions"].shape == (5, config.width, 5)
    whole = tmp_path / "whole.gin"
    whole.write_text("\n".join(line for line in gin.read_text().splitlines() if "ora" not in line))
    outcome = command("train-rm", f"--gin_file={whole}", f"--run_dir={tmp_path / 'b'}", "--gin.Model.weights=int8")
    assert outcome.code == 2
    assert outcome.errors.startswith('tracelift: TrainRm.lora must be set where Model.weights = "int8"')


def test_what_cannot_be_exported_is_one_line(trained, tmp_path):
    folder, _, _ = trained

    def refused(*arguments) -> str:
        outcome = command("export", *arguments)
        assert outcome.code == 2 and outcome.errors.count("\n") == 1
        return outcome.errors

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert "is not an empty directory" in refused(folder / "run", f"--out={tmp_path / 'full'}")
    assert "is not an empty directory" in refused(folder / "run", f"--out={tmp_path / 'full' / 'x'}")
    assert "holds no run" in refused(tmp_path / "nothing", f"--out={tmp_path / 'out'}")
    assert "takes no --gin_file" in refused(folder / "run", f"--out={tmp_path / 'out'}", "--gin_file=a.gin")
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("config.json", "config.gin"):
        (empty / name).write_bytes((folder / "run" / name).read_bytes())
    assert "no checkpoint there" in refused(empty, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
