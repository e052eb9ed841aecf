"""Counts the floating-point operations of one planner step as built, and of the same step with every path run flat.

    python benchmarks/step_cost.py                      # Qwen2.5 1.5B at GSM8K lengths, a minute on two cores
    python benchmarks/step_cost.py --traces 4 --json    # other sizes, for machines to read

A step samples G traces of a problem, answers each 1 + K times, measures the baseline, grades and trains. "tree" is
what the package does: a problem is encoded once for all that hangs below it, and the baseline is known from an earlier
visit ("hit") or measured once for the group ("miss"). "flat" is the same model, sampler, loss, adapter and remat policy
with a copy of the problem in every path and K baseline answers for every trace; it, too, computes only logits it uses.

No weights are made: each piece is a call of the package's own function on shapes, compiled, and counted by XLA's cost
analysis. That counts the body of a loop once, so the loops over layers, decoded tokens and chunks of positions are
found in the traced piece, their bodies compiled apart, and multiplied by their trips. Every sample has full length.
Exit code 1: at the default sizes the tree costs more than 0.40 of flat.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.extend import core
from jax.interpreters import partial_eval
from rich import box
from rich.console import Console
from rich.table import Table

from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.logprobs import token_logprobs
from tracelift_jax.models.rubric import Grade, RubricHeads
from tracelift_jax.models.segment import rows
from tracelift_jax.models.transformer import ModelConfig, Transformer, forward
from tracelift_jax.rollout.batch import Fixed, Setup
from tracelift_jax.rollout.execute import Shown, read
from tracelift_jax.rollout.reward import RewardConfig
from tracelift_jax.rollout.sample import Samples, Sampling, sample
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.spans import Automaton, Tokens
from tracelift_jax.train.losses import GrpoConfig, Sums, grpo_loss
from tracelift_jax.train.planner import PolicyBatch, policy_loss
from tracelift_jax.train.update import OptimizerConfig, init_state, make_optimizer, update

struct: Any = jax.ShapeDtypeStruct
LIMIT = 0.40
"""Largest share of the flat step's operations that the tree may take at the default sizes."""
MODELS = {
    "1.5b": ModelConfig(151_936, 1536, 8960, 28, 12, 2, 128, rope_theta=1e6),
    "tiny": ModelConfig(512, 128, 384, 4, 4, 2, 32),
}
FIXED = Fixed(open=(0,) * 4, close=(0,) * 4, ask=(0,) * 3, ask_directly=(0,) * 2, ends=(0,))
"""Tags and questions at about the lengths they have with Qwen2.5's tokenizer; both sides read them."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations: with each loop's body `once`, as XLA counts, and with all trips; `loops` are those, as "159x28"."""

    once: float
    flops: float
    loops: tuple[str, ...]


def xla_flops(traced: core.ClosedJaxpr) -> float:
    """XLA's own count for the compiled function."""
    args = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in traced.jaxpr.invars]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(core.jaxpr_as_fun(traced)).lower(*args)
    # Nothing is run: level 0 leaves the operations as they are and makes machine code of them three times faster.
    cost = lowered.compile(compiler_options={"xla_backend_optimization_level": "0"}).cost_analysis()
    return float((cost or {}).get("flops", 0.0))  # absent where nothing is computed


def outermost_loops(jaxpr: core.Jaxpr, steps: int | None) -> Iterator[tuple[int, core.ClosedJaxpr]]:
    """(trips, body) of all loops that are in no other; `steps` is the trip count of while loops, which have none."""
    for eqn in jaxpr.eqns:
        match eqn.primitive.name:
            case "scan":
                if eqn.params["unroll"] != 1:
                    raise ValueError("count with scan_unroll=1: XLA counts an unrolled body more than once")
                yield eqn.params["length"], eqn.params["jaxpr"]
            case "while":
                if steps is None:
                    raise ValueError("a while loop in a piece that was not said to have one")
                yield steps, eqn.params["body_jaxpr"]
            case "cond":  # XLA counts the costliest branch: the one with loops
                yield from max((list(outermost_loops(b.jaxpr, steps)) for b in eqn.params["branches"]), key=len)
            case _:
                for inner in core.jaxprs_in_params(eqn.params):
                    yield from outermost_loops(inner, steps)


def count_traced(traced: core.ClosedJaxpr, steps: int | None = None) -> Work:
    """Operations of `traced`: XLA's count, and for each loop its trips' worth instead of the one body counted."""
    once = xla_flops(traced)
    flops, loops = once, ()
    for trips, body in outermost_loops(traced.jaxpr, steps):
        inside = count_traced(body, steps)
        flops += trips * inside.flops - inside.once
        loops += (str(trips), *(f"{trips}x{loop}" for loop in inside.loops))
    return Work(once, flops, loops)


def count(fun: Callable, *args: Any, steps: int | None = None) -> Work:
    """Operations of `fun(*args)`, shapes for arguments; `steps` are the trips of the while loops in it, if any."""
    traced = jax.make_jaxpr(fun)(*args)
    # Loops whose results nobody uses are not run, so their trips must not be counted either.
    live, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    return count_traced(core.ClosedJaxpr(live, traced.consts), steps)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """P, R, A, G, K; samples of the cached baseline; the adapter's rank, 0 to train all weights of the planner."""

    prompt: int = 128
    reasoning: int = 160
    answer: int = 8
    traces: int = 8
    repeats: int = 3
    baseline_samples: int = RewardConfig.baseline_samples
    lora_rank: int = 16


@dataclasses.dataclass(frozen=True)
class Piece:
    """A call to be counted.

    Attributes:
        side: "tree", "miss" (what a tree step adds where the baseline is not known yet) or "flat".
        phase: "rollout", "score" or "train". name: what is done.
        tokens: how many tokens are forwarded. passes: forwards' worth of work for each, by hand.
        fun, args, steps: see `count`.
    """

    side: str
    phase: str
    name: str
    tokens: int
    fun: Callable
    args: tuple
    steps: int | None = None
    passes: int = 1


def tokens(*shape: int) -> Tokens:
    """Tokens that are not there."""
    return Tokens(struct(shape, jnp.int32), struct(shape, bool))


def variables(module: nn.Module, *args: Array) -> Any:
    """Shapes of a module's variables, called as `module(*args)`."""
    return nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), *args))


def make_setup(config: ModelConfig, sizes: Sizes) -> Setup:
    """The three roles, all of the shape of `config`; the planner with an adapter unless `sizes.lora_rank` is 0."""
    lora = Lora(rank=sizes.lora_rank) if sizes.lora_rank else None
    return Setup(
        planner=Transformer(dataclasses.replace(config, lora=lora)),
        executor=Transformer(config),
        reference=Transformer(config),
        reward_model=Transformer(config),
        traces=sizes.traces,
        planner_sampling=Sampling(sizes.reasoning),
        executor_sampling=Sampling(sizes.answer, temperature=0.5),
        reward=RewardConfig(uplift="sampled", repeats=sizes.repeats, baseline_samples=sizes.baseline_samples),
        normalize="std",
        fixed=FIXED,
    )


def grade_flat(model: Transformer, weights: Any, heads: Any, path: Tokens) -> Grade:
    """`score.grade` of problem and reasoning as one sequence [rows, P + T]."""
    end = read(model, weights, path).end
    return RubricHeads(model.config.width).apply({"params": heads}, end)  # pyright: ignore[reportReturnType]


def policy_loss_flat(
    setup: Setup, config: GrpoConfig, trainable: Any, frozen: Any, batch: PolicyBatch, key: Array
) -> tuple[tuple[Array, Array], Sums]:
    """`planner.policy_loss` of problems and traces [rows, ...] read as one sequence; logits of the traces only."""
    del key
    weights = {**frozen["planner"], **trainable}
    ids = jnp.concatenate([batch.problem.ids, batch.traces.ids], -1)
    valid = jnp.concatenate([batch.problem.valid, batch.traces.valid], -1)
    hidden, _ = forward(setup.planner, weights, ids, valid)
    before = hidden[..., batch.problem.ids.shape[-1] - 1 : -1, :]
    logprobs = token_logprobs(setup.planner, weights, before, jnp.asarray(batch.traces.ids))
    return grpo_loss(logprobs, batch.logprobs, batch.advantage, jnp.asarray(batch.traces.valid), batch.counted, config)


class Pieces:
    """`list`: all calls of a step of one problem by roles of shape `config`: tree, its cache miss, and flat."""

    def __init__(self, config: ModelConfig, sizes: Sizes):
        self.sizes, self.setup = sizes, make_setup(config, sizes)
        ids, valid = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
        self.planner = variables(self.setup.planner, ids, valid)
        self.base = {"params": self.planner["params"]}
        self.roles = {"planner": (self.setup.planner, self.planner), "executor": (self.setup.executor, self.base)}
        self.heads = variables(RubricHeads(config.width), jnp.zeros((1, config.width)))["params"]
        self.stop = Automaton(struct((16, config.vocab_size), jnp.int32), struct((16,), bool))
        self.key = jax.eval_shape(lambda: jax.random.key(0))
        self.list: list[Piece] = []
        self.tree()
        self.flat()

    def read(self, side: str, name: str, given: Tokens, context: tuple = (), who: str = "executor") -> Shown:
        """Adds the reading of `given` below `context`; what was read."""
        model, weights = self.roles[who]
        fun, args = partial(read, model), (weights, given, context)
        self.list.append(Piece(side, "rollout", f"{who}: {name}", rows(given.ids.shape), fun, args))
        return jax.eval_shape(fun, *args)

    def sample(self, side: str, name: str, shown: Shown, lead: tuple[int, ...], who: str = "executor") -> None:
        """Adds the decoding of one continuation for each of `lead`; the first token is drawn from what was shown."""
        model, weights = self.roles[who]
        sampling = self.setup.planner_sampling if who == "planner" else self.setup.executor_sampling

        def decode(weights: Any, end: Array, context: tuple, key: Array, stop: Automaton) -> Samples:
            return sample(model, weights, end, context, lead, key, stop, FIXED.ends, sampling)

        steps, args = sampling.max_tokens - 1, (weights, shown.end, shown.context, self.key, self.stop)
        self.list.append(Piece(side, "rollout", f"{who}: {name}", rows(lead) * steps, decode, args, steps))

    def grade(self, side: str, fun: Callable, *given: Tokens) -> None:
        """Adds the reward model's grading."""
        forwarded, fun = sum(rows(part.ids.shape) for part in given), partial(fun, self.setup.reward_model)
        self.list.append(Piece(side, "score", "grader: read, grade", forwarded, fun, (self.base, self.heads, *given)))

    def train(self, side: str, lead: tuple[int, ...], traces: tuple[int, ...], loss_fn: Callable) -> None:
        """Adds an optimizer update on problems of `lead` with traces of leading axes `traces`."""
        optimizer = make_optimizer(OptimizerConfig(), 1)
        kept = {"planner": self.base, "base": self.base}
        if self.sizes.lora_rank:
            trained, passes = {"lora": self.planner["lora"]}, 3  # forward, again for remat, backward to the activations
        else:
            trained, kept["planner"], passes = {"params": self.planner["params"]}, {}, 4  # and to the weights
        problem, written = tokens(*lead, self.sizes.prompt + len(FIXED.open)), tokens(*traces, self.sizes.reasoning)
        numbers = struct(written.ids.shape, jnp.float32), struct(traces, jnp.float32), struct(traces, bool)
        batch = PolicyBatch(problem, written, *numbers)
        state = jax.eval_shape(lambda trained: init_state(trained, optimizer, 0), trained)

        def step(state: Any, kept: Any, batch: PolicyBatch, key: Array):
            return update(partial(loss_fn, self.setup, GrpoConfig()), optimizer, state, kept, batch, key, 1)

        forwarded, args = rows(problem.ids.shape) + rows(written.ids.shape), (state, kept, batch, self.key)
        self.list.append(Piece(side, "train", "planner: update", forwarded, step, args, passes=passes))

    def tree(self) -> None:
        """Adds a step as built, and what a baseline not known yet adds to it."""
        s, group, shown = self.sizes, (1, self.sizes.traces), len(FIXED.open) + self.sizes.reasoning + len(FIXED.close)
        begun = self.read("tree", "read problem", tokens(1, s.prompt + len(FIXED.open)), who="planner")
        self.sample("tree", "write traces", begun, group, who="planner")
        problem = self.read("tree", "read problem", tokens(1, s.prompt))
        told = self.read("tree", "read traces", tokens(*group, shown + len(FIXED.ask)), problem.context)
        alone = self.read("tree", "read question", tokens(1, len(FIXED.ask_directly)), problem.context)
        self.sample("tree", "write answers", told, (*group, 1 + s.repeats))
        self.sample("miss", "write guesses", alone, (1, s.baseline_samples))
        self.grade("tree", grade, tokens(1, s.prompt), tokens(*group, shown))
        self.train("tree", (1,), group, policy_loss)

    def flat(self) -> None:
        """Adds the same step with every path run flat and the baseline drawn anew for every trace."""
        s, path = self.sizes, self.sizes.prompt + len(FIXED.open) + self.sizes.reasoning + len(FIXED.close)
        begun = self.read("flat", "read problem", tokens(s.traces, s.prompt + len(FIXED.open)), who="planner")
        self.sample("flat", "write traces", begun, (s.traces,), who="planner")
        answers, baseline = s.traces * (1 + s.repeats), s.traces * s.repeats
        told = self.read("flat", "read traces", tokens(answers, path + len(FIXED.ask)))
        self.sample("flat", "write answers", told, (answers,))
        alone = self.read("flat", "read question", tokens(baseline, s.prompt + len(FIXED.ask_directly)))
        self.sample("flat", "write guesses", alone, (baseline,))
        self.grade("flat", grade_flat, tokens(s.traces, path))
        self.train("flat", (s.traces,), (s.traces,), policy_loss_flat)


def totals(pieces: list[Piece], amounts: Sequence[float]) -> dict[str, dict[str, float]]:
    """Sums of `amounts` by phase, and of all, for a tree whose baseline is known (hit) or not (miss), and for flat."""
    sides = {"hit": ("tree",), "miss": ("tree", "miss"), "flat": ("flat",)}
    out = {}
    for phase in ("rollout", "score", "train", "step"):
        chosen = [(p.side, a) for p, a in zip(pieces, amounts, strict=True) if phase in (p.phase, "step")]
        out[phase] = {name: sum(a for side, a in chosen if side in of) for name, of in sides.items()}
        out[phase] |= {f"{name}_ratio": out[phase][name] / out[phase]["flat"] for name in ("hit", "miss")}
    return out


def report(pieces: list[Piece], works: list[Work], flops: dict, by_hand: dict) -> tuple[Table, Table]:
    """The tables for people: the pieces, and their sums."""
    table = Table("", "phase", "piece", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tokens", "trips", "TFLOP"):
        table.add_column(name, justify="right")
    for p, w in sorted(zip(pieces, works, strict=True), key=lambda pair: ("tree", "miss", "flat").index(pair[0].side)):
        forwarded = f"{p.tokens:,}" + (f" x{p.passes}" if p.passes > 1 else "")
        table.add_row(p.side, p.phase, p.name, forwarded, " ".join(w.loops), f"{w.flops / 1e12:.3f}")
    sums = Table("TFLOP", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("hit", "miss", "flat", "hit/flat", "by hand", "miss/flat", "by hand"):
        sums.add_column(name, justify="right")
    for phase, total in flops.items():
        cells = [f"{total[side] / 1e12:.3f}" for side in ("hit", "miss", "flat")]
        cells += [f"{of[phase][f'{side}_ratio']:.3f}" for side in ("hit", "miss") for of in (flops, by_hand)]
        sums.add_row(phase, *cells)
    return table, sums


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="default %(default)s")
    parser.add_argument("--model", choices=MODELS, default="1.5b", help="shapes of all three roles")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="computed in")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args(argv)
    if min(args.prompt, args.traces, args.repeats, args.baseline_samples, args.reasoning - 1, args.answer - 1) < 1:
        parser.error("sizes must be at least 1, --reasoning and --answer at least 2")
    return args


def main(argv: list[str] | None = None) -> int:
    """Counts, prints, and returns the exit code."""
    args = parse(argv)
    sizes = Sizes(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)})
    config = dataclasses.replace(MODELS[args.model], dtype=args.dtype, param_dtype=args.dtype)
    pieces, works = Pieces(config, sizes).list, []
    with Console(stderr=True).status("") as status:
        for piece in pieces:
            status.update(f"{piece.side}: {piece.name}")
            works.append(count(piece.fun, *piece.args, steps=piece.steps))
    flops, by_hand = totals(pieces, [w.flops for w in works]), totals(pieces, [p.tokens * p.passes for p in pieces])
    if args.json:
        names = ("side", "phase", "name", "tokens", "passes")
        shown = [{n: getattr(p, n) for n in names} | dataclasses.asdict(w) for p, w in zip(pieces, works, strict=True)]
        given = {"model": args.model, "dtype": args.dtype, **dataclasses.asdict(sizes)}
        print(json.dumps({"given": given, "pieces": shown, "flops": flops, "token_forwards": by_hand}))
    else:
        Console().print(f"{args.model}, {args.dtype}, {sizes}", *report(pieces, works, flops, by_hand), sep="\n")
    at_defaults = sizes == Sizes() and args.model == "1.5b"
    return int(at_defaults and max(flops["step"]["hit_ratio"], flops["step"]["miss_ratio"]) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
