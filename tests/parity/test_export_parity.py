"""A planner trained two steps and exported: `transformers` and `peft` compute the logits that the run computes."""

import importlib

import numpy as np
import pytest
from golden import ours
from tiny import run, write_gin, write_models

from tracelift_jax import config, gin_config
from tracelift_jax.train.planner_loop import trained_planner
from tracelift_jax.train.roles import load_roles

torch = pytest.importorskip("torch")
theirs = importlib.import_module("golden.theirs")  # torch's side; cannot be imported without it

IDS = [np.arange(3, 60, dtype=np.int32) * 11 % 337, np.arange(5, 22, dtype=np.int32)]


@pytest.fixture(scope="module", params=["adapter", "full"])
def planner(request, tmp_path_factory):
    """The run's directory, what it trained, and logits before and after it."""
    folder = write_models(tmp_path_factory.mktemp(request.param))
    gin = write_gin(folder)
    if request.param == "full":
        lines = [line for line in gin.read_text().splitlines() if not line.startswith("config.LoraConfig.")]
        gin.write_text("\n".join(lines).replace("@config.LoraConfig()", "None"))
    run("train", f"--gin_file={gin}", f"--run_dir={folder / 'run'}", "--gin.STEPS=2", "--gin.Evaluation.problems=1")
    experiment = gin_config.load(config.Train, [str(folder / "run" / "config.gin")]).value
    loaded = load_roles(experiment.roles)
    step, weights = trained_planner(experiment, loaded, str(folder / "run"))
    assert step == 2
    after = ours.logits(loaded.planner_shape, weights.planner, IDS)
    before = ours.logits(loaded.executor.shape, weights.executor, IDS)
    assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) > 100 * ours.FLOAT32
    return folder, request.param, after


def test_the_exported_model_is_the_planner(planner, tmp_path):
    folder, _, after = planner
    run("export", folder / "run", f"--out={tmp_path}")
    model = theirs.load(tmp_path)
    for ids, expected in zip(IDS, after, strict=True):
        got = theirs.logits(model, torch.tensor(ids.astype(np.int64))).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=ours.FLOAT32, rtol=0)


def test_the_exported_adapter_on_its_base_is_the_planner(planner, tmp_path):
    folder, kind, after = planner
    if kind == "full":
        pytest.skip("all weights were trained: there is no adapter")
    run("export", folder / "run", f"--out={tmp_path}", "--adapter")
    model = theirs.load_adapter(theirs.load(folder / "base"), tmp_path)
    for ids, expected in zip(IDS, after, strict=True):
        got = theirs.logits(model, torch.tensor(ids.astype(np.int64))).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=ours.FLOAT32, rtol=0)
