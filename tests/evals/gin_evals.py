"""A tiny evaluation as a gin file, and a trained planner as a run directory that nobody had to train."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from tiny import write_gin

from tracelift_jax import config, gin_config
from tracelift_jax.train.checkpoint import Checkpoints
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.run import RunDir
from tracelift_jax.train.update import init_state, make_optimizer, place_state

EVALS = """
config.Evaluate.train = @config.Train()
config.Evaluate.benchmarks = (@config.Benchmark(),)
config.Benchmark.name = 'dial'
config.Benchmark.task = @benchmark/config.DialTask()
benchmark/config.DialTask.test_size = 11
config.Evaluate.audits = ('shuffled', 'other')
config.Evaluate.answer_only = '= {answer}'
config.Evaluate.samples = 2
config.Evaluate.batch_size = 4
"""


def write_evals(folder: Path) -> Path:
    """`folder/evals.gin`: eleven problems in batches of four, before the tiny models in `folder`.

    And `folder/tiny_train.gin`, the training alone.
    """
    write_gin(folder).rename(folder / "tiny_train.gin")
    return write_gin(folder, EVALS).rename(folder / "evals.gin")


def write_run(gin: Path, run_dir: Path, seed: int, noise: float = 0.3) -> Path:
    """A planner's run directory with a checkpoint of step 3, whose weights are the untrained ones and noise."""
    loaded = gin_config.load(config.Train, [str(gin)])
    train = loaded.value
    RunDir(run_dir, train, loaded.operative).begin()
    roles = load_roles(train.roles, train.loss.normalize)
    trainable, _ = roles.trainable(train.seed)
    rng = np.random.default_rng(seed)
    trainable = jax.tree.map(lambda x: x + noise * rng.standard_normal(x.shape).astype(np.float32), trainable)
    state, _ = place_state(init_state(trainable, make_optimizer(train.optimizer, 6), train.seed), roles.mesh)
    checkpoints = Checkpoints(run_dir / "checkpoints")
    checkpoints.save(3, dataclasses.replace(state, step=state.step + 3), {}, 0.5)
    checkpoints.wait()
    checkpoints.close()
    return run_dir
