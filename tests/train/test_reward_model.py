"""Supervised training end to end: the reward model and the base, on tiny models, from a gin file to what is written."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
    GIN_DIAL,
    GIN_HEADER,
    GIN_RM,
    GIN_SHAPE,
    TASK,
    TOKENIZER,
    assert_same,
    command,
    metrics,
    run,
)

from tracelift_jax import config, gin_config
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.models import build, hf
from tracelift_jax.models.fingerprint import fingerprint
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train import reward_model, sft
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.reward_model import encode_group, held_out_metrics
from tracelift_jax.train.update import init_state, make_optimizer

STEPS = 4
MODEL = GIN_SHAPE + GIN_DIAL + "config.Schedule.steps = %STEPS\nconfig.Schedule.checkpoint_every = 100\n"
HEADER = f"{GIN_HEADER}STEPS = {STEPS}\n"
LORA = "config.LoraConfig.rank = 2\nconfig.LoraConfig.dropout = 0.1\n"


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces(Prompts(), Tokenizer.load(TOKENIZER))


def finished(folder: Path, command: str, root: type, text: str, trainable) -> SimpleNamespace:
    """Runs `command` on gin `text`; the config, the run directory, and the trained state of its last checkpoint."""
    file = folder / "tiny.gin"
    file.write_text(HEADER + text + MODEL)
    run_dir = folder / "run"
    run(command, f"--gin_file={file}", f"--run_dir={run_dir}")
    experiment = gin_config.load(root, [str(file)]).value
    shape = build.model_config(experiment.model, len(Tokenizer.load(TOKENIZER)))
    mesh = make_mesh(MeshConfig())
    base = build.load_base(experiment.model, shape, mesh, MeshConfig())
    adapted = dataclasses.replace(shape, lora=experiment.lora)
    start = trainable(base, adapted, mesh)
    checkpoints = Checkpoints(run_dir / "checkpoints")
    step, state, _ = checkpoints.restore(init_state(start, make_optimizer(experiment.optimizer, STEPS), 0))
    checkpoints.close()
    assert step == STEPS
    return SimpleNamespace(
        config=experiment,
        run_dir=run_dir,
        shape=shape,
        adapted=adapted,
        base=base,
        start=start,
        trained=state.trainable,
    )


# -------------------------------------------------------------------------------------------------------- reward model

RM = (
    GIN_RM
    + """
config.TrainRm.groups = @config.DialGroups()
config.DialGroups.task = @config.DialTask()
config.TrainRm.model = @config.Model()
config.TrainRm.tokenizer = 'assets/dial/tokenizer'
config.TrainRm.prompt_tokens = 30
config.TrainRm.trace_tokens = 32
"""
)


def rm_start(base, shape, mesh):
    heads = build.init_heads(shape, 0, mesh, MeshConfig())
    weights = {"lora": build.init_lora(shape, 0, mesh, MeshConfig())} if shape.lora else {"params": base}
    return weights | {"heads": heads}


@pytest.fixture(scope="module")
def rm(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("rm"), "train-rm", config.TrainRm, RM, rm_start)


@pytest.fixture(scope="module")
def rm_lora(tmp_path_factory):
    text = RM + "config.TrainRm.lora = @config.LoraConfig()\n" + LORA
    return finished(tmp_path_factory.mktemp("rm_lora"), "train-rm", config.TrainRm, text, rm_start)


def held_out(rm, pieces):
    """All held-out groups as one batch."""
    encode = partial(encode_group, pieces, 30, 32)
    [(batch, rows, real)] = eval_batches(rm.config.groups.groups("test"), encode, 5)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert real.all()
    return batch


def test_the_positive_comes_first(pieces):
    source = DialGroups(TASK, negatives=3)
    group = source.groups("train")[0]
    batch = encode_group(pieces, 30, 32, 0, group)
    texts = [
        pieces.tokenizer.decode(ids[valid]) for ids, valid in zip(batch.traces.ids, batch.traces.valid, strict=True)
    ]
    members = [group.positives[0], *group.negatives]
    assert texts == [f"<reasoning> {member.reasoning} </reasoning>" for member in members]
    assert batch.labels.tolist() == [list(member.rubric.dimensions) for member in members]
    assert batch.labels[0].tolist() == [4] * 5
    np.testing.assert_allclose(batch.totals, [member.rubric.total for member in members])
    assert batch.totals[0] == 1 > batch.totals[1:].max()
    assert pieces.tokenizer.decode(batch.problem.ids[batch.problem.valid]) == group.problem + "\n"


def test_groups_that_do_not_fit_are_left_out(pieces):
    group = DialGroups(TASK).groups("train")[0]
    problem = len(pieces.tokenizer.encode(group.problem + "\n"))
    longest = max(
        len(pieces.tokenizer.encode(f"<reasoning> {trace.reasoning} </reasoning>"))
        for trace in (*group.positives, *group.negatives)
    )
    fits = {
        (p, t): encode_group(pieces, p, t, 0, group) is not None
        for p in (problem, problem - 1)
        for t in (longest, longest - 1)
    }
    assert [size for size, fit in fits.items() if fit] == [(problem, longest)]


def graded(shape, params, heads, batch, **more):
    """Grades under jit, on values as they are on disk."""
    variables = {"params": params, **more}
    return jax.device_get(jax.jit(partial(grade, Transformer(shape)))(variables, heads, batch.problem, batch.traces))


@pytest.mark.parametrize("which", ["rm", "rm_lora"])
@pytest.mark.slow
def test_what_is_written_grades_as_what_was_trained(which, request, pieces):
    rm = request.getfixturevalue(which)
    shape = hf.read_config(rm.run_dir / "model")
    params, heads = hf.load_reward_model(rm.run_dir / "model", shape)
    assert_same(heads, jax.device_get(rm.trained["heads"]))
    batch = held_out(rm, pieces)
    loaded = graded(shape, params, heads, batch)
    if which == "rm":
        assert_same(params, jax.device_get(rm.trained["params"]))
        trained = graded(rm.shape, rm.trained["params"], rm.trained["heads"], batch)
        assert_same(loaded, trained)
    else:  # merged: the same function, summed in another order
        trained = graded(rm.adapted, rm.base, rm.trained["heads"], batch, lora=rm.trained["lora"])
        np.testing.assert_allclose(loaded.logits, trained.logits, atol=1e-5)
        np.testing.assert_allclose(loaded.total_logit, trained.total_logit, atol=1e-5)
        without = graded(rm.shape, rm.base, rm.trained["heads"], batch)
        assert np.abs(without.logits - trained.logits).max() > 1e-2  # the adapter learnt something
    assert Tokenizer.load(rm.run_dir / "model").encode("<reasoning> 7 + 5 = 2") == pieces.tokenizer.encode(
        "<reasoning> 7 + 5 = 2"
    )


def test_training_lowers_the_loss_and_moves_all_weights(rm, pieces):
    batch = held_out(rm, pieces)
    loss = jax.jit(partial(reward_model.group_loss, Transformer(rm.shape), rm.config.loss))
    (before, _), _ = loss(rm.start, {}, batch, None)
    (after, _), _ = loss(rm.trained, {}, batch, None)
    assert after < 0.95 * before
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (rm.start, rm.trained)), strict=True)]
    assert all(moved)


def test_held_out_metrics_are_those_of_the_written_model(rm, pieces):
    batch = held_out(rm, pieces)
    score = np.asarray(graded(rm.shape, *hf.load_reward_model(rm.run_dir / "model", rm.shape), batch).score)
    above = score[:, :1] > score[:, 1:]
    expected = {
        "held_out/mae": np.abs(score - batch.totals).mean(),
        "held_out/rmse": math.sqrt(np.square(score - batch.totals).mean()),
        "held_out/pair_accuracy": above.mean(),
        "held_out/group_accuracy": above.all(-1).mean(),
        "held_out/groups": 5,
    }
    [row] = [row for row in metrics(rm.run_dir) if row["step"] == STEPS and "held_out/mae" in row]
    for name, value in expected.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-5, err_msg=name)


def test_a_reward_model_is_trained_on_with_its_heads(rm, tmp_path):
    gin = tmp_path / "on.gin"
    lines = [line for line in (HEADER + RM + MODEL).splitlines() if "hape" not in line]
    gin.write_text("\n".join([*lines, f"config.Model.path = '{rm.run_dir / 'model'}'"]))
    run("train-rm", f"--gin_file={gin}", f"--run_dir={tmp_path / 'run'}", "--gin.STEPS=1")
    [before] = [row for row in metrics(tmp_path / "run") if row["step"] == 0]
    [after] = [row for row in metrics(rm.run_dir) if row["step"] == STEPS and "held_out/mae" in row]
    assert before == after | {"step": 0}
    outcome = command("train-rm", f"--gin_file={gin}", f"--run_dir={tmp_path / 'no'}", "--gin.Model.grow=1")
    assert outcome.code == 2
    assert outcome.errors.startswith("tracelift: Model.grow = 1: ")
    assert outcome.errors.endswith("is a reward model; only a base can grow\n")


def test_held_out_metrics_by_hand():
    def part(squared, right, groups):
        return {"score/squared_error": (squared, groups), "score/group_accuracy": (right, groups)}

    # 2 of 4 groups; (0.3 + 0.06) / 4 = 0.09 = 0.3 ** 2
    found = held_out_metrics([part(0.3, 2.0, 3.0), part(0.06, 0.0, 1.0)])
    np.testing.assert_allclose(found["held_out/rmse"], 0.3)
    np.testing.assert_allclose(found["held_out/group_accuracy"], 0.5)
    assert found["held_out/groups"] == 4
    # Wilson at 2 of 4: z2 = 3.8416; (0.5 +- z sqrt(1/16 + z2/64)) over (1 + z2/4), around 0.5
    half = 1.96 * math.sqrt(1 / 16 + 3.8416 / 64) / (1 + 3.8416 / 4)
    np.testing.assert_allclose(found["held_out/group_accuracy_low"], 0.5 - half)
    np.testing.assert_allclose(found["held_out/group_accuracy_high"], 0.5 + half)


# ------------------------------------------------------------------------------------------- supervised fine-tuning

SFT = """
config.Sft.task = @config.DialTask()
config.Sft.tokenizer = 'assets/dial/tokenizer'
config.Sft.model = @config.Model()
config.Sft.prompt_tokens = 30
config.Sft.branch_tokens = 24
config.Sft.batch_size = 4
config.Sft.direct_weight = 0.3
config.Sft.optimizer = @config.OptimizerConfig()
config.OptimizerConfig.learning_rate = 2e-2
config.Sft.schedule = @config.Schedule()
"""


def sft_start(base, shape, mesh):
    return {"lora": build.init_lora(shape, 0, mesh, MeshConfig())} if shape.lora else {"params": base}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("sft"), "sft", config.Sft, SFT, sft_start)


def test_sft_lowers_the_loss(tuned):
    rows = metrics(tuned.run_dir)
    losses = [row["loss/total"] for row in rows if "loss/total" in row]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.3
    first, last = (next(r for r in rows if r["step"] == s and "held_out/score" in r) for s in (0, STEPS))
    assert last["held_out/loss/total"] < first["held_out/loss/total"] - 0.3
    assert last["held_out/score"] == -last["held_out/loss/total"]


def test_the_tuned_base_is_written_as_it_was_trained(tuned):
    shape = hf.read_config(tuned.run_dir / "model")
    params = hf.load_params(tuned.run_dir / "model", shape)
    assert_same(params, jax.device_get(tuned.trained["params"]))
    assert fingerprint(params) == fingerprint(tuned.trained["params"]) != fingerprint(tuned.base)


@pytest.mark.slow
def test_sft_of_an_adapter_writes_the_merged_model(tmp_path):
    text = SFT + "config.Sft.lora = @config.LoraConfig()\n" + LORA
    tuned = finished(tmp_path, "sft", config.Sft, text, sft_start)
    params = hf.load_params(tmp_path / "run" / "model", hf.read_config(tmp_path / "run" / "model"))
    merged = hf.merge_lora(tuned.base, tuned.trained["lora"], tuned.adapted)
    assert_same(params, jax.device_get(merged))
    np.testing.assert_array_equal(params["embedding"], tuned.base["embedding"])
    assert not np.array_equal(params["blocks"]["mlp"]["up"]["kernel"], tuned.base["blocks"]["mlp"]["up"]["kernel"])


def test_the_sft_loss_is_that_of_flat_sequences(tuned, pieces):
    """Each branch read alone behind its problem; only what a role writes is predicted."""
    params = jax.device_get(tuned.trained["params"])
    model = Transformer(tuned.shape)
    problems = tuned.config.task.problems("train")
    encode = pieces.tokenizer.encode
    eos = pieces.tokenizer.eos_id

    @jax.jit
    def table(ids):
        hidden, _ = model.apply({"params": params}, ids, ids >= 0)
        return jax.nn.log_softmax(model.apply({"params": params}, hidden, method="logits"))[0]

    def losses(shown: list[int], written: list[tuple[list[int], bool]]) -> list[float]:
        ids = shown + [token for piece, _ in written for token in piece]
        logprobs = np.asarray(table(jnp.array([ids + [0] * (60 - len(ids))])), np.float64)
        out, place = [], len(shown)
        for piece, predicted in written:
            for token in piece:
                out += [-logprobs[place - 1, token]] if predicted else []
                place += 1
        return out

    reasoned, direct = [], []
    for problem in problems:
        answer = [*encode(f" {problem.answer}"), eos]
        reasoned += losses(
            encode(problem.text + "\n<reasoning>"),
            [(encode(f" {problem.reasoning} </reasoning>"), True), (encode("\nAnswer:"), False), (answer, True)],
        )
        direct += losses(encode(problem.text + "\nAnswer:"), [(answer, True)])
    [(batch, _, _)] = eval_batches(problems, partial(sft.encode, pieces, tuned.config), 6)
    (total, weight), parts = jax.jit(partial(sft.sft_loss, model))({"params": params}, {}, batch, jax.random.key(0))
    np.testing.assert_allclose(parts["loss/reasoned"], (sum(reasoned), len(reasoned)), rtol=1e-5)
    np.testing.assert_allclose(parts["loss/direct"], (0.3 * sum(direct), 0.3 * len(direct)), rtol=1e-5)
    np.testing.assert_allclose(total, sum(reasoned) + 0.3 * sum(direct), rtol=1e-5)
    np.testing.assert_allclose(weight, len(reasoned) + 0.3 * len(direct), rtol=1e-5)
