"""Splash on eight virtual devices, each of which plays its own part, against `attend` on one.

`python tests/models/test_kernels_devices.py` compares and prints what came of it.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tinies import TINY, make_tiny
from tiny import run_on_eight, say

from tracelift_jax.models.attention import attend, tree_masks
from tracelift_jax.models.kernels import tree_attention
from tracelift_jax.models.transformer import Transformer, abstract_variables, forward
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh, parameter_shardings

T, S, G, Q = 128, 24, 2, 8

CASES = {
    # name: (mesh, B, H, N, how much of [B, G, T, H, Q] lies on a device)
    "all axes": (MeshConfig(data=2, fsdp=2, tensor=2), 4, 4, 2, [1, G, T, 2, Q]),
    "fewer key heads than devices for them": (MeshConfig(data=2, tensor=4), 2, 8, 2, [1, G, T, 2, Q]),
    "heads that do not split": (MeshConfig(data=4, tensor=2), 4, 3, 3, [1, G, T, 3, Q]),
    "problems that do not split": (MeshConfig(data=4, tensor=2), 3, 2, 2, [3, G, T, 1, Q]),
}


def difference(got, wanted) -> float:
    """The largest of all arrays, in units of each one's largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def case(mesh: MeshConfig, problems: int, heads: int, kv_heads: int, part: list[int]) -> dict:
    """Output and gradients of one layer's attention."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    q, toward = draw(problems, G, T, heads, Q), draw(problems, G, T, heads, Q)
    kv = [tuple(draw(*lead, kv_heads, Q) for _ in "kv") for lead in ((problems, S), (problems, G, T))]
    valid = [jnp.asarray(rng.random(shape) < 0.8) for shape in ((problems, S), (problems, G, T))]

    def plain(q, kv):
        return attend(q, [(*pair, mask) for pair, mask in zip(kv, tree_masks(valid), strict=True)])

    fused = partial(tree_attention, valid=valid, kernel="splash_interpreted", mesh=make_mesh(mesh))
    out, pull = jax.vjp(jax.jit(fused), q, kv)
    wanted, wanted_pull = jax.vjp(jax.jit(plain), q, kv)
    return {
        "difference": difference((out, pull(toward)), (wanted, wanted_pull(toward))),
        "parts": sorted({shard.data.shape for shard in out.addressable_shards}),
        "expected": [part],
    }


def decoder() -> float:
    """The gradient of all parameters of a decoder whose weights and batch are split, against one device's."""
    layout = MeshConfig(data=2, fsdp=2, tensor=2)
    mesh, tiny = (
        make_mesh(layout),
        make_tiny(dataclasses.replace(TINY, vocab_size=38, scan_unroll=1, remat="attention")),
    )
    config = dataclasses.replace(tiny.config, attention="splash_interpreted")
    rng = np.random.default_rng(1)
    ids, valid = rng.integers(0, 38, (4, G, T)), rng.random((4, G, T)) < 0.8
    above, above_valid = rng.integers(0, 38, (4, S)), np.ones((4, S), bool)

    def loss(model, params, above, above_valid, ids, valid):
        _, segment = forward(model, {"params": params}, above, above_valid)
        hidden, _ = forward(model, {"params": params}, ids, valid, (segment,))
        return jnp.where(valid[..., None], jnp.sin(hidden), 0).sum()

    shardings = parameter_shardings(abstract_variables(config)["params"], mesh, layout.rules)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    batch = jax.device_put((above, above_valid, ids, valid), split)
    got = jax.jit(jax.grad(partial(loss, Transformer(config, mesh))))(jax.device_put(tiny.params, shardings), *batch)
    alone = Transformer(dataclasses.replace(config, attention="xla"))
    return difference(got, jax.jit(jax.grad(partial(loss, alone)))(tiny.params, above, above_valid, ids, valid))


@pytest.fixture(scope="module")
def played() -> dict:
    return run_on_eight(__file__)


@pytest.mark.parametrize("name", CASES)
def test_every_device_computes_its_part(played, name):
    assert played[name]["difference"] < 1e-5  # sums of some hundred float32 numbers in another order
    assert played[name]["parts"] == played[name]["expected"]


def test_the_decoder_is_the_same_on_eight_devices(played):
    assert played["decoder"] < 5e-5  # the same, through two layers


if __name__ == "__main__":
    say({name: case(*given) for name, given in CASES.items()} | {"decoder": decoder()})
