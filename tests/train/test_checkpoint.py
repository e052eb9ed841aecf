"""Checkpoints: what goes in comes out, which of them stay, and what damage does."""

import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny import assert_same

from tracelift_jax.errors import UserError
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh, replicated
from tracelift_jax.train.checkpoint import Checkpoints


def make_state(step: int):
    return {
        "weights": jnp.arange(6.0).reshape(2, 3) * step,
        "half": jnp.full(3, step / 3, jnp.bfloat16),
        "step": jnp.int32(step),
        "key": jax.random.fold_in(jax.random.key(7), step),
    }


HOST = {"data": {"next_index": 12}, "baseline": {"dial/0": [1, 8, 3]}, "drawn": 4}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Checkpoints of steps 1 to 4, of which the last two are kept and step 2 as the best."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(folder, keep=2)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.2), (4, None)):
        checkpoints.save(step, make_state(step), HOST | {"drawn": step}, score)
    checkpoints.close()
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def restore(folder: Path, best: bool = False):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(make_state(0), best)
    finally:
        checkpoints.close()


def damage(checkpoint: Path, how: str) -> None:
    """Spoils every file of a checkpoint."""
    files = [file for file in checkpoint.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        file.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\x00rubbish" * 9, "empty": b""}[how])


def test_the_newest_state_comes_back_bit_for_bit(folder):
    step, state, host = restore(folder)
    assert step == 4
    assert_same(state, make_state(4))
    assert host == HOST


def test_what_comes_back_can_be_asked_for_again(folder):
    """As by a finished run, which continues with its newest state and then reads its best."""
    mesh = make_mesh(MeshConfig())
    like = jax.device_put(make_state(0), replicated(mesh))
    checkpoints = Checkpoints(folder)
    newest = checkpoints.restore(like)[1]
    assert jax.tree.map(lambda x: x.sharding, newest) == jax.tree.map(lambda x: x.sharding, like)
    assert_same(checkpoints.restore(newest, best=True)[1], make_state(2))
    checkpoints.close()


def test_the_newest_two_and_the_best_stay(written):
    checkpoints = Checkpoints(written)
    assert checkpoints.steps == [2, 3, 4]
    checkpoints.close()


@pytest.mark.parametrize(
    ("saved", "kept", "scores"),
    [
        # One score is enough: the tie decides, and then the later step.
        ([(1, 0.5, -3.0), (2, 0.5, -1.0), (3, 0.5, -2.0), (4, 0.4, 9.0)], [2, 4], {2: 0.5, 4: 0.4}),
        ([(1, 0.5, 0.0), (2, 0.5, 0.0), (3, 0.1, 0.0)], [2, 3], {2: 0.5, 3: 0.1}),
        # A state that was not evaluated is never the best, though a score can be below 0.
        ([(1, -2.0, 0.0), (2, -3.0, 0.0), (3, None, 0.0), (4, None, 0.0)], [1, 4], {1: -2.0}),
        ([(1, None, 0.0), (2, None, 0.0)], [2], {}),
        # Neither is one whose score is no number.
        ([(1, 0.2, 0.0), (2, math.nan, 0.0), (3, 0.1, math.nan)], [1, 3], {1: 0.2, 3: 0.1}),
        ([(1, 0.2, -9.0), (2, 0.2, math.nan), (3, 0.1, 0.0)], [1, 3], {1: 0.2, 3: 0.1}),
    ],
)
def test_the_best_of_those_evaluated_stays(tmp_path, saved, kept, scores):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, score, tie in saved:
        checkpoints.save(step, make_state(step), HOST | {"drawn": step}, score, tie)
    checkpoints.wait()
    assert checkpoints.steps == kept
    assert list(checkpoints.scores.items()) == list(scores.items())
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)  # as another process finds them
    assert list(checkpoints.scores.items()) == list(scores.items())
    checkpoints.close()
    step, state, host = restore(tmp_path, best=True)
    assert step == host["drawn"] == next(iter(scores), kept[-1])
    assert_same(state, make_state(step))


def test_where_the_best_is_damaged_the_next_best_comes_back(folder, capsys):
    shutil.rmtree(folder / "2" / "state")
    step, state, _ = restore(folder, best=True)
    assert step == 3
    assert_same(state, make_state(3))
    shutil.rmtree(folder / "3" / "state")
    assert restore(folder, best=True)[0] == 4  # not evaluated, and better than nothing
    said = [line.rpartition("; ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == ["trying that of step 3", "trying that of step 3", "trying that of step 4"]


def test_a_damaged_score_is_the_worst(folder):
    (folder / "2" / "metrics" / "metrics").write_bytes(b'{"score": 0.9')
    assert restore(folder, best=True)[0] == 3


def test_nothing_there_is_none(tmp_path):
    assert restore(tmp_path / "none") is None


@pytest.mark.parametrize("how", ["truncated", "garbage", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_one_line(folder, how, capsys):
    damage(folder / "4", how)
    step, state, host = restore(folder)
    assert step == host["drawn"] == 3
    assert_same(state, make_state(3))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"checkpoint {folder / '4'} is damaged (")
    assert line.endswith("; trying that of step 3")


def test_missing_arrays_are_damage_too(folder):
    shutil.rmtree(folder / "4" / "state")
    assert restore(folder)[0] == 3


def test_no_good_checkpoint_is_one_line(folder, capsys):
    for step in (2, 3, 4):
        damage(folder / str(step), "garbage")
    with pytest.raises(UserError) as refusal:
        restore(folder)
    assert str(refusal.value) == f"{folder}: none of the checkpoints can be read; use another --run_dir"
    assert len(capsys.readouterr().out.splitlines()) == 3
