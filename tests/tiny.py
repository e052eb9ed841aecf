"""A whole experiment that runs in seconds: tiny random roles on disk, and configurations and gin files over them."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tracelift_jax import cli
from tracelift_jax.config import DialTask, Evaluation, Model, OptimizerConfig, Prompts, Roles, Sampling, Schedule, Train
from tracelift_jax.models import hf
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.rollout.batch import PromptBatch
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.data import problem_stream
from tracelift_jax.train.roles import Loaded

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = ROOT / "tracelift_jax" / "assets" / "dial" / "tokenizer"
TASK = DialTask(min_ops=1, max_ops=2, max_distractors=0, train_size=6, test_size=5)
PROBLEM_TOKENS = 30
SHARES = {
    " 2": 0.14,
    " 4": 0.14,
    " 6": 0.14,
    " 1": 0.05,
    " 7": 0.05,
    "</reasoning>": 0.14,
    "\n": 0.06,
    "<reasoning>": 0.05,
}
GIN_HEADER = "from __gin__ import dynamic_registration\nfrom tracelift_jax import config\n"
GIN_DIAL = """
config.DialTask.min_ops = 1
config.DialTask.max_ops = 2
config.DialTask.max_distractors = 0
config.DialTask.train_size = 6
config.DialTask.test_size = 5
"""
"""`TASK` in gin."""
GIN_SHAPE = """
config.Model.shape = @config.Shape()
config.Shape.width = 16
config.Shape.ff_width = 24
config.Shape.layers = 2
config.Shape.heads = 2
config.Shape.kv_heads = 1
config.Shape.head_width = 8
config.Model.remat = 'none'
"""
"""A random model in gin, as `config.Model()`."""
GIN_RM = """
config.TrainRm.batch_size = 4
config.TrainRm.optimizer = @config.OptimizerConfig()
config.OptimizerConfig.learning_rate = 1e-2
config.TrainRm.schedule = @config.Schedule()
"""
"""What tiny reward-model runs have in common."""
END_SHARE = 0.04
"""How often the tiny base writes what, roughly, so that traces of a few tokens are well and badly formed in every way
and answers are right now and then. A uniform model would hardly ever close a tag."""


def _draw(config: ModelConfig, rng: np.random.Generator) -> Any:
    """Parameters drawn in numpy; no bias or scale at its special value."""
    shapes = jax.eval_shape(
        Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    )

    def fill(path, leaf):
        value = 0.4 * rng.standard_normal(leaf.shape)
        return (value + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, nn.meta.unbox(shapes)["params"])


def _set_shares(params: Any, tokenizer: Tokenizer) -> None:
    """Gives the base a preference that no layer disturbs: axis 0 of the residual stream is large and constant."""
    params["embedding"][:, 0] = 6.0
    for kernel in (params["blocks"]["attention"]["out"]["kernel"], params["blocks"]["mlp"]["down"]["kernel"]):
        kernel *= 0.3
        kernel[..., 0] = 0
    params["final_norm"]["scale"][0] = 1.0
    share = np.full(len(tokenizer), (1 - END_SHARE - sum(SHARES.values())) / len(tokenizer))
    for text, value in SHARES.items():
        [token] = tokenizer.encode(text)
        share[token] = value
    share[tokenizer.eos_id] = END_SHARE
    params["head"][1:] *= 0.35
    params["head"][0] = np.log(share) / 3.3


def write_models(folder: Path) -> Path:
    """Writes `folder/base` and `folder/reward_model` as Hugging Face directories; returns `folder`."""
    tokenizer = Tokenizer.load(TOKENIZER)
    config = ModelConfig(len(tokenizer), 16, 24, layers=2, heads=2, kv_heads=1, head_width=8, tie_embeddings=False)
    rng = np.random.default_rng(0)
    base = _draw(config, rng)
    _set_shares(base, tokenizer)
    hf.save(folder / "base", base, config)
    tokenizer.save(folder / "base")
    grader = dataclasses.replace(config, width=12, head_width=6)
    heads = {
        "dimensions": rng.standard_normal((5, 12, 5)).astype(np.float32),
        "dimension_bias": rng.standard_normal((5, 5)).astype(np.float32),
        "total": rng.standard_normal(12).astype(np.float32),
        "total_bias": np.float32(0.1),
    }
    hf.save_reward_model(folder / "reward_model", _draw(grader, rng), heads, grader)
    return folder


def model(path: Path) -> Model:
    return Model(path=str(path), remat="none")


def make_roles(folder: Path, **changes: Any) -> Roles:
    """Roles over `write_models(folder)`, full fine-tuning unless `changes` say otherwise."""
    plain: dict[str, Any] = {
        "task": TASK,
        "base": model(folder / "base"),
        "reward_model": model(folder / "reward_model"),
        "lora": None,
        "prompts": Prompts(stop=("\n",)),
        "prompt_tokens": PROBLEM_TOKENS,
        "answer_tokens": 3,
        "traces": 3,
        "planner": Sampling(max_tokens=6),
        "executor": Sampling(max_tokens=3, temperature=0.8),
    }
    return Roles(**plain | changes)


def make_train(folder: Path, roles: dict[str, Any] | None = None, **changes: Any) -> Train:
    """`make_roles` in training."""
    plain: dict[str, Any] = {
        "batch_size": 4,
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "schedule": Schedule(steps=6, checkpoint_every=2),
        "evaluation": Evaluation(problems=3, batch_size=4, modes=("sampled",)),
    }
    return Train(roles=make_roles(folder, **roles or {}), **plain | changes)


def first_batch(loaded: Loaded, size: int, seed: int = 0) -> tuple[PromptBatch, list]:
    """A host batch of training problems, and the problems."""
    problems = loaded.roles.task.problems("train")
    batch = next(problem_stream(problems, batch_size=size, seed=seed, encode=loaded.encode()))
    return batch, [problems[int(index)] for index in batch.index]


def write_gin(folder: Path, text: str = "") -> Path:
    """The experiment of `make_train(folder, uplift="sampled")` as `folder/tiny.gin`, with `text` behind it."""
    file = folder / "tiny.gin"
    file.write_text(
        f"""{GIN_HEADER}
STEPS = 6

config.Train.roles = @config.Roles()
config.Roles.task = @config.DialTask()
{GIN_DIAL}config.Roles.base = @base/config.Model()
base/config.Model.path = '{folder}/base'
base/config.Model.remat = 'none'
config.Roles.reward_model = @grader/config.Model()
grader/config.Model.path = '{folder}/reward_model'
grader/config.Model.remat = 'none'
config.Roles.lora = @config.LoraConfig()
config.LoraConfig.rank = 2
config.LoraConfig.alpha = 4.0
config.Roles.prompts = @config.Prompts()
config.Prompts.stop = ('\\n',)
config.Roles.prompt_tokens = {PROBLEM_TOKENS}
config.Roles.answer_tokens = 3
config.Roles.traces = 3
config.Roles.planner = @planner/config.Sampling()
planner/config.Sampling.max_tokens = 6
config.Roles.executor = @executor/config.Sampling()
executor/config.Sampling.max_tokens = 3
executor/config.Sampling.temperature = 0.5
config.Roles.reward = @config.RewardConfig()
config.RewardConfig.uplift = 'sampled'
config.RewardConfig.baseline_samples = 4
config.Train.batch_size = 4
config.Train.loss = @config.GrpoConfig()
config.GrpoConfig.kl = 0.02
config.Train.optimizer = @config.OptimizerConfig()
config.OptimizerConfig.learning_rate = 1e-2
config.Train.schedule = @config.Schedule()
config.Schedule.steps = %STEPS
config.Schedule.checkpoint_every = 2
config.Train.evaluation = @config.Evaluation()
config.Evaluation.problems = 3
config.Evaluation.batch_size = 4
config.Evaluation.modes = ('sampled',)  # greedily it would be another program, to compile for seconds
{text}
"""
    )
    return file


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it printed to standard error."""

    code: int
    errors: str


def command(*arguments: str | Path) -> Outcome:
    """`tracelift ARGUMENTS` in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            return Outcome(int(left.code or 0), errors.getvalue())
    return Outcome(0, errors.getvalue())


def run(*arguments: str | Path) -> None:
    """`command`, which must succeed."""
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.errors


def subprocess_environment(devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a process with virtual CPU devices that compiles quickly, and shares the tests' cache."""
    plain = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    if devices > 1:
        plain["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        # Threads for the collectives to wait in; with one a core they wait for each other for ever.
        plain |= {"NPROC": "64", "PJRT_NPROC": "64"}
    return os.environ | plain | more


def run_on_eight(file: str, *arguments: str | Path) -> Any:
    """What a test file run as a program with eight devices prints, see `say`."""
    done = subprocess.run(
        [sys.executable, file, *map(str, arguments)],
        cwd=ROOT,
        env=subprocess_environment(devices=8),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.partition("RESULT")[2])


def say(found: Any) -> None:
    """Prints an object for `run_on_eight`, apart from what libraries print."""
    print("RESULT" + json.dumps(found))


def start(*arguments: str | Path) -> subprocess.Popen:
    """`python -m tracelift_jax ARGUMENTS` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tracelift_jax", *map(str, arguments)],
        cwd=ROOT,
        env=subprocess_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without what measures time."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def assert_same(a: Any, b: Any) -> None:
    """Two trees of arrays are equal bit for bit, typed keys included."""

    def plain(x: Any) -> np.ndarray:
        is_key = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        left, right = plain(left), plain(right)
        same = left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
        assert same, jax.tree_util.keystr(path)
