"""The projection: by hand, with its adapter, merged, and with int8 weights."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax.errors import ScopeParamShapeError

from tracelift_jax.models.einsum import Einsum, Lora, quantize_kernel
from tracelift_jax.models.hf import merge_lora

jit = lambda f: jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})  # noqa: E731
X = jnp.array([1.0, 2.0])
KERNEL = jnp.array([[1.0, 2.0], [3.0, 4.0]])


def test_base_by_hand():
    """(1, 2) [[1, 2], [3, 4]] + (0.5, -1) = (7.5, 9)."""
    bias = jnp.array([0.5, -1.0])
    y = Einsum("...D,DF->...F", (2, 2), use_bias=True).apply({"params": {"kernel": KERNEL, "bias": bias}}, X)
    np.testing.assert_array_equal(y, [7.5, 9.0])


def test_axes_of_heads_by_hand():
    """D = 2, H = 1, Q = 2 in; H and Q contracted out: the letters say which."""
    into = Einsum("...D,DHQ->...HQ", (2, 1, 2)).apply({"params": {"kernel": KERNEL[:, None]}}, X)
    np.testing.assert_array_equal(into, [[7.0, 10.0]])
    out = Einsum("...HQ,HQD->...D", (1, 2, 2)).apply({"params": {"kernel": KERNEL[None]}}, X[None])
    np.testing.assert_array_equal(out, [7.0, 10.0])


@pytest.mark.parametrize(
    ("rank", "alpha", "a", "b", "expected"),
    [
        # x A = 1 + 2 = 3; 3 (10, 20) = (30, 60); alpha / rank = 3: (7 + 90, 10 + 180)
        (1, 3.0, [[1.0], [1.0]], [[10.0, 20.0]], [97.0, 190.0]),
        # x A = (1, 2); (1, 2) B = (1 + 4, 1 + 6) = (5, 7); alpha / rank = 1.5: (7 + 7.5, 10 + 10.5)
        (2, 3.0, [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [2.0, 3.0]], [14.5, 20.5]),
    ],
)
def test_adapter_by_hand(rank, alpha, a, b, expected):
    variables = {"params": {"kernel": KERNEL}, "lora": {"a": jnp.array(a), "b": jnp.array(b)}}
    y = Einsum("...D,DF->...F", (2, 2), lora=Lora(rank, alpha)).apply(variables, X)
    np.testing.assert_array_equal(y, expected)


def test_a_fresh_adapter_changes_nothing():
    """B = 0; A is uniform within 1 / sqrt(fan_in), the fan-in of a heads-in projection being H * Q."""
    projection = Einsum("...HQ,HQD->...D", (3, 12, 5), lora=Lora(rank=64, alpha=100.0))
    x = jax.random.normal(jax.random.key(1), (4, 3, 12))
    variables = nn.meta.unbox(projection.init(jax.random.key(0), x))
    a, b = variables["lora"]["a"], variables["lora"]["b"]
    assert a.shape == (3, 12, 64) and b.shape == (64, 5)
    assert (b == 0).all()
    assert 0.9 / 6 < jnp.abs(a).max() <= 1 / 6
    base = Einsum("...HQ,HQD->...D", (3, 12, 5)).apply({"params": variables["params"]}, x)
    np.testing.assert_array_equal(projection.apply(variables, x), base)


def test_dropout_only_in_training_and_only_of_the_adapters_input():
    """A = B = I, alpha = rank: the update is x, each entry dropped or doubled at rate 1/2; the base never is."""
    projection = Einsum("...D,DF->...F", (2, 2), lora=Lora(rank=2, alpha=2.0, dropout=0.5))
    variables = {"params": {"kernel": KERNEL}, "lora": {"a": jnp.eye(2), "b": jnp.eye(2)}}
    x = jnp.broadcast_to(X, (400, 2))
    np.testing.assert_array_equal(projection.apply(variables, x), np.broadcast_to([8.0, 12.0], (400, 2)))
    y = projection.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    seen, counts = np.unique(np.asarray(y) - [7.0, 10.0], axis=0, return_counts=True)
    np.testing.assert_array_equal(seen, [[0, 0], [0, 4], [2, 0], [2, 4]])
    assert counts.min() > 60  # of 100 expected
    again = projection.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(y, again)


def test_model_dropout_only_when_not_deterministic(tiny_lora, tiny_of):
    """Every layer of the scan draws its own mask."""
    tiny = tiny_of(lora=dataclasses.replace(tiny_lora.config.lora, dropout=0.5), scan_unroll=1)
    tokens, valid = np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((3, 4), bool)

    @jit
    def both(variables, key):
        still, _ = tiny.model.apply(variables, tokens, valid)
        moved, _ = tiny.model.apply(variables, tokens, valid, deterministic=False, rngs={"dropout": key})
        return still, moved

    still, one = both(tiny.variables, jax.random.key(0))
    _, two = both(tiny.variables, jax.random.key(1))
    undropped, _ = jit(tiny_lora.model.apply)(tiny_lora.variables, tokens, valid)
    np.testing.assert_allclose(still, undropped, atol=1e-6)
    assert np.abs(one - still).max() > 0.01 and np.abs(one - two).max() > 0.01


def test_adapter_is_the_merged_weights(tiny_lora):
    merged = merge_lora(tiny_lora.params, tiny_lora.lora, tiny_lora.config)
    base = type(tiny_lora.model)(dataclasses.replace(tiny_lora.config, lora=None))
    tokens, valid = np.arange(12, dtype=np.int32).reshape(3, 4), np.ones((3, 4), bool)
    adapted, _ = jit(tiny_lora.model.apply)(tiny_lora.variables, tokens, valid)
    plain, _ = jit(base.apply)({"params": merged}, tokens, valid)
    np.testing.assert_allclose(adapted, plain, atol=2e-6)
    assert jax.tree.structure(merged) == jax.tree.structure(tiny_lora.params)
    # One entry by hand: layer 1, "down" [F, D]: W + (3 / 2) A B.
    a, b = tiny_lora.lora["blocks"]["mlp"]["down"]["a"][1], tiny_lora.lora["blocks"]["mlp"]["down"]["b"][1]
    expected = tiny_lora.params["blocks"]["mlp"]["down"]["kernel"][1, 5, 3] + 1.5 * float(a[5] @ b[:, 3])
    np.testing.assert_allclose(merged["blocks"]["mlp"]["down"]["kernel"][1, 5, 3], expected, rtol=1e-6)


def test_merging_without_an_adapter_is_refused(tiny):
    with pytest.raises(ValueError, match="no adapter"):
        merge_lora(tiny.params, {}, tiny.config)


def test_initial_deviation_is_scale_over_root_fan_in():
    x = jnp.zeros((1, 4, 25))
    kernel = nn.meta.unbox(Einsum("...HQ,HQD->...D", (4, 25, 200), scale=0.5).init(jax.random.key(0), x))
    np.testing.assert_allclose(kernel["params"]["kernel"].std(), 0.5 / 10, rtol=0.02)


# ------------------------------------------------------------------------------------------------------ int8 weights

EPSILON = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # what rounding moves a number by, at most


def test_int8_by_hand():
    """Columns (127, -64) / 2 and (1, 127) / 8: scales 1/2 and 1/8. (1, 2) gives (127 - 128) / 2 and (1 + 254) / 8."""
    kernel = jnp.array([[63.5, 0.125], [-32.0, 15.875]])
    quantized = quantize_kernel(kernel, 1)
    np.testing.assert_array_equal(quantized.qvalue, [[127, 1], [-64, 127]])
    np.testing.assert_array_equal(quantized.scale, [[0.5, 0.125]])
    assert quantized.qvalue.dtype == jnp.int8 and quantized.scale.dtype == jnp.float32
    bias = jnp.array([0.5, -1.0])
    variables = {"params": {"kernel": quantized, "bias": bias}}
    np.testing.assert_array_equal(
        Einsum("...D,DF->...F", (2, 2), True, weights="int8").apply(variables, X), [0, 30.875]
    )


def test_int8_axes_of_heads_by_hand():
    """The same numbers: a scale for each (H, Q) going in, for each D coming out."""
    quantized = quantize_kernel(jnp.array([[63.5, 0.125], [-32.0, 15.875]])[:, None], 1)
    assert quantized.scale.shape == (1, 1, 2)
    into = Einsum("...D,DHQ->...HQ", (2, 1, 2), weights="int8").apply({"params": {"kernel": quantized}}, X)
    np.testing.assert_array_equal(into, [[-0.5, 31.875]])
    quantized = quantize_kernel(jnp.array([[63.5, 0.125], [-32.0, 15.875]])[None], 2)
    assert quantized.scale.shape == (1, 1, 2)
    out = Einsum("...HQ,HQD->...D", (1, 2, 2), weights="int8").apply({"params": {"kernel": quantized}}, X[None])
    np.testing.assert_array_equal(out, [-0.5, 31.875])


def test_int8_parameter_is_declared_with_its_axes():
    """Contracted axes of the scale are single and have no name; what is drawn is the float kernel, quantized."""
    x = jnp.zeros((1, 3, 4))

    def make(weights):
        return Einsum("...HQ,HQD->...D", (3, 4, 5), True, param_dtype=jnp.bfloat16, weights=weights)

    kernel = jax.eval_shape(make("int8").init, jax.random.key(0), x)["params"]["kernel"]
    assert kernel.qvalue.names == ("heads", "head", "embed") and kernel.scale.names == (None, None, "embed")
    assert (kernel.qvalue.value.shape, kernel.qvalue.value.dtype) == ((3, 4, 5), jnp.int8)
    assert (kernel.scale.value.shape, kernel.scale.value.dtype) == ((1, 1, 5), jnp.float32)
    drawn = nn.meta.unbox(make("int8").init(jax.random.key(0), x))["params"]
    floats = nn.meta.unbox(make("float").init(jax.random.key(0), x))["params"]
    jax.tree.map(np.testing.assert_array_equal, drawn, floats | {"kernel": quantize_kernel(floats["kernel"], 2)})
    assert drawn["bias"].dtype == jnp.bfloat16


@pytest.mark.parametrize("part", ["qvalue", "scale"])
def test_int8_kernel_of_another_shape_is_refused(part):
    kernel = quantize_kernel(jnp.ones((2, 2)), 1)
    wrong = dataclasses.replace(kernel, **{part: jnp.ones((2, 3), getattr(kernel, part).dtype)})
    with pytest.raises(ScopeParamShapeError):
        Einsum("...D,DF->...F", (2, 2), weights="int8").apply({"params": {"kernel": wrong}}, X)


def int8_case(dtype, shape=(48, 3, 8)):
    """x [5, D] of the dtype, a kernel [D, H, Q] as int8; in float64 their product and the sum of its absolute terms."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((5, shape[0])), dtype)
    kernel = quantize_kernel(jnp.asarray(0.02 * rng.standard_normal(shape), jnp.float32), 1)
    exact = np.asarray(kernel.qvalue, np.float64) * np.asarray(kernel.scale, np.float64)
    wide = np.asarray(x, np.float64)
    return x, kernel, np.einsum("bd,dhq->bhq", wide, exact), np.einsum("bd,dhq->bhq", abs(wide), abs(exact))


@pytest.mark.parametrize("dtype", EPSILON)
def test_int8_weights_are_not_rounded_to_the_compute_dtype(dtype):
    """The result is rounded, and float32's share of the sum is lost: nothing for the kernel."""
    x, kernel, product, terms = int8_case(dtype)
    bound = 1.01 * EPSILON[dtype] * abs(product) + 1e-6 * terms
    module: Any = Einsum("...D,DHQ->...HQ", (48, 3, 8), dtype=dtype, weights="int8")
    y = module.apply({"params": {"kernel": kernel}}, x)
    assert y.dtype == dtype
    assert (abs(np.asarray(y, np.float64) - product) <= bound).all()
    if dtype != "float32":  # the bound does say something
        rounded = qwix.einsum("...D,DHQ->...HQ", x, kernel.astype(dtype))
        assert not (abs(np.asarray(rounded, np.float64) - product) <= bound).all()


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("remat", [False, True], ids=["plain", "remat"])
def test_int8_gradients_are_those_of_the_float_kernel(dtype, remat):
    """By the input, the bias and the adapter, against autodiff through the kernel that int8 stands for, in float32."""
    x, kernel, _, _ = int8_case(dtype)
    rng = np.random.default_rng(4)
    lora = {"a": rng.standard_normal((48, 2)).astype("f4"), "b": rng.standard_normal((2, 3, 8)).astype("f4")}
    bias, weight = rng.standard_normal((3, 8)).astype("f4"), rng.standard_normal((5, 3, 8)).astype("f4")

    def gradient(kernel, x, weights, dtype):
        module: Any = (nn.remat(Einsum) if remat else Einsum)(
            "...D,DHQ->...HQ", (48, 3, 8), True, Lora(2, 2.0), dtype, weights=weights
        )

        def loss(x, bias, lora):
            y = module.apply({"params": {"kernel": kernel, "bias": bias}, "lora": lora}, x)
            return (y.astype(jnp.float32) * weight).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(x, bias, lora)

    got = gradient(kernel, x, "int8", dtype)
    expected = gradient(qwix.dequantize(kernel), x.astype(jnp.float32), "float", "float32")
    assert got[0].dtype == dtype
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(g, np.float32), e, atol=8 * EPSILON[dtype] * abs(e).max(), rtol=0)


def test_int8_in_float16_neither_overflows_nor_loses_gradients():
    """1024 * 100 * 127 is far beyond 65504, and 0.01 * scale = 1e-3 / 12700 = 7.9e-8 is about the least float16."""
    kernel = quantize_kernel(jnp.full((1024, 1), 1e-3), 1)
    module = Einsum("...D,DF->...F", (1024, 1), dtype=jnp.float16, weights="int8")
    forward = lambda x: module.apply({"params": {"kernel": kernel}}, x)[0]  # noqa: E731
    y, backward = jax.vjp(forward, jnp.full(1024, 100.0, jnp.float16))
    np.testing.assert_allclose(y, 1024 * 100 * 1e-3, rtol=1e-3)
    np.testing.assert_allclose(backward(jnp.float16(0.01))[0], np.full(1024, 1e-5), rtol=1e-2)


def inner_programs(equation) -> list[Any]:
    """The jaxprs of loops, branches and calls."""
    inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns"))
    return [getattr(value, "jaxpr", value) for value in inner if hasattr(value, "eqns")]


def float_shapes(jaxpr) -> set[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of all that a program computes."""
    seen = set()
    for equation in jaxpr.eqns:
        seen |= {(str(out.aval.dtype), out.aval.shape) for out in equation.outvars}
        seen |= set().union(*map(float_shapes, inner_programs(equation)))
    return seen


@pytest.mark.parametrize("remat", [False, True], ids=["none", "full"])
def test_int8_layers_are_never_floats_all_at_once(remat):
    """Not in the backward pass either; and in bfloat16 no float32 kernel is made, not of one layer."""
    layers, width, inner = 3, 4, 6

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            up = Einsum("...D,DF->...F", (width, inner), False, Lora(2), jnp.bfloat16, weights="int8", name="up")
            down = Einsum("...F,FD->...D", (inner, width), False, Lora(2), jnp.bfloat16, weights="int8", name="down")
            return x + down(nn.silu(up(x))), None

    stack = nn.scan(
        nn.remat(Layer) if remat else Layer,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True},
        length=layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )()
    x = jnp.ones((5, width), jnp.bfloat16)
    boxed = jax.eval_shape(stack.init, jax.random.key(0), x)
    assert boxed["params"]["up"]["kernel"].qvalue.names == ("layers", "embed", "mlp")
    assert boxed["params"]["up"]["kernel"].scale.names == ("layers", None, "mlp")
    variables = nn.meta.unbox(boxed)
    assert variables["params"]["down"]["kernel"].qvalue.shape == (layers, inner, width)

    def loss(lora, params):
        return stack.apply({"params": params, "lora": lora}, x)[0].astype(jnp.float32).sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss))(variables["lora"], variables["params"])
    computed = float_shapes(program.jaxpr)
    assert ("bfloat16", (width, inner)) in computed  # one layer at a time is
    for kernel in ((width, inner), (inner, width)):
        assert not {("float32", kernel), ("float32", (layers, *kernel)), ("bfloat16", (layers, *kernel))} & computed


def products(jaxpr) -> int:
    """How many matrix products a program has."""
    return sum(
        (equation.primitive.name == "dot_general") + sum(map(products, inner_programs(equation)))
        for equation in jaxpr.eqns
    )


@pytest.mark.parametrize(("policy", "count"), [("nothing_saveable", 3), ("dots_with_no_batch_dims_saveable", 2)])
def test_int8_products_are_kept_where_remat_says_so(policy, count):
    """One forward, one backward, and one more where the forward one has to be done again."""
    kernel = quantize_kernel(KERNEL, 1)

    @functools.partial(jax.checkpoint, policy=getattr(jax.checkpoint_policies, policy))
    def loss(x):
        y: Any = Einsum("...D,DF->...F", (2, 2), weights="int8").apply({"params": {"kernel": kernel}}, x)
        return jnp.square(y).sum()

    assert products(jax.make_jaxpr(jax.grad(loss))(X).jaxpr) == count
