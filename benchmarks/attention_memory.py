"""How much memory attention takes on a TPU by XLA and by splash, as compiled for one without any TPU.

    python benchmarks/attention_memory.py [--part=attention] [--topology=v5e:2x2] [--problems=4] [--traces=8]
        [--problem_tokens=512] [--trace_tokens=512] [--json]

Needs `libtpu` beside jax, in an environment of its own: it slows the start of runs on a CPU. Compiles for one chip of
the topology, at Qwen2.5-7B's widths in bfloat16, what reads all traces below their problems, and its gradient:

- `--part=attention`: one layer's attention alone, and its gradients by queries, keys and values. A minute.
- `--part=layer`: a decoder of one layer that reads as the reward model does, and the gradient of its rank-16 adapter.
  Some minutes; most of what is left there with splash is the feed-forward part's.

Prints what the compiler sets aside beside weights, inputs and results.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_PLATFORMS": "cpu",
    }  # there is none
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import topologies
from jax.sharding import Mesh

from tracelift_jax.errors import UserError
from tracelift_jax.models.attention import attend, tree_masks
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.kernels import tree_attention
from tracelift_jax.models.transformer import ModelConfig, Transformer, abstract_variables
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh, parameter_shardings, split_batch
from tracelift_jax.rollout.score import read_traces
from tracelift_jax.text.spans import Tokens

LAYER = ModelConfig(
    vocab_size=152_064,
    width=3584,
    ff_width=18_944,
    layers=1,
    heads=28,
    kv_heads=4,
    head_width=128,
    rope_theta=1e6,
    lora=Lora(rank=16, alpha=32.0),
    dtype="bfloat16",
    param_dtype="bfloat16",
)
"""Qwen2.5-7B's widths."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "attention": ({"attention": "xla"}, {"attention": "splash"}),
    "layer": (
        {"attention": "xla", "remat": "full"},
        {"attention": "splash", "remat": "full"},
        {"attention": "splash", "remat": "attention"},
    ),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """B, G, P and R."""

    problems: int
    traces: int
    problem_tokens: int
    trace_tokens: int

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """[B, P] and [B, G, R]."""
        return (self.problems, self.problem_tokens), (self.problems, self.traces, self.trace_tokens)


def compiled(function: Callable, given: tuple[Any, ...]) -> Any:
    """The program for arguments of these shapes."""
    return jax.jit(function).lower(*given).compile()


def compiled_attention(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> tuple[Any, Any]:
    """One layer's attention of traces to themselves and their problems, and its gradients."""

    def arrays(heads: int) -> list[Any]:
        split = split_batch(mesh)
        shape = (heads, config.head_width)
        return [jax.ShapeDtypeStruct((*level, *shape), config.dtype, sharding=split) for level in sizes.levels]

    valid = [jax.ShapeDtypeStruct(level, jnp.bool_, sharding=split_batch(mesh)) for level in sizes.levels]
    queries, keys = arrays(config.heads)[-1], arrays(config.kv_heads)

    def run(q: Any, k: Any, v: Any, valid: Any) -> Any:
        levels = list(zip(k, v, strict=True))
        if config.attention == "xla":
            return attend(q, [(*pair, mask) for pair, mask in zip(levels, tree_masks(valid), strict=True)])
        return tree_attention(q, levels, valid, config.attention, mesh)

    def loss(q: Any, k: Any, v: Any, valid: Any) -> Any:
        return jnp.sin(run(q, k, v, valid).astype(jnp.float32)).sum()

    given = (queries, keys, keys, valid)
    return compiled(run, given), compiled(jax.grad(loss, argnums=(0, 1, 2)), given)


def compiled_layer(config: ModelConfig, mesh: Mesh, sizes: Sizes) -> tuple[Any, Any]:
    """A decoder of one layer that reads traces, and the gradient of its adapter."""
    model, abstract = Transformer(config, mesh), abstract_variables(config)
    variables = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.meta.unbox(abstract),
        parameter_shardings(abstract, mesh, MeshConfig().rules),
    )

    def tokens(shape: tuple[int, ...]) -> Tokens:
        ids, valid = (jax.ShapeDtypeStruct(shape, kind, sharding=split_batch(mesh)) for kind in (jnp.int32, jnp.bool_))
        return Tokens(ids, valid)  # pyright: ignore[reportArgumentType]: only their shapes count

    def run(lora: Any, params: Any, problem: Tokens, trace: Tokens) -> Any:
        return read_traces(model, {"params": params, "lora": lora}, problem, trace)

    def loss(lora: Any, params: Any, problem: Tokens, trace: Tokens) -> Any:
        hidden = run(lora, params, problem, trace)
        return jnp.sin(hidden.astype(jnp.float32)).sum()

    given = (variables["lora"], variables["params"], *map(tokens, sizes.levels))
    return compiled(run, given), compiled(jax.grad(loss), given)


def measure(part: str, changes: dict[str, Any], mesh: Mesh, sizes: Sizes) -> dict[str, Any]:
    """Temporary bytes of reading and of its gradient."""
    build = {"attention": compiled_attention, "layer": compiled_layer}[part]
    reading, gradient = build(dataclasses.replace(LAYER, **changes), mesh, sizes)
    return changes | {
        "reading": reading.memory_analysis().temp_size_in_bytes,
        "gradient": gradient.memory_analysis().temp_size_in_bytes,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * (len(rows[0]) - 2) + "|---:|---:|"]
    for row in rows:
        cells = (f"{cell / 1e9:.2f} GB" if isinstance(cell, int) else cell for cell in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles all variants and prints them.

    Raises:
        UserError: there is no libtpu.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("attention", "layer"), default="attention")
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--traces", type=int, default=8)
    parser.add_argument("--problem_tokens", type=int, default=512)
    parser.add_argument("--trace_tokens", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="one object instead of the table")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("attention_memory: there is no libtpu here; pip install libtpu in an environment of its own")
    devices = topologies.get_topology_desc(given.topology, platform="tpu").devices
    mesh = make_mesh(MeshConfig(), devices[:1])
    sizes = Sizes(given.problems, given.traces, given.problem_tokens, given.trace_tokens)
    rows = [measure(given.part, changes, mesh, sizes) for changes in VARIANTS[given.part]]
    print(json.dumps(rows) if given.json else table(rows))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
