"""int8 kernels: rounding, whole trees, what they do to logits and gradients, memory, and layout on a mesh."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import assert_same, run_on_eight, say

from tracelift_jax.models import build, hf
from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.quantize import dequantize_params, quantize_kernel, quantize_params
from tracelift_jax.models.transformer import (
    ModelConfig,
    Transformer,
    abstract_variables,
    empty_segment,
    init_variables,
)
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh, parameter_shardings
from tracelift_jax.tasks.dial import DialTask
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.train.update import OptimizerConfig, make_optimizer

KERNELS = {
    "attention/query": (8, 4, 6),
    "attention/key": (8, 2, 6),
    "attention/value": (8, 2, 6),
    "attention/out": (4, 6, 8),
    "mlp/gate": (8, 12),
    "mlp/up": (8, 12),
    "mlp/down": (12, 8),
}
"""Of `tiny`: D 8, F 12, H 4, N 2, Q 6."""

jitted = jax.jit(quantize_kernel, static_argnums=1)


def int8(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, weights="int8")


# ------------------------------------------------------------------------------------------------------- one kernel

NORMAL = functools.partial(st.floats, width=32, allow_subnormal=False)  # devices take the smaller for zeros
ELEMENTS = NORMAL(-(2.0**100), 2.0**100) | NORMAL(-1, 1) | st.just(0.0)


@given(arrays(np.float32, (3, 2, 4), elements=ELEMENTS), st.integers(1, 2))
def test_no_element_moves_by_more_than_half_its_scale(kernel, contracted):
    got = jitted(kernel, contracted)
    assert got.scale.shape == (1, *([1, 4] if contracted == 2 else [2, 4]))
    assert got.qvalue.dtype == jnp.int8 and got.scale.dtype == jnp.float32
    scale, wide = np.asarray(got.scale, np.float64), kernel.astype(np.float64)
    moved = abs(np.asarray(got.qvalue, np.float64) * scale - wide)
    assert (moved <= scale * (0.5 + 1e-5)).all()
    # As fine as it can be: the largest element of a channel is 127 steps from zero, unless all is next to nothing.
    largest = abs(wide).max(tuple(range(contracted)), keepdims=True)
    np.testing.assert_allclose(scale, np.maximum(largest / 127, np.finfo(np.float32).tiny), rtol=2**-16)


@given(
    arrays(np.int8, (3, 2, 4), elements=st.integers(-127, 127)),
    arrays(np.float32, (1, 2, 4), elements=st.floats(2**-100, 2**100, width=32)),
)
def test_multiples_of_a_scale_come_through_bit_for_bit(steps, scale):
    steps[0] = np.where(abs(steps).max(0) == 127, steps[0], 127)  # so that it is the scale of each channel
    scale = np.asarray(jax.lax.reduce_precision(scale, 8, 16))
    got = jitted(scale * steps, 1)
    np.testing.assert_array_equal(got.qvalue, steps)
    np.testing.assert_array_equal(got.scale, scale)
    np.testing.assert_array_equal(qwix.dequantize(got), scale * steps)


@given(arrays(np.float32, 200, elements=ELEMENTS), st.integers(0, 2**32 - 1))
def test_quantizing_again_changes_nothing(size, seed):
    once = jitted(size * np.random.default_rng(seed).standard_normal((5, 200)).astype(np.float32), 1)
    assert_same(jitted(qwix.dequantize(once), 1), once)


def test_channels_of_zeros_stay_zero():
    got = quantize_kernel(jnp.array([[0.0, 1.0], [0.0, -1.0]]), 1)
    np.testing.assert_array_equal(got.qvalue, [[0, 127], [0, -127]])
    np.testing.assert_array_equal(qwix.dequantize(got)[:, 0], [0.0, 0.0])
    assert np.isfinite(got.scale).all() and (np.asarray(got.scale) > 0).all()


def test_damaged_weights_stay_visible():
    """A value that is no number must not become a harmless one."""
    got = quantize_kernel(jnp.array([[jnp.nan, 1.0], [2.0, 1.0]]), 1)
    np.testing.assert_array_equal(jnp.isnan(qwix.dequantize(got)), [[True, False], [True, False]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_kernels_are_quantized_in_float32(dtype):
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3)), dtype)
    assert_same(quantize_kernel(kernel, 1), quantize_kernel(kernel.astype(jnp.float32), 1))


# ------------------------------------------------------------------------------------------------------- whole trees


def test_seven_kernels_change_and_nothing_else(tiny_of):
    tiny = tiny_of(tie_embeddings=False)
    got = quantize_params(tiny.params, tiny.config)
    names = lambda tree: {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in tree}  # noqa: E731
    before = names(jax.tree_util.tree_leaves_with_path(tiny.params))
    after = names(jax.tree_util.tree_leaves_with_path(got, is_leaf=lambda x: isinstance(x, qwix.QArray)))
    assert before.keys() == after.keys()
    quantized = {name for name, leaf in after.items() if isinstance(leaf, qwix.QArray)}
    assert quantized == {f"blocks/{name}/kernel" for name in KERNELS}
    assert all(after[name] is before[name] for name in before.keys() - quantized)
    for name, shape in KERNELS.items():
        leaf, inputs = after[f"blocks/{name}/kernel"], 2 if name.endswith("out") else 1
        assert leaf.qvalue.shape == (2, *shape)
        assert leaf.scale.shape == (2, *[1] * inputs, *shape[inputs:])


def test_a_layer_by_itself_gives_the_same_bits(tiny):
    """As checkpoints are read: one layer's kernel, inside a compiled function."""
    whole = quantize_params(tiny.params, tiny.config)
    compiled = jax.jit(lambda params: quantize_params(params, tiny.config))(tiny.params)
    assert_same(compiled, whole)
    for name in KERNELS:
        room, projection = name.split("/")
        kernel = tiny.params["blocks"][room][projection]["kernel"]
        stack = whole["blocks"][room][projection]["kernel"]
        for layer in range(2):
            alone = jitted(kernel[layer], 2 if projection == "out" else 1)
            assert_same(alone, jax.tree.map(lambda x, layer=layer: x[layer], stack))


@pytest.mark.slow
def test_the_model_declares_what_quantizing_gives(tiny):
    """So that both can be restored, stacked and placed as one."""
    got = quantize_params(tiny.params, tiny.config)
    declared = nn.meta.unbox(abstract_variables(int8(tiny.config))["params"])
    kind = lambda tree: jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)  # noqa: E731
    assert kind(got) == kind(declared)
    drawn = nn.meta.unbox(init_variables(int8(tiny.config), jax.random.key(1)))["params"]
    floats = nn.meta.unbox(init_variables(tiny.config, jax.random.key(1)))["params"]
    assert_same(drawn, quantize_params(floats, tiny.config))


def test_back_to_floats(tiny):
    quantized = quantize_params(tiny.params, tiny.config)
    floats = dequantize_params(quantized, tiny.config)
    assert jax.tree.structure(floats) == jax.tree.structure(tiny.params)
    np.testing.assert_array_equal(floats["embedding"], tiny.params["embedding"])
    gate, stack = floats["blocks"]["mlp"]["gate"]["kernel"], quantized["blocks"]["mlp"]["gate"]["kernel"]
    assert gate[1, 2, 3] == float(stack.qvalue[1, 2, 3]) * float(stack.scale[1, 0, 3])
    assert_same(quantize_params(floats, tiny.config), quantized)
    half = dequantize_params(quantized, dataclasses.replace(tiny.config, param_dtype="bfloat16"))
    np.testing.assert_array_equal(half["blocks"]["mlp"]["gate"]["kernel"], gate.astype(jnp.bfloat16))


# --------------------------------------------------------------------------------------------- the model it stands for


def levels():
    rng = np.random.default_rng(2)
    tokens = [rng.integers(0, 37, shape).astype(np.int32) for shape in [(2, 4), (2, 3, 5)]]
    return [(ids, rng.random(ids.shape) < 0.9) for ids in tokens]


def tree_logits(model: Any, variables: Any) -> jax.Array:
    """[2, 3, 5, 37] of the second level below the first."""
    (problem, seen), (tokens, valid) = levels()
    _, segment = model.apply(variables, problem, seen)
    hidden, _ = model.apply(variables, tokens, valid, (segment,))
    return model.apply(variables, hidden, method="logits")


@pytest.mark.parametrize("unroll", [1, 2])
def test_logits_are_those_of_the_floats_it_stands_for(tiny_of, tiny_lora, unroll):
    tiny = tiny_of(lora=tiny_lora.config.lora, scan_unroll=unroll)
    quantized = quantize_params(tiny.params, tiny.config)
    logits = jax.jit(tree_logits, static_argnums=0)
    got = logits(Transformer(int8(tiny.config)), {"params": quantized, "lora": tiny.lora})
    exact = {"params": dequantize_params(quantized, tiny.config), "lora": tiny.lora}
    np.testing.assert_allclose(got, logits(tiny.model, exact), atol=1e-5)


@pytest.mark.parametrize(
    "remat", [pytest.param("none", marks=pytest.mark.slow), "dots", pytest.param("full", marks=pytest.mark.slow)]
)
def test_adapter_gradients_are_those_of_the_floats_it_stands_for(tiny_of, tiny_lora, remat):
    tiny = tiny_of(lora=tiny_lora.config.lora, scan_unroll=1, remat=remat)
    quantized = quantize_params(tiny.params, tiny.config)
    weights = np.random.default_rng(5).standard_normal((2, 3, 5, 37)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(model, lora, params):
        return jax.grad(lambda lora: (tree_logits(model, {"params": params, "lora": lora}) * weights).sum())(lora)

    got = gradient(Transformer(int8(tiny.config)), tiny.lora, quantized)
    expected = gradient(tiny.model, tiny.lora, dequantize_params(quantized, tiny.config))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        assert abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, atol=1e-5 * abs(b).max(), rtol=1e-4, err_msg=jax.tree_util.keystr(path))


# ----------------------------------------------------------------------------------------------- what it does to logits


def divergence(exact: np.ndarray, rounded: np.ndarray) -> dict[str, float]:
    """Of logits [..., V]: largest difference over their deviation, share of equal first choices, mean KL in nats."""
    p, q = jax.nn.log_softmax(exact), jax.nn.log_softmax(rounded)
    return {
        "difference": float(abs(exact - rounded).max() / exact.std()),
        "agreement": float((exact.argmax(-1) == rounded.argmax(-1)).mean()),
        "kl": float((np.exp(p) * (p - q)).sum(-1).mean()),
    }


def test_quality_on_tiny_models(tiny_of):
    """Four random models, 30 tokens each. Measured: 0.100, one first choice of 120 (0.992), 4.6e-5 nats."""
    logits = jax.jit(tree_logits, static_argnums=0)
    exact, rounded = [], []
    for seed in range(4):
        tiny = tiny_of(seed=seed)
        exact.append(logits(tiny.model, tiny.variables))
        params = quantize_params(tiny.params, tiny.config)
        rounded.append(logits(Transformer(int8(tiny.config)), {"params": params}))
    got = divergence(np.stack(exact), np.stack(rounded))
    assert got["difference"] <= 0.2 and got["agreement"] >= 0.98 and got["kl"] <= 1e-4, got


@pytest.fixture(scope="module")
def dial() -> tuple[ModelConfig, Any]:
    """The shipped base."""
    config, params = hf.load(build.find("assets/dial/base"))
    return dataclasses.replace(config, scan_unroll=config.layers), params


def test_a_checkpoint_read_as_int8_is_the_one_quantized(dial):
    """Bit for bit, though it never is on the device as floats."""
    config, params = dial
    read = hf.load_params(build.find("assets/dial/base"), int8(config))
    assert_same(read, quantize_params(params, config))


def told(pieces: Pieces, problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Problems with their reasoning and answers: tokens, validity, what predicts reasoning or answer, [B, T]."""
    rows, predicting = [], []
    for problem in problems:
        asked, trace = [*pieces.problem("planner", problem), *pieces.open], pieces.trace(problem.reasoning)
        answer = pieces.answer(problem.answer)
        row = [*asked, *trace, *pieces.ask, *answer]
        rows.append(row)
        written = [*range(len(asked), len(asked) + len(trace)), *range(len(row) - len(answer), len(row))]
        predicting.append([position - 1 for position in written])
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    valid, taken = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for line, (row, positions) in enumerate(zip(rows, predicting, strict=True)):
        tokens[line, : len(row)], valid[line, : len(row)], taken[line, positions] = row, True, True
    return tokens, valid, taken


def test_quality_on_the_dial_base(dial, dial_tokenizer):
    """Where it writes reasoning or answers, of 128 held-out problems. Measured: 0.152, 1.0 of 3858, 1.4e-5 nats."""
    config, params = dial
    tokens, valid, taken = told(Pieces(Prompts(), dial_tokenizer), DialTask().problems("test")[:128])

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model, variables):
        return model.apply(variables, model.apply(variables, tokens, valid)[0], method="logits")

    exact = np.asarray(logits(Transformer(config), {"params": params}))[taken]
    rounded = np.asarray(logits(Transformer(int8(config)), {"params": quantize_params(params, config)}))[taken]
    assert len(exact) > 3000
    got = divergence(exact, rounded)
    assert got["difference"] <= 0.3 and got["agreement"] >= 0.999 and got["kl"] <= 3e-5, got


# ------------------------------------------------------------------------------------------------------------- memory


def size_of(tree: Any) -> int:
    """Bytes of an abstract tree; both parts of a QArray count."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_a_7b_base_fits_16_gb_beside_its_adapter():
    """Qwen2.5-7B: D 3584, F 18944, L 28, H 28, N 4, Q 128, V 152064.

    A layer's kernels have 2 D H Q + 2 D N Q + 3 D F = 233,046,016 elements, a byte each; HQ + 2 NQ + D + 2 F + D =
    49,664 scales of 4 bytes; 4,608 biases and 2 D norm scales of 2. Times 28, and two tables of V D 2-byte numbers and
    the last norm: 8,711,506,944. The adapter has 16 (2 (D + HQ) + 2 (D + NQ) + 3 (D + F)) = 1,441,792 parameters a
    layer, of 4 bytes, thrice with its moments: 484,442,112. 9.2 GB in all.

    In bfloat16 the kernels have 28 * (233,046,016 - 198,656) bytes more: 15.7 GB, which leaves no room to work in:
    with its gradient and the keys and values of 8 traces of 1024 tokens (57,344 bytes a token) it is beyond 16 GB.
    """
    shape = ModelConfig(
        vocab_size=152_064, width=3584, ff_width=18_944, layers=28, heads=28, kv_heads=4, head_width=128,
        tie_embeddings=False, lora=Lora(rank=16), dtype="bfloat16", param_dtype="bfloat16",
    )  # fmt: skip
    floats, quantized = (nn.meta.unbox(abstract_variables(c)) for c in (shape, int8(shape)))
    assert size_of(quantized["params"]) == 8_711_506_944
    assert size_of(floats["params"]) - size_of(quantized["params"]) == 28 * (233_046_016 - 198_656)
    adapter = quantized["lora"]
    moments = jax.eval_shape(make_optimizer(OptimizerConfig(), 10).init, adapter)
    moments = [leaf for leaf in jax.tree.leaves(moments) if leaf.ndim]
    assert size_of(adapter) + size_of(moments) == 484_442_112
    cache = jax.eval_shape(lambda: empty_segment(Transformer(shape), (1, 8), 1024))
    assert size_of((cache.k, cache.v)) == 8192 * 57_344
    total = {
        name: size_of([variables["params"], adapter, moments, adapter, cache.k, cache.v])
        for name, variables in (("float", floats), ("int8", quantized))
    }
    assert total["int8"] == 8_711_506_944 + 484_442_112 + 161_480_704 + 469_762_048 < 16e9 < total["float"]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_layers_are_never_floats_all_at_once_when_compiled(remat):
    """Ten layers; what is there beside parameters and results, the backward pass included, is as large as two."""
    config = ModelConfig(
        37, 64, 128, layers=10, heads=4, kv_heads=2, head_width=16, lora=Lora(2), remat=remat, weights="int8"
    )
    variables = nn.meta.unbox(abstract_variables(config))
    tokens = np.zeros((1, 2), np.int32)

    def loss(lora, params):
        return Transformer(config).apply({"params": params, "lora": lora}, tokens, tokens == 0)[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(variables["lora"], variables["params"]).compile()
    layer = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # bytes of one layer's kernels in float32
    memory: Any = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 3 * layer


# --------------------------------------------------------------------------------------------------------- on a mesh

WIDE = ModelConfig(38, width=16, ff_width=24, layers=2, heads=4, kv_heads=2, head_width=6, weights="int8")


def on_mesh(layout: MeshConfig) -> dict[str, Any]:
    """`WIDE`, drawn where it lives: the layout of its int8 kernels, and its logits."""
    mesh = make_mesh(layout)
    boxed = abstract_variables(WIDE)["params"]
    shardings = parameter_shardings(boxed, mesh, layout.rules)
    make = jax.jit(lambda key: nn.meta.unbox(init_variables(WIDE, key)["params"]), out_shardings=shardings)
    params = make(jax.random.key(3))
    blocks = {
        name: functools.reduce(lambda tree, key: tree[key], name.split("/"), params["blocks"]) for name in KERNELS
    }
    parts = {name: (block["kernel"].qvalue, block["kernel"].scale) for name, block in blocks.items()}
    return {
        "specs": {name: [list(x.sharding.spec) for x in pair] for name, pair in parts.items()},
        "shards": {name: [list(x.addressable_shards[0].data.shape) for x in pair] for name, pair in parts.items()},
        "logits": np.asarray(jax.jit(tree_logits, static_argnums=0)(Transformer(WIDE), {"params": params})).tolist(),
    }


@pytest.mark.slow
def test_scales_are_split_as_their_channels_are():
    """On one device and on eight (data 1, fsdp 4, tensor 2): D over fsdp, heads and F over tensor, scales alike."""
    here = on_mesh(MeshConfig())
    there = run_on_eight(__file__)
    assert there["specs"] == here["specs"]
    # [L, D, H, Q], [L, D, N, Q], [L, H, Q, D], [L, D, F] and [L, F, D], and their scales.
    kv, wide = [[2, 4, 1, 6], [2, 1, 1, 6]], [[2, 4, 12], [2, 1, 12]]
    assert there["shards"] == {
        "attention/query": [[2, 4, 2, 6], [2, 1, 2, 6]],
        "attention/key": kv,
        "attention/value": kv,
        "attention/out": [[2, 2, 6, 4], [2, 1, 1, 4]],
        "mlp/gate": wide,
        "mlp/up": wide,
        "mlp/down": [[2, 12, 4], [2, 1, 4]],
    }
    np.testing.assert_allclose(there["logits"], here["logits"], atol=1e-5)


if __name__ == "__main__":
    say(on_mesh(MeshConfig(data=1, fsdp=4, tensor=2)))
