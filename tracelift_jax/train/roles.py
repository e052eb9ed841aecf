"""The three roles of a run: their weights on the mesh, their tokenizer, and the static setup of a rollout."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal

from jax.sharding import Mesh

from tracelift_jax.checked import check_types, require
from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.models.build import Adapter, LoraConfig, Model
from tracelift_jax.models.transformer import ModelConfig, Transformer
from tracelift_jax.parallel.memory import device_bytes, same_buffers
from tracelift_jax.parallel.mesh import MeshConfig, batch_shards, check_batch, make_mesh, split_batch
from tracelift_jax.rollout.answerers import Answerer, OnDevice, OnServer
from tracelift_jax.rollout.batch import Setup, Sizes, Text, encode_problem, make_fixed, make_text, why_unjudged
from tracelift_jax.rollout.caches import cache_bytes
from tracelift_jax.rollout.decoding import Decoding
from tracelift_jax.rollout.elsewhere import Elsewhere
from tracelift_jax.rollout.evaluate import Evaluation, Evaluator
from tracelift_jax.rollout.judging import Judge, ProgramJudge, judge_answers
from tracelift_jax.rollout.reward_config import CodeRewardConfig, RewardConfig
from tracelift_jax.rollout.sample import Sampling
from tracelift_jax.rollout.served import ExecutorServer, Served
from tracelift_jax.tasks.problem import Problem, Task
from tracelift_jax.tasks.sandbox import SandboxConfig
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.data import eval_batches
from tracelift_jax.train.run import console
from tracelift_jax.train.source import Real, Source


@dataclasses.dataclass(frozen=True)
class Roles:
    """Who plays in a run; shared by `tracelift train` and `tracelift eval`.

    Attributes:
        task: where problems come from.
        base: the resident base, which every role uses that has no weights of its own.
        tokenizer: its directory; empty: the base's.
        lora: the planner's adapter: a fresh one, one to go on with, or None to train all weights of the planner.
        reward_model: an adapter with heads on the resident base, or a whole model of its own; None grades nothing.
        planner_model, executor_model: weights of its own for one of the two; None: the resident base.
        executor_server: asks an executor behind HTTP instead; its words and how it draws stay those of `prompts` and
            `executor`. It gives no likelihood.
        prompts: the words of the roles.
        prompt_tokens, answer_tokens: room for a framed problem and for a canonical answer with its end token; problems
            that do not fit are left out, as are those whose answer is no number, or of programs those without tests.
        traces: G, traces a problem.
        planner, executor: how they draw.
        reward: what traces are rewarded for; with a `CodeRewardConfig` answers are programs, and tests judge them.
        sandbox: where programs run.
        mesh: the devices.
    """

    task: Task
    base: Model
    tokenizer: str = ""
    lora: LoraConfig | Adapter | None = LoraConfig()
    reward_model: Model | Adapter | None = None
    planner_model: Model | None = None
    executor_model: Model | None = None
    executor_server: ExecutorServer | None = None
    prompts: Prompts = Prompts()
    prompt_tokens: int = 66
    answer_tokens: int = 4
    traces: int = 8
    planner: Sampling = Sampling(max_tokens=48)
    executor: Sampling = Sampling(max_tokens=4, temperature=0.5)
    reward: RewardConfig = RewardConfig()
    sandbox: SandboxConfig = SandboxConfig()
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
        require(
            self.planner_model is None or self.executor_model is None,
            "Roles.planner_model and Roles.executor_model are not needed together: make one of them Roles.base",
        )
        require(
            self.executor_server is None or self.executor_model is None,
            "Roles.executor_server and Roles.executor_model are two executors; keep one of them",
        )
        require(
            self.executor_server is None or self.reward.uplift != "likelihood",
            'Roles.executor_server needs RewardConfig.uplift = "sampled" or "none": a server gives no likelihood',
        )
        require(
            self.executor_server is None or self.reward.adaptive == 0,
            "Roles.executor_server needs RewardConfig.adaptive = 0: a server is asked once a step",
        )
        require(
            self.lora is not None or (self.planner_model or self.base).weights == "float",
            'Roles.lora must be set where Model.weights = "int8": int8 weights cannot be trained',
        )


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A decoder on the mesh; roles that share weights hold the same arrays, not copies."""

    shape: ModelConfig
    params: Any


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Roles with their weights.

    Attributes:
        source: of arrays. planner: what the planner starts from, without an adapter. executor: the executor.
        planner_shape: the planner in training, with its adapter.
        reward_model: (variables, heads) or None. setup: the rollout's static part. text: its tables.
        decoding: lays weights out for rollouts.
        fingerprints: of the frozen weights, written into every record.
        served: the executor, where it is on a server; then `executor` only lends its numbers of tokens.
        judge: of answers, where the host judges them.
    """

    roles: Roles
    source: Source
    tokenizer: Tokenizer
    pieces: Pieces
    planner: Decoder
    executor: Decoder
    planner_shape: ModelConfig
    reward_model: Any
    setup: Setup
    decoding: Decoding
    text: Text
    fingerprints: dict[str, str]
    served: Served | None = None
    judge: Judge = judge_answers

    def trainable(self, seed: int) -> tuple[Any, Any]:
        """(trainable, frozen) variables of a planner before training.

        `frozen` holds what the planner keeps, the executor, and the KL penalty's reference: the planner's own base.
        """
        base = {"params": self.planner.params}
        frozen = {"planner": base, "executor": {"params": self.executor.params}, "reference": base}
        if self.roles.lora:
            return {"lora": self.source.lora(self.roles.lora, self.planner_shape, seed)}, frozen
        return {"params": self.source.master(self.planner.params)}, frozen | {"planner": {}}

    def memory(self, trainable: Any, opt_state: Any, batch_size: int) -> dict[str, int]:
        """Bytes on the fullest device by what they hold; every buffer is counted once, however many roles use it."""
        executor, planner = self.executor.params, self.planner.params
        whole = [("executor's weights", executor), ("planner's base", planner)]
        if self.reward_model is not None:
            whole.append(("reward model's weights", self.reward_model[0]["params"]))
        sharing = ", ".join(name.split("'")[0] for name, tree in whole if same_buffers(tree, executor))
        trees = {f"base ({sharing})": executor}
        trees |= {name: tree for name, tree in whole[1:] if not same_buffers(tree, executor)}
        trees |= {"planner's weights": trainable["params"]} if "params" in trainable else {}
        adapters = [self.reward_model[0].get("lora"), self.reward_model[1]] if self.reward_model is not None else []
        trees |= {"adapters and heads": [trainable.get("lora"), *adapters], "optimizer": opt_state}
        caches = cache_bytes(self.setup, self.roles.prompt_tokens, batch_size // batch_shards(self.mesh))
        return device_bytes(trees) | {"key-value caches, at most": max(caches.values())}

    def encode(self):
        """Problem to arrays, for the data pipeline."""
        sizes = Sizes(self.roles.prompt_tokens, self.roles.answer_tokens)
        return partial(encode_problem, self.pieces, sizes, programs=self.programs)

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.source.mesh

    @property
    def programs(self) -> bool:
        """Whether answers are programs, which tests judge."""
        return isinstance(self.roles.reward, CodeRewardConfig)

    @property
    def host_judges(self) -> bool:
        """Whether the host stands between the executor's answers and their rewards."""
        return self.served is not None or self.programs

    def elsewhere(self, setup: Setup) -> Elsewhere:
        """Rollouts of `setup` where the host judges the answers, of an executor on a server or here."""
        split = split_batch(self.mesh)
        answerer: Answerer = OnDevice(setup, self.pieces, split)
        if self.served is not None:
            answerer = OnServer(setup, self.pieces, self.served)
        return Elsewhere(setup, answerer, self.judge, split)

    def problems(self, split: str, most: int | None = None) -> Sequence[Problem]:
        """The task's problems. Says in one line how many of the first `most` (None: all) cannot be judged, and why.

        Raises:
            UserError: none of them can be judged; or as `Task.problems` does.
        """
        problems = self.roles.task.problems(split)
        # Where they are not all there already, they are made on demand, with numbers; to make them all takes too long.
        counted = problems[:most] if isinstance(problems, tuple) else ()
        reasons = Counter(filter(None, (why_unjudged(problem, self.programs) for problem in counted)))
        if reasons:
            why = " and ".join(f"{count} {reason}" for reason, count in reasons.items())
            left_out = f"{split}: left out {reasons.total()} of {len(counted)} problems, {why}"
            if reasons.total() == len(counted):
                needed = "tests" if self.programs else "answers that are numbers"
                raise UserError(f"{left_out}; a run needs {needed}")
            console.print(left_out)
        return problems

    def evaluator(self, config: Evaluation) -> Evaluator:
        """Evaluates planners of this run on held-out problems.

        Raises:
            UserError: no held-out problem fits.
        """
        problems = self.problems("test", config.problems)
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
            self.elsewhere if self.host_judges else None,
            left_out=asked - sum(int(batch.real.sum()) for batch in batches),
        )


def load_roles(roles: Roles, normalize: Literal["std", "none"] = "std") -> Loaded:
    """Reads all weights and tables of a run; see `make_roles`."""
    # Before any weights: without a sandbox there is no run.
    judge_texts: Judge = ProgramJudge(roles.sandbox) if isinstance(roles.reward, CodeRewardConfig) else judge_answers
    return make_roles(roles, normalize, Real(make_mesh(roles.mesh), roles.mesh), judge_texts)


def make_roles(roles: Roles, normalize: Literal["std", "none"], source: Source, judge_texts: Judge) -> Loaded:
    """All that a run is made of, with the arrays of `source`.

    Raises:
        UserError: a path, checkpoint or tokenizer cannot be used.
    """
    writers = build.folders(roles.planner_model or roles.base, roles.executor_model or roles.base)
    tokenizer = Tokenizer.load(build.find(roles.tokenizer or roles.base.path), *writers)
    pieces = Pieces(roles.prompts, tokenizer)
    mesh = source.mesh

    @cache
    def decoder(model: Model) -> Decoder:
        shape = build.model_config(model, len(tokenizer))
        return Decoder(shape, source.base(model, shape))

    planner, executor = decoder(roles.planner_model or roles.base), decoder(roles.executor_model or roles.base)
    grader, graded = None, None
    server = roles.executor_server
    served = None if server is None else Served(server, roles.prompts.stop)
    fingerprints = {"executor": source.fingerprint(executor.params) if server is None else server.identity}
    if planner is not executor:
        fingerprints["planner_base"] = source.fingerprint(planner.params)
    if roles.reward_model:
        base = decoder(roles.base)
        shared = (base.shape, base.params)
        shape, graded = source.grader(roles.reward_model, shared, len(tokenizer))
        grader = Transformer(shape, mesh)
        fingerprints["reward_model"] = source.fingerprint(*graded)
    planner_shape = dataclasses.replace(planner.shape, lora=build.lora_shape(roles.lora))
    setup = Setup(
        planner=Transformer(planner_shape, mesh),
        executor=Transformer(executor.shape, mesh),
        reference=Transformer(planner.shape, mesh),
        reward_model=grader,
        traces=roles.traces,
        planner_sampling=roles.planner,
        executor_sampling=roles.executor,
        reward=roles.reward,
        normalize=normalize,
        fixed=make_fixed(pieces),
        mesh=mesh,
    )
    shapes = [planner.shape, executor.shape, *([grader.config] if grader else [])]
    for shape in shapes:
        tokenizer.check_vocabulary(shape.vocab_size)
    text = source.everywhere(make_text(pieces, max(shape.vocab_size for shape in shapes)))
    return Loaded(
        roles,
        source,
        tokenizer,
        pieces,
        planner,
        executor,
        planner_shape,
        graded,
        setup,
        Decoding(setup, mesh, roles.mesh.decoding),
        text,
        fingerprints,
        served,
        judge_texts,
    )
