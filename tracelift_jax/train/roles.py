"""The three roles of a run: their weights on the mesh, their tokenizer, and the static setup of a rollout."""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.models import build, hf
from tracelift_jax.models.build import LoraConfig, Model
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.parallel.mesh import MeshConfig, check_batch, make_mesh
from tracelift_jax.rollout.batch import Setup, Sizes, Text, encode_problem, make_fixed, make_text
from tracelift_jax.rollout.evaluate import Evaluation, Evaluator
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.tasks.problem import Task
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.data import eval_batches


@dataclasses.dataclass(frozen=True)
class Roles:
    """Who plays in a run; shared by `tracelift train` and `tracelift eval`.

    Attributes:
        task: where problems come from.
        base: the resident base: the executor as it is, and what the planner starts from.
        tokenizer: its directory; empty: the base's.
        reward_model: a reward model's directory as a `Model`, or None where nothing is graded.
        lora: the planner's adapter; None trains all weights of the planner.
        prompts: the words of the roles.
        prompt_tokens, answer_tokens: room for a framed problem and for a canonical answer with its end token; problems
            that do not fit are left out.
        traces: G, traces a problem.
        planner, executor: how they draw. reward: what traces are rewarded for.
        mesh: the devices.
    """

    task: Task
    base: Model
    tokenizer: str = ""
    reward_model: Model | None = None
    lora: LoraConfig | None = LoraConfig()
    prompts: Prompts = Prompts()
    prompt_tokens: int = 66
    answer_tokens: int = 4
    traces: int = 8
    planner: Sampling = Sampling(max_tokens=48)
    executor: Sampling = Sampling(max_tokens=4, temperature=0.5)
    reward: RewardConfig = RewardConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("prompt_tokens", "answer_tokens", "traces"):
            require(getattr(self, field) >= 1, f"Roles.{field} must be at least 1, got {getattr(self, field)}")
        require(bool(self.tokenizer or self.base.path), "Roles.tokenizer must be set where Roles.base has no path")
        if self.reward.needs_grade:
            require(
                self.reward_model is not None, f'Roles.reward_model must be set for reward kind "{self.reward.kind}"'
            )
        require(self.reward_model is None or bool(self.reward_model.path), "Roles.reward_model needs a path")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Roles with their weights.

    Attributes:
        shape: of the base. planner_shape: with the adapter. base: its parameters.
        reward_model: (variables, heads) or None. setup: the rollout's static part. text: its tables.
        fingerprints: of the frozen weights, written into every record.
    """

    roles: Roles
    tokenizer: Tokenizer
    mesh: Mesh
    pieces: Pieces
    shape: ModelConfig
    planner_shape: ModelConfig
    base: Any
    reward_model: Any
    setup: Setup
    text: Text
    fingerprints: dict[str, str]

    def trainable(self, seed: int) -> tuple[Any, Any]:
        """(trainable, frozen) variables of a fresh planner."""
        frozen = {"planner": {"params": self.base}, "base": {"params": self.base}}
        if self.roles.lora:
            return {"lora": build.init_lora(self.planner_shape, seed, self.mesh, self.roles.mesh)}, frozen
        # The planner's own copy: the base stays what it is for the executor, and donation must not touch it.
        return {"params": jax.tree.map(lambda x: x.copy(), self.base)}, {"planner": {}, "base": {"params": self.base}}

    def encode(self):
        """Problem to arrays, for the data pipeline."""
        return partial(encode_problem, self.pieces, Sizes(self.roles.prompt_tokens, self.roles.answer_tokens))

    def evaluator(self, config: Evaluation) -> Evaluator:
        """Evaluates planners of this run on held-out problems.

        Raises:
            UserError: no held-out problem fits.
        """
        problems = self.roles.task.problems("test")
        check_batch(self.mesh, "Evaluation.batch_size", config.batch_size)
        batches = [
            dataclasses.replace(batch, real=real)
            for batch, _, real in eval_batches(problems, self.encode(), config.batch_size, config.problems)
        ]
        if not batches:
            raise UserError("no held-out problem fits Roles.prompt_tokens and Roles.answer_tokens; raise them")
        asked = min(config.problems, len(problems))
        return Evaluator(
            self.setup,
            self.text,
            batches,
            problems,
            self.roles.task,
            self.tokenizer,
            self.roles.prompts,
            config,
            self.mesh,
            left_out=asked - sum(int(batch.real.sum()) for batch in batches),
        )


def load_roles(roles: Roles, normalize: Literal["std", "none"] = "std") -> Loaded:
    """Reads all weights and tables of a run.

    Raises:
        UserError: a path, checkpoint or tokenizer cannot be used.
    """
    tokenizer = Tokenizer.load(build.find(roles.tokenizer or roles.base.path))
    pieces = Pieces(roles.prompts, tokenizer)
    mesh = make_mesh(roles.mesh)
    shape = build.model_config(roles.base, len(tokenizer))
    text = make_text(pieces, shape.vocab_size)
    base = build.load_base(roles.base, shape, mesh, roles.mesh)
    fingerprints = {"base": hf.fingerprint(base)}
    planner_shape = dataclasses.replace(shape, lora=roles.lora)
    grader, graded = None, None
    if roles.reward_model:
        grader_shape, _ = build.without_head(build.model_config(roles.reward_model, len(tokenizer)), {})
        params, heads = build.load_reward_model(roles.reward_model, grader_shape, mesh, roles.mesh)
        grader, graded = Transformer(grader_shape), ({"params": params}, heads)
        fingerprints["reward_model"] = hf.fingerprint(params, heads)
    setup = Setup(
        planner=Transformer(planner_shape),
        executor=Transformer(shape),
        reward_model=grader,
        traces=roles.traces,
        planner_sampling=roles.planner,
        executor_sampling=roles.executor,
        reward=roles.reward,
        normalize=normalize,
        fixed=make_fixed(pieces),
    )
    return Loaded(roles, tokenizer, mesh, pieces, shape, planner_shape, base, graded, setup, text, fingerprints)
