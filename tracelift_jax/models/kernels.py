"""Fused attention over the tree: the [.., H, T, S] scores never lie in memory.

`tree_attention` gives what `attention.attend` does, to rounding, by one of two kernels:

- splash, on TPU. All nodes below a problem are read as one sequence under one block-sparse mask: the queries of a
  problem's nodes lie end to end, the keys of every level likewise, and a query sees its ancestors' and its own up to
  itself. A shared segment is read where it lies, and blocks that belong to other branches are never visited.
- cuDNN's flash attention, on NVIDIA GPUs. Each node is a sequence of its own behind copies of its ancestors: that
  kernel visits every block of its mask, so folding the nodes would cost more than the copies.

Pieces are not merged by their log-sum-exp as in `attend`: the kernels' gradients do not reach it.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import Mesh, PartitionSpec

from tracelift_jax.checked import require
from tracelift_jax.models.segment import expand
from tracelift_jax.parallel.mesh import BATCH_AXES, batch_shards

Kernel = Literal["splash", "cudnn", "splash_interpreted", "cudnn_interpreted"]
"""Which kernel runs. The interpreted ones are asked the same and run on any platform, slowly: they are for tests."""

SHORTEST = 128
"""Nodes of fewer tokens (decoding above all) go through `attend`: a kernel's smallest block of queries is as long."""

SAVED = "attention"
"""The name under which rematerialisation finds what splash's backward pass needs of its forward pass."""

_BLOCK = 128  # a TPU register is 128 wide, and splash takes whole ones
_LARGEST_BLOCK = 512  # 1024 overflows a v5e's vector memory at the widest heads in float32
_CUDNN_BLOCK = 64  # cuDNN wants even lengths; its tiles are that long anyway


def check_kernel(kernel: str, head_width: int, dtype: str, platform: str) -> None:
    """Refuses a kernel that cannot run.

    Args:
        kernel: "xla" or a `Kernel`. head_width: Q. dtype: what the model computes in.
        platform: of the devices that will run it: "cpu", "gpu" or "tpu".

    Raises:
        UserError: the platform, the head width or the dtype is not the kernel's.
    """
    named = f'Model.attention = "{kernel}"'
    if kernel == "splash":
        require(platform == "tpu", f'{named} runs on TPU, and this is {platform}; take "xla"')
        require(dtype != "float16", f'{named} computes in float32 or bfloat16: set Model.dtype, or take "xla"')
    if kernel == "cudnn":
        require(platform == "gpu", f'{named} runs on NVIDIA GPUs, and this is {platform}; take "xla"')
        require(dtype != "float32", f'{named} computes in bfloat16 or float16: set Model.dtype, or take "xla"')
    if kernel != "xla":
        widest = 128 if kernel == "cudnn" else 256
        fits = head_width % 8 == 0 and head_width <= widest
        require(fits, f'{named} takes head widths that 8 divides, up to {widest}, not {head_width}; take "xla"')


def tree_attention(
    q: Array, kv: Sequence[tuple[Array, Array]], valid: Sequence[Array], kernel: Kernel, mesh: Mesh | None = None
) -> Array:
    """Softmax attention of a node's tokens to its ancestors and, causally, to themselves.

    Args:
        q: [*lead, T, H, Q] queries, not scaled.
        kv: (k, v) [*prefix, S, N, Q] of each ancestor, outermost first, and last the node's own [*lead, T, N, Q].
        valid: bool [*prefix, S] of the same: which keys hold a token.
        kernel: what computes it.
        mesh: the devices it runs on, problems (B) split over the batch axes and heads over "tensor" where they divide
            by these, else whole on each; None for one device.

    Returns:
        [*lead, T, H, Q] in the dtype of `q`; zeros, without gradients, for tokens that see nothing.
    """
    lead, length = q.shape[:-3], q.shape[-3]
    outer = math.prod(lead[:1])
    if kernel.startswith("splash"):
        block, compute = _BLOCK, partial(splash, interpret=kernel == "splash_interpreted")
    else:
        block, compute = _CUDNN_BLOCK, partial(per_node, implementation="cudnn" if kernel == "cudnn" else "xla")
    blocked = partial(_blocked, outer=outer, block=block)
    folded = [(blocked(k, 2), blocked(v, 2)) for k, v in kv]
    if mesh is not None and mesh.size > 1:
        folded, compute = _sharded(folded, compute, mesh, outer, q.shape[-2])
    out = compute(blocked(q, 2), folded, [blocked(x, 0) for x in valid])
    out = out[:, :, :length].reshape(q.shape)
    return jnp.where(_sees(valid)[..., None, None], out, 0)


def _blocked(x: Array, trailing: int, outer: int, block: int) -> Array:
    """`x` [*prefix, S, *rest] as [B, nodes, S', *rest], S' the next multiple of `block`, filled up with zeros."""
    prefix, rest = x.shape[: x.ndim - trailing - 1], x.shape[x.ndim - trailing - 1 :]
    x = x.reshape(outer, math.prod(prefix[1:]), *rest) if prefix else jnp.broadcast_to(x, (outer, 1, *rest))
    return jnp.pad(x, [(0, 0), (0, 0), (0, -rest[0] % block), *[(0, 0)] * trailing])


def _sees(valid: Sequence[Array]) -> Array:
    """bool [*lead, T], which of the node's tokens see any key: what kernels give for the others means nothing."""
    *ancestors, own = valid
    seen = jnp.cumsum(own, -1, dtype=jnp.int32) > 0
    for above in ancestors:
        seen = seen | expand(above.any(-1), own.shape[:-1])[..., None]
    return seen


def _sharded(kv: list[tuple[Array, Array]], compute, mesh: Mesh, outer: int, heads: int):
    """`compute` on each device's part, and `kv` ready for it: compilers cannot split a kernel by themselves."""
    batch = BATCH_AXES if outer % batch_shards(mesh) == 0 else None
    kv_heads, shards = kv[-1][0].shape[-2], mesh.shape["tensor"]
    copies = math.lcm(kv_heads, shards) // kv_heads  # where there are fewer key heads than devices for them
    split = "tensor" if heads % (kv_heads * copies) == 0 else None
    if split and copies > 1:
        kv = [(jnp.repeat(k, copies, axis=-2), jnp.repeat(v, copies, axis=-2)) for k, v in kv]
    spec = PartitionSpec(batch, None, None, split)
    return kv, jax.shard_map(
        compute,
        mesh=mesh,
        in_specs=(spec, spec, PartitionSpec(batch)),
        out_specs=spec,
        check_vma=False,  # kernels do not declare over which axes their results vary
    )


@dataclasses.dataclass(frozen=True)
class TreeMask(splash_attention.Mask):
    """Which keys a query may see, validity aside; worked out block by block when asked for.

    Attributes:
        nodes: how many nodes lie below a problem. length: T, tokens of each.
        levels: (nodes, slots of each) of each ancestor, and last (nodes, T) of the nodes themselves.
    """

    nodes: int
    length: int
    levels: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, keys)."""
        return self.nodes * self.length, sum(nodes * slots for nodes, slots in self.levels)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """bool [queries, keys] of a block."""
        rows = np.arange(*index[0].indices(self.shape[0]))
        begin, end, _ = index[1].indices(self.shape[1])
        parts = []
        for number, (nodes, slots) in enumerate(self.levels):
            keys = np.arange(max(begin, 0), min(end, nodes * slots))
            above = rows // self.length * nodes // self.nodes  # each query's ancestor at this level
            seen = above[:, None] == keys // slots
            if number == len(self.levels) - 1:
                seen &= rows[:, None] >= keys
            parts.append(seen)
            begin, end = begin - nodes * slots, end - nodes * slots
        return np.concatenate(parts, axis=1)


def _block_size(*lengths: int) -> int:
    """The largest block that divides all `lengths`, which are multiples of the smallest."""
    common = math.gcd(*lengths)
    return max(size for size in range(_BLOCK, _LARGEST_BLOCK + 1, _BLOCK) if common % size == 0)


def splash(q: Array, kv: Sequence[tuple[Array, Array]], valid: Sequence[Array], interpret: bool) -> Array:
    """`tree_attention` by one block-sparse kernel; what it gives for queries that see nothing is finite.

    Args:
        q: [B, nodes, T, H, Q], T a multiple of 128. kv: pairs [B, its nodes, S, N, Q], S likewise; the last is the
            nodes' own. valid: bool [B, its nodes, S].
        interpret: whether the kernel is played step by step, on any platform.

    Returns:
        [B, nodes, T, H, Q].
    """
    outer, nodes, length, heads, width = q.shape

    def rows(x: Array) -> Array:
        """[B, nodes, S, heads, Q] to [B, heads, nodes * S, Q]."""
        return x.reshape(outer, -1, *x.shape[3:]).swapaxes(1, 2)

    mask = TreeMask(nodes, length, tuple((x.shape[1], x.shape[2]) for x in valid))
    queries = _block_size(length)
    keys = _block_size(*(slots for _, slots in mask.levels))
    kernel = splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=queries,
            block_kv=keys,
            block_q_dkv=queries,
            block_kv_dkv=keys,
            block_q_dq=queries,
            block_kv_dq=keys,
        ),
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )
    k = jnp.concatenate([rows(k) for k, _ in kv], axis=2)
    v = jnp.concatenate([rows(v) for _, v in kv], axis=2)
    # Only equal numbers see one another: all queries have 1, keys without a token 0.
    numbers = splash_attention.SegmentIds(
        jnp.ones((outer, nodes * length), jnp.int32),
        jnp.concatenate([x.reshape(outer, -1) for x in valid], axis=1).astype(jnp.int32),
    )
    out = cast(Array, jax.vmap(kernel)(rows(q * width**-0.5), k, v, numbers))
    return out.swapaxes(1, 2).reshape(q.shape)


def per_node(
    q: Array,
    kv: Sequence[tuple[Array, Array]],
    valid: Sequence[Array],
    implementation: Literal["cudnn", "xla"],
) -> Array:
    """`tree_attention` node by node; shapes as in `splash`, lengths even."""
    outer, nodes, length = q.shape[:3]

    def below(x: Array) -> Array:
        """[B, its nodes, ...] to [B * nodes, ...]: a copy for each node below."""
        return jnp.repeat(x, nodes // x.shape[1], axis=1).reshape(outer * nodes, *x.shape[2:])

    seen = [jnp.broadcast_to(below(x)[:, None], (outer * nodes, length, x.shape[2])) for x in valid]
    seen[-1] = seen[-1] & jnp.tril(jnp.ones((length, length), bool))
    out = jax.nn.dot_product_attention(
        below(q),
        jnp.concatenate([below(k) for k, _ in kv], axis=1),
        jnp.concatenate([below(v) for _, v in kv], axis=1),
        mask=jnp.concatenate(seen, axis=-1)[:, None],
        implementation=implementation,
    )
    return out.reshape(q.shape)
