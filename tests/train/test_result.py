"""What a supervised run leaves behind: the weights of its best evaluation, however often it was interrupted."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import GIN_DIAL, GIN_HEADER, GIN_RM, GIN_SHAPE, assert_same, command, metrics, run

from tracelift_jax import config, gin_config
from tracelift_jax.models import hf
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.start import start

STEPS = 8
# The learning rate is far too high, so that the last weights are not the best. One checkpoint beside the best is kept.
COMMON = (
    GIN_SHAPE
    + GIN_DIAL
    + f"""
config.Schedule.steps = {STEPS}
config.Schedule.evaluate_every = 2
config.Schedule.checkpoint_every = 1
config.Schedule.keep = 1
"""
)
RM = (
    GIN_HEADER
    + GIN_RM
    + COMMON
    + """
config.TrainRm.groups = @config.DialGroups()
config.DialGroups.task = @config.DialTask()
config.TrainRm.model = @config.Model()
config.TrainRm.tokenizer = 'assets/dial/tokenizer'
config.TrainRm.prompt_tokens = 30
config.TrainRm.trace_tokens = 32
config.OptimizerConfig.learning_rate = 3e-1
"""
)
SFT = (
    GIN_HEADER
    + COMMON
    + """
config.Sft.task = @config.DialTask()
config.Sft.tokenizer = 'assets/dial/tokenizer'
config.Sft.model = @config.Model()
config.Sft.prompt_tokens = 30
config.Sft.branch_tokens = 24
config.Sft.batch_size = 4
config.Sft.optimizer = @config.OptimizerConfig()
config.OptimizerConfig.learning_rate = 1e-1
config.Sft.schedule = @config.Schedule()
"""
)


def trained(folder: Path, name: str, text: str, *more: str) -> SimpleNamespace:
    """A whole run, with `more` in the gin file, and what it printed."""
    gin, said = folder / "tiny.gin", io.StringIO()
    gin.write_text("\n".join([text, *more, ""]))
    with contextlib.redirect_stdout(said):
        run(name, f"--gin_file={gin}", f"--run_dir={folder / 'run'}")
    return SimpleNamespace(gin=gin, run_dir=folder / "run", said=said.getvalue().splitlines())


@pytest.fixture(scope="module")
def rm(tmp_path_factory) -> SimpleNamespace:
    """A run whose best step is the one that ranks most groups right, of those the one whose scores err least."""
    run = trained(tmp_path_factory.mktemp("rm"), "train-rm", RM)
    found = evaluations(run.run_dir, "group_accuracy", "mae")
    run.best = max(list(found)[1:], key=lambda step: (found[step][0], -found[step][1]))
    return run


def weights(model: Path):
    """Of a written reward model."""
    return hf.load_reward_model(model, hf.read_config(model))


def checkpoint(rm, step: int):
    """Weights and heads of one checkpoint, as they are written."""
    begin = start(gin_config.load(config.TrainRm, [str(rm.gin)]).value, graded=True)
    checkpoints = Checkpoints(rm.run_dir / "checkpoints")
    assert step in checkpoints.steps
    for other in set(checkpoints.steps) - {step}:
        shutil.rmtree(rm.run_dir / "checkpoints" / str(other))
    checkpoints.close()
    checkpoints = Checkpoints(rm.run_dir / "checkpoints")
    restored = checkpoints.restore(begin.state)
    checkpoints.close()
    assert restored is not None
    state = restored[1]
    assert restored[0] == int(state.step) == step
    return jax.device_get((state.trainable["params"], state.trainable["heads"]))


def evaluations(run_dir: Path, *names: str) -> dict[int, tuple[float, ...]]:
    """Held-out metrics by step."""
    rows = [row for row in metrics(run_dir) if f"held_out/{names[0]}" in row]
    return {row["step"]: tuple(row[f"held_out/{name}"] for name in names) for row in rows}


def copied(rm, folder: Path) -> SimpleNamespace:
    run_dir = Path(shutil.copytree(rm.run_dir, folder / "run"))
    return SimpleNamespace(gin=rm.gin, run_dir=run_dir)


def test_the_best_evaluation_is_the_result(rm, tmp_path):
    found = evaluations(rm.run_dir, "group_accuracy", "mae")
    assert list(found) == [0, 2, 4, 6, 8]
    assert rm.best in {2, 4, 6}
    accuracy = f"held_out/group_accuracy {found[rm.best][0]:.4g}"
    assert f"the result is step {rm.best}, the best of 4 evaluations: {accuracy}" in rm.said
    written = weights(rm.run_dir / "model")
    copy = copied(rm, tmp_path)
    for here, there in zip(written, checkpoint(copy, rm.best), strict=True):
        assert_same(here, there)


def test_the_best_and_the_newest_checkpoint_stay(rm):
    assert sorted(int(path.name) for path in (rm.run_dir / "checkpoints").iterdir()) == [rm.best, 8]


def test_the_report_is_on_the_best_weights(rm, tmp_path):
    """The report's errors are of all negatives; a group of the dial world has as many as an evaluation reads."""
    report = json.loads((rm.run_dir / "trust.json").read_text())
    groups, error = evaluations(rm.run_dir, "group_accuracy", "mae")[rm.best]
    np.testing.assert_allclose(report["grading"]["mae"]["value"], error, rtol=1e-4)
    assert report["ranking"]["group_accuracy"]["value"] == pytest.approx(groups)


def test_interrupted_and_continued_it_is_the_same(rm, tmp_path):
    """Interrupted at steps without an evaluation, which are never the best."""
    for more in (["--stop_after=3"], ["--stop_after=5"], []):
        run("train-rm", f"--gin_file={rm.gin}", f"--run_dir={tmp_path / 'run'}", *more)
        assert (tmp_path / "run" / "model").exists() == (not more)
    assert metrics(tmp_path / "run") == metrics(rm.run_dir)
    for folder in ("model", "checkpoints"):
        here, there = ({file.name for file in (d / folder).iterdir()} for d in (tmp_path / "run", rm.run_dir))
        assert here == there
    for file in (*(rm.run_dir / "model").iterdir(), rm.run_dir / "trust.json"):
        other = tmp_path / "run" / file.relative_to(rm.run_dir)
        assert file.read_bytes() == other.read_bytes(), file.name


def test_started_again_a_finished_run_writes_the_same(rm, tmp_path):
    copy = copied(rm, tmp_path)
    shutil.rmtree(copy.run_dir / "model")
    run("train-rm", f"--gin_file={rm.gin}", f"--run_dir={copy.run_dir}")
    for file in (rm.run_dir / "model").iterdir():
        assert file.read_bytes() == (copy.run_dir / "model" / file.name).read_bytes(), file.name


def test_an_export_is_of_the_best(rm, tmp_path):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run("export", rm.run_dir, f"--out={tmp_path / 'out'}")
    assert f"the model after step {rm.best} of" in said.getvalue()
    for file in (rm.run_dir / "model").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


def test_a_damaged_best_checkpoint_is_passed_over(rm, tmp_path, capsys):
    copy = copied(rm, tmp_path)
    shutil.rmtree(copy.run_dir / "checkpoints" / str(rm.best) / "state")
    run("train-rm", f"--gin_file={rm.gin}", f"--run_dir={copy.run_dir}")
    said = capsys.readouterr().out.splitlines()
    assert sum(f"checkpoints/{rm.best} is damaged" in line for line in said) == 1
    assert "the result is step 8" in said  # and not that it is the best
    run("export", copy.run_dir, f"--out={tmp_path / 'out'}")
    for here, there in zip(*map(weights, (copy.run_dir / "model", tmp_path / "out")), strict=True):
        assert_same(here, there)


def test_the_last_is_the_result_where_that_is_asked_for(rm, tmp_path):
    last = trained(tmp_path, "train-rm", RM, "config.TrainRm.result = 'last'")
    assert metrics(last.run_dir) == metrics(rm.run_dir)
    assert not [line for line in last.said if "the result is" in line]
    run("export", last.run_dir, f"--out={tmp_path / 'out'}")
    written, exported = weights(last.run_dir / "model"), weights(tmp_path / "out")
    for here, export, there in zip(written, exported, checkpoint(last, 8), strict=True):
        assert_same(here, there)
        assert_same(export, there)


@pytest.mark.slow
def test_the_best_base_is_the_result_of_sft(tmp_path):
    base = trained(tmp_path, "sft", SFT)
    scores = evaluations(base.run_dir, "score")
    best = max(list(scores)[1:], key=lambda step: scores[step])
    assert best < 8
    assert f"the result is step {best}, the best of 4 evaluations: held_out/score {scores[best][0]:.4g}" in base.said
    run("export", base.run_dir, f"--out={tmp_path / 'out'}")
    shutil.rmtree(base.run_dir / "checkpoints" / "8")
    again = command("export", base.run_dir, f"--out={tmp_path / 'best'}")  # nothing but the best is left
    assert again.code == 0
    written = hf.load_params(base.run_dir / "model", hf.read_config(base.run_dir / "model"))
    for out in ("out", "best"):
        assert_same(hf.load_params(tmp_path / out, hf.read_config(tmp_path / out)), written)
