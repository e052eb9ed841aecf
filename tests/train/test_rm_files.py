"""`train-rm` on groups from a file: drawn negatives, cut texts, and a run stopped in the middle of an epoch."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import GIN_HEADER, GIN_RM, GIN_SHAPE, TOKENIZER, assert_same, metrics, run

from tracelift_jax import config, gin_config
from tracelift_jax.errors import UserError
from tracelift_jax.groups.load import GroupFiles
from tracelift_jax.groups.source import DialGroups
from tracelift_jax.models import build, hf
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.rollout.score import grade
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.spans import Tokens
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.data import drawing_stream, eval_batches
from tracelift_jax.train.group_batch import GroupBatch, encode_group, narrow

SOURCE = DialGroups(DialTask(min_ops=1, max_ops=3, max_distractors=0, train_size=20, test_size=1), negatives=5)
GIN = (
    GIN_HEADER
    + GIN_SHAPE
    + GIN_RM
    + """

config.TrainRm.groups = @config.GroupFiles()
config.GroupFiles.train = '{file}'
config.GroupFiles.dev_share = 0.25
config.TrainRm.negatives = 2
config.TrainRm.too_long = 'cut_problem'
config.TrainRm.prompt_tokens = 12
config.TrainRm.trace_tokens = 40
config.TrainRm.tokenizer = 'assets/dial/tokenizer'
config.TrainRm.model = @config.Model()
config.Schedule.steps = 6
config.Schedule.checkpoint_every = 100
"""
)


@pytest.fixture(scope="module")
def pieces() -> Pieces:
    return Pieces(Prompts(), Tokenizer.load(TOKENIZER))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SimpleNamespace:
    """Six steps of four groups, of the 15 that a file of 20 leaves for training."""
    folder = tmp_path_factory.mktemp("files")
    file, gin = folder / "groups.jsonl", folder / "rm.gin"
    file.write_text("".join(json.dumps(group.to_json()) + "\n" for group in SOURCE.groups("train")))
    gin.write_text(GIN.format(file=file))
    run("train-rm", f"--gin_file={gin}", f"--run_dir={folder / 'run'}")
    return SimpleNamespace(gin=gin, run_dir=folder / "run", groups=GroupFiles(str(file), dev_share=0.25))


@pytest.mark.slow
def test_stopped_in_an_epoch_and_continued_is_the_same(trained, tmp_path):
    for more in (["--stop_after=2"], []):  # 8 of 15 groups
        run("train-rm", f"--gin_file={trained.gin}", f"--run_dir={tmp_path / 'run'}", *more)
    assert metrics(tmp_path / "run") == metrics(trained.run_dir)
    shape = hf.read_config(trained.run_dir / "model")
    here, there = (hf.load_reward_model(folder / "model", shape) for folder in (trained.run_dir, tmp_path / "run"))
    assert_same(here, there)


def test_the_first_step_is_of_drawn_traces(trained, pieces):
    experiment = gin_config.load(config.TrainRm, [str(trained.gin)]).value
    mesh, layout = make_mesh(MeshConfig()), MeshConfig()
    shape = build.model_config(experiment.model, len(pieces.tokenizer))
    base = build.load_base(experiment.model, shape, mesh, layout)
    shape, base = build.without_head(shape, base)
    heads = build.init_heads(shape, 0, mesh, layout)
    encode = partial(encode_group, pieces, 12, 40, negatives=2, too_long="cut_problem")
    batch = next(drawing_stream(trained.groups.groups("train"), batch_size=4, seed=0, encode=encode))
    graded = jax.jit(partial(grade, Transformer(shape)))({"params": base}, heads, batch.problem, batch.traces)
    [row] = [row for row in metrics(trained.run_dir) if row["step"] == 1 and "score/mae" in row]
    np.testing.assert_allclose(row["score/mae"], np.abs(graded.score - batch.totals).mean(), rtol=1e-4)


def test_the_held_out_share_is_measured_on_its_first_negatives(trained, pieces):
    model = trained.run_dir / "model"
    shape = hf.read_config(model)
    params, heads = hf.load_reward_model(model, shape)
    groups = trained.groups.groups("test")
    assert len(groups) == 5
    encode = partial(encode_group, pieces, 60, 40)
    [(whole, _, _)] = eval_batches(groups, encode, 5)
    assert whole.problem.valid.sum(-1).max() > 12  # so that problems are cut indeed
    cut = partial(encode_group, pieces, 12, 40, too_long="cut_problem")
    [(batch, _, _)] = eval_batches(groups, cut, 5)
    graded = jax.jit(partial(grade, Transformer(shape)))({"params": params}, heads, batch.problem, batch.traces)
    score = np.asarray(graded.score)[:, :3]
    [row] = [row for row in metrics(trained.run_dir) if row["step"] == 6 and "held_out/mae" in row]
    assert row["held_out/groups"] == 5
    np.testing.assert_allclose(row["held_out/mae"], np.abs(score - batch.totals[:, :3]).mean(), rtol=1e-5)
    rmse = math.sqrt(np.square(score - batch.totals[:, :3]).mean())
    np.testing.assert_allclose(row["held_out/rmse"], rmse, rtol=1e-5)


def test_what_the_reference_keeps_is_graded_as_one_text(trained, pieces):
    """At the last token that is kept, whether the problem or a trace is the longer one."""
    shape = hf.read_config(trained.run_dir / "model")
    params, heads = hf.load_reward_model(trained.run_dir / "model", shape)
    model = Transformer(shape)
    group = max(SOURCE.groups("train"), key=lambda group: len(group.problem))
    whole = encode_group(pieces, 60, 60, 0, group)
    problem = whole.problem.ids[whole.problem.valid].tolist()
    traces = [ids[valid].tolist() for ids, valid in zip(whole.traces.ids, whole.traces.valid, strict=True)]

    @jax.jit
    def flat(ids, valid):
        hidden, _ = model.apply({"params": params}, ids, valid)
        return RubricHeads(shape.width).apply({"params": heads}, hidden[0, valid.sum() - 1]).score

    # Rooms of P = 8: the problem's rest begins the traces; P = 40: traces begin before T.
    for prompt_tokens, trace_tokens in ((8, 40), (40, 8), (8, 8)):
        encode = partial(encode_group, pieces, prompt_tokens, trace_tokens, too_long="reference")
        [(batch, _, _)] = eval_batches([group], encode, 1)
        graded = jax.jit(partial(grade, model))({"params": params}, heads, batch.problem, batch.traces)
        for row, trace in enumerate(traces):
            kept = [*problem, *trace][: prompt_tokens + trace_tokens]
            ids = jnp.array([kept + [0] * (60 - len(kept))])
            np.testing.assert_allclose(graded.score[0, row], flat(ids, jnp.arange(60)[None] < len(kept)), atol=1e-5)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("negatives = 0", "TrainRm.negatives must be at least 1, got 0"),
        ("too_long = 'cut'", "TrainRm.too_long"),
        ("too_long = 'reference'\nconfig.TrainRm.trace_tokens = 1", "TrainRm.trace_tokens must be at least 2 where"),
    ],
)
def test_wrong_values_are_named(trained, tmp_path, binding, message):
    gin = tmp_path / "bad.gin"
    gin.write_text(f"{Path(trained.gin).read_text()}config.TrainRm.{binding}\n")
    with pytest.raises(UserError, match=message):
        gin_config.load(config.TrainRm, [str(gin)])


@pytest.mark.parametrize(
    ("longest", "widths"),
    # Rooms of 12 and 40 tokens: 12, 6, 3, 2 and 40, 20, 10, 5.
    [
        ((12, 40), (12, 40)),
        ((7, 21), (12, 40)),
        ((6, 20), (6, 20)),
        ((4, 11), (6, 20)),
        ((3, 5), (3, 5)),
        ((1, 1), (2, 5)),
    ],
)
def test_batches_of_short_texts_are_narrow(longest, widths):
    def tokens(lead, room, most):
        lengths = np.random.default_rng(0).integers(1, most + 1, lead)
        lengths.flat[-1] = most  # one that needs it is enough
        valid = np.arange(room) < lengths[..., None]
        return Tokens(np.where(valid, 7, 0).astype(np.int32), valid)

    problem, traces = tokens((3,), 12, longest[0]), tokens((3, 5), 40, longest[1])
    labels, totals = np.zeros((3, 5, 5), np.int32), np.zeros((3, 5), np.float32)
    batch = narrow(GroupBatch(problem, traces, labels, totals, np.ones(3, bool)))
    for cut, whole, width in ((batch.problem, problem, widths[0]), (batch.traces, traces, widths[1])):
        assert cut.ids.shape == cut.valid.shape == (*whole.ids.shape[:-1], width)
        assert cut.valid.sum() == whole.valid.sum()
        np.testing.assert_array_equal(cut.ids, whole.ids[..., :width])
    assert batch.labels is labels and batch.totals is totals
    assert batch.real.shape == (3,)
