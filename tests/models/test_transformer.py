"""The decoder against numpy, and the tree against each of its paths run flat."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from qwen2_numpy import forward as numpy_forward

from tracelift_jax.models.einsum import Lora
from tracelift_jax.models.transformer import Transformer, empty_segment

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compile time is all that counts here
V = 37

# --------------------------------------------------------------------------------------------- trees and their paths


def read_levels(model, variables, levels):
    """Hidden states of every level, each below all levels before it."""
    context, states = (), []
    for tokens, valid in levels:
        hidden, segment = model.apply(variables, tokens, valid, context)
        context, states = (*context, segment), [*states, hidden]
    return states


tree_states = jit(read_levels, static_argnums=0)
flat_states = jit(lambda model, variables, tokens, valid: model.apply(variables, tokens, valid)[0], static_argnums=0)


def paths(levels, rows: int, size: int):
    """Every root-to-leaf path, valid tokens only, padded on the right.

    Returns:
        tokens and valid [rows, size], and where each token lies: (row, position, level, index into the level).
    """
    tokens, valid, where = np.zeros((rows, size), np.int32), np.zeros((rows, size), bool), []
    for row, leaf in enumerate(np.ndindex(levels[-1][0].shape[:-1])):
        position = 0
        for number, (ids, real) in enumerate(levels):
            node = leaf[: ids.ndim - 1]
            for slot in np.flatnonzero(real[node]):
                tokens[row, position], valid[row, position] = ids[(*node, slot)], True
                where.append((row, position, number, (*node, int(slot))))
                position += 1
    return tokens, valid, where


def check_tree(tiny, levels, rows: int, size: int):
    """Every valid token has the state that it has in each of its paths."""
    states = [np.asarray(s) for s in tree_states(tiny.model, tiny.variables, levels)]
    tokens, valid, where = paths(levels, rows, size)
    flat = np.asarray(flat_states(tiny.model, tiny.variables, tokens, valid))
    for row, position, number, index in where:
        np.testing.assert_allclose(states[number][index], flat[row, position], atol=1e-5, rtol=0)
    assert all(np.isfinite(s).all() for s in states)
    return len(where)


def level(rng, *shape, valid=None):
    mask = np.ones(shape, bool) if valid is None else np.broadcast_to(np.asarray(valid, bool), shape)
    return rng.integers(0, V, shape).astype(np.int32), mask


def three_levels(seed: int = 0):
    """Problems [2, 4], traces [2, 2, 3], samples [2, 2, 2, 2]: holes, padding on the right, empty rows."""
    rng = np.random.default_rng(seed)
    return [
        level(rng, 2, 4, valid=[[1, 0, 1, 1], [1, 1, 0, 0]]),
        level(rng, 2, 2, 3, valid=[[[1, 1, 1], [0, 0, 0]], [[0, 1, 0], [1, 0, 1]]]),
        level(rng, 2, 2, 2, 2, valid=[[[[1, 1], [0, 1]], [[1, 1], [1, 0]]], [[[0, 0], [1, 1]], [[1, 1], [0, 1]]]]),
    ]


@pytest.mark.parametrize("lora", [False, True], ids=["base", "lora"])
@pytest.mark.parametrize("depth", [2, 3])
def test_tree_is_its_paths(tiny, tiny_lora, depth, lora):
    assert check_tree(tiny_lora if lora else tiny, three_levels()[:depth], 8, 9) > 15


def test_adapter_changes_the_states(tiny, tiny_lora):
    """Or the tests with it would say no more than those without."""
    tokens, valid = three_levels()[0]
    base = flat_states(tiny.model, tiny.variables, tokens, valid)
    adapted = flat_states(tiny_lora.model, tiny_lora.variables | {"params": tiny.params}, tokens, valid)
    assert np.abs(base - adapted).max() > 0.05


def test_an_empty_level_is_as_if_it_were_not_there(tiny):
    rng = np.random.default_rng(1)
    levels = [level(rng, 2, 4, valid=False), level(rng, 2, 2, 3), level(rng, 2, 2, 2, 2)]
    check_tree(tiny, levels, 8, 9)
    with_empty = tree_states(tiny.model, tiny.variables, levels)[1]
    without = tree_states(tiny.model, tiny.variables, levels[1:])[0]
    np.testing.assert_allclose(with_empty, without, atol=1e-6)


@given(
    st.tuples(*(arrays(bool, (*lead, t)) for lead, t in [((2,), 4), ((2, 2), 3), ((2, 2, 2), 2)])),
    st.integers(0, 2**32 - 1),
)
@example((np.zeros((2, 4), bool), np.zeros((2, 2, 3), bool), np.ones((2, 2, 2, 2), bool)), 0)
@settings(max_examples=25)
def test_tree_is_its_paths_under_any_mask(tiny, masks, seed):
    rng = np.random.default_rng(seed)
    check_tree(tiny, [level(rng, *mask.shape, valid=mask) for mask in masks], 8, 9)


@st.composite
def trees(draw):
    """Up to four levels whose leading axes are prefixes of the next one's, some at the same depth, any lengths."""
    sizes = [*draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)), draw(st.integers(1, 2))]
    depths = [*sorted(draw(st.lists(st.integers(0, len(sizes)), min_size=1, max_size=3))), len(sizes)]
    shapes = [(*sizes[:depth], draw(st.integers(1, 3))) for depth in depths]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.5, 0.8, 1.0]))
    return [level(rng, *shape, valid=rng.random(shape) < share) for shape in shapes]


@given(trees())
@settings(max_examples=8)
def test_any_tree_is_its_paths(tiny_of, levels):
    check_tree(tiny_of(scan_unroll=1), levels, 18, 12)


# -------------------------------------------------------------------------------------------------------- gradients


def tree_gradient(tiny, levels, weights):
    """Of a weighted sum of all logits at all valid leaf tokens, by parameters and adapter."""

    def loss(variables, levels, weights):
        hidden = read_levels(tiny.model, variables, levels)[-1]
        logits = tiny.model.apply(variables, hidden, method="logits")
        return (logits * weights * levels[-1][1][..., None]).sum()

    return jit(jax.grad(loss))(tiny.variables, levels, weights)


def flat_gradient(tiny, levels, weights):
    """The same sum over all paths, each run by itself."""
    tokens, valid, where = paths(levels, *FLAT)
    flat_weights = np.zeros((*FLAT, V), np.float32)
    for row, position, number, index in where:
        if number == len(levels) - 1:
            flat_weights[row, position] = weights[index]

    def loss(variables):
        hidden, _ = tiny.model.apply(variables, tokens, valid)
        return (tiny.model.apply(variables, hidden, method="logits") * flat_weights).sum()

    return jit(jax.grad(loss))(tiny.variables)


FLAT = 8, 9
VARIANTS = [("none", 2), ("none", 1), ("dots", 2), ("dots", 1), ("full", 2), ("full", 1)]


def assert_same_gradients(got, expected):
    got, expected = (jax.tree_util.tree_leaves_with_path(tree) for tree in (got, expected))
    for (path, a), (same, b) in zip(got, expected, strict=True):
        assert path == same
        scale = np.abs(b).max()
        assert scale > 1e-3, f"{jax.tree_util.keystr(path)} gets no gradient to compare"
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-5, rtol=1e-5, err_msg=jax.tree_util.keystr(path))


def leaf_weights(levels):
    return np.random.default_rng(7).standard_normal((*levels[-1][0].shape, V)).astype(np.float32)


@pytest.fixture(scope="module")
def two_level_gradient(tiny_lora):
    levels = three_levels()[:2]
    return flat_gradient(tiny_lora, levels, leaf_weights(levels))


@pytest.mark.parametrize(("remat", "unroll"), VARIANTS)
def test_gradients_are_those_of_the_paths(tiny_of, tiny_lora, two_level_gradient, remat, unroll):
    tiny = tiny_of(lora=tiny_lora.config.lora, remat=remat, scan_unroll=unroll)
    levels = three_levels()[:2]
    got = tree_gradient(tiny, levels, leaf_weights(levels))
    assert set(got) == {"params", "lora"}
    assert_same_gradients(got, two_level_gradient)


def test_gradients_through_three_levels(tiny_of):
    """Empty rows and rows with holes among them: also finite."""
    tiny, levels = tiny_of(scan_unroll=1), three_levels()
    weights = leaf_weights(levels)
    assert_same_gradients(tree_gradient(tiny, levels, weights), flat_gradient(tiny, levels, weights))


def test_remat_and_unroll_change_no_parameter_and_no_state(tiny_of):
    tokens, valid = three_levels()[0]
    states, names = [], []
    for remat, unroll in VARIANTS:
        tiny = tiny_of(remat=remat, scan_unroll=unroll)
        states.append(flat_states(tiny.model, tiny.variables, tokens, valid))
        names.append([(jax.tree_util.keystr(p), x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tiny.params)])
    assert all(name == names[0] for name in names)
    for state in states[1:]:
        np.testing.assert_allclose(state, states[0], atol=1e-6)


# --------------------------------------------------------------------------------------------------- against numpy


def as_qwen2(params, config):
    """Our tree as the matrices [out, in] of the paper's y = W x, by hand."""
    blocks, d = params["blocks"], config.width
    out = {"model.embed_tokens.weight": params["embedding"], "model.norm.weight": params["final_norm"]["scale"]}
    if "head" in params:
        out["lm_head.weight"] = params["head"].T
    for i in range(config.layers):
        a, m, name = blocks["attention"], blocks["mlp"], f"model.layers.{i}."
        out[name + "input_layernorm.weight"] = blocks["attention_norm"]["scale"][i]
        out[name + "post_attention_layernorm.weight"] = blocks["mlp_norm"]["scale"][i]
        for ours, theirs in [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")]:
            out[f"{name}self_attn.{theirs}.weight"] = np.array(
                [a[ours]["kernel"][i][:, h, q] for h, q in np.ndindex(a[ours]["kernel"].shape[2:])]
            )
            if "bias" in a[ours]:
                out[f"{name}self_attn.{theirs}.bias"] = np.array([x for head in a[ours]["bias"][i] for x in head])
        out[name + "self_attn.o_proj.weight"] = np.array(
            [np.concatenate(list(a["out"]["kernel"][i][:, :, column])) for column in range(d)]
        )
        for ours, theirs in [("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")]:
            out[f"{name}mlp.{theirs}.weight"] = m[ours]["kernel"][i].T
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_embeddings": False, "qkv_bias": False, "rope_theta": 100.0, "norm_eps": 0.1},
        {"heads": 3, "kv_heads": 3, "head_width": 4, "layers": 1, "scan_unroll": 1},
        {"heads": 3, "kv_heads": 1, "head_width": 2, "layers": 3, "scan_unroll": 1},
    ],
    ids=["grouped", "untied", "full-heads", "one-kv-head"],
)
def test_flat_forward_is_qwen2(tiny_of, changes):
    tiny = tiny_of(**changes)
    c = tiny.config
    tokens = np.random.default_rng(3).integers(0, V, (2, 11)).astype(np.int32)

    @jit
    def forward(variables, tokens):
        hidden, _ = tiny.model.apply(variables, tokens, jnp.ones(tokens.shape, bool))
        return hidden, tiny.model.apply(variables, hidden, method="logits")

    hidden, logits = forward(tiny.variables, tokens)
    weights = as_qwen2(tiny.params, c)
    for row in range(2):
        expected = numpy_forward(weights, tokens[row], c.heads, c.kv_heads, c.rope_theta, c.norm_eps)
        np.testing.assert_allclose(hidden[row], expected[0], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(logits[row], expected[1], atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- decoding


def test_decoding_step_by_step_is_the_forward(tiny_lora):
    """T = 1, everything decoded so far being the innermost ancestor; invalid tokens are written and never seen."""
    model, variables = tiny_lora.model, tiny_lora.variables
    levels = three_levels(seed=2)[:2]
    (problem, shown), (tokens, valid) = levels
    expected = tree_states(model, variables, levels)[1]
    _, ancestor = jit(model.apply)(variables, problem, shown)

    @jit
    def step(own, token, real, slot):
        hidden, new = model.apply(variables, token, real, (ancestor, own))
        return hidden[..., 0, :], own.write(new, slot)

    own = empty_segment(Transformer(tiny_lora.config), (2, 2), 3)
    for slot in range(3):
        at = slice(slot, slot + 1)
        hidden, own = step(own, tokens[..., at], valid[..., at], jnp.int32(slot))
        real = valid[..., slot]
        np.testing.assert_allclose(hidden[real], expected[..., slot, :][real], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(own.valid, valid)


# -------------------------------------------------------------------------------------------------------- causality


def test_a_state_depends_on_its_past_and_ancestors_and_on_nothing_else(tiny):
    """Every slot holds its own vocabulary entry, so the gradient by the embedding table is that by each slot."""
    masks = [
        np.array([[1, 0, 1]], bool),
        np.array([[[1, 1, 1], [1, 0, 1]]], bool),
        np.array([[[[1, 1], [1, 1]], [[0, 1], [1, 0]]]], bool),
    ]
    free = iter(range(V))
    levels = [(np.array([next(free) for _ in range(m.size)], np.int32).reshape(m.shape), m) for m in masks]
    slots = [(n, index) for n, (ids, _) in enumerate(levels) for index in np.ndindex(ids.shape)]
    direction = np.random.default_rng(0).standard_normal(tiny.config.width).astype(np.float32)

    @jit
    def jacobian(embedding):
        def projected(embedding):
            states = read_levels(tiny.model, {"params": tiny.params | {"embedding": embedding}}, levels)
            return jnp.concatenate([(s @ direction).ravel() for s in states])

        return jax.jacrev(projected)(embedding)

    sensitivity = np.abs(jacobian(tiny.params["embedding"])).sum(-1)  # [slot of the state, vocabulary entry]
    seen = 0
    for row, (level_of_state, state) in enumerate(slots):
        for level_of_token, token in slots:
            ids, valid = levels[level_of_token]
            own = (level_of_state, state) == (level_of_token, token)
            node, ancestor = state[:-1], token[:-1]
            above = level_of_token < level_of_state and node[: len(ancestor)] == ancestor
            before = level_of_token == level_of_state and node == ancestor and token[-1] < state[-1]
            expected = own or (valid[token] and (above or before))
            got = sensitivity[row, ids[token]]
            assert (got > 1e-6) if expected else got == 0.0, (level_of_state, state, level_of_token, token, got)
            seen += expected
    assert seen > 60


# ---------------------------------------------------------------------------------------------------------- numerics


def test_bfloat16_compute_gives_float32_logits_and_keeps_parameters(tiny, tiny_of):
    rough = tiny_of(dtype="bfloat16")
    tokens, valid = three_levels()[0]
    for leaf in jax.tree.leaves(rough.params):
        assert leaf.dtype == np.float32

    def read(model, params):
        hidden, segment = model.apply({"params": params}, tokens, valid)
        return model.apply({"params": params}, hidden, method="logits"), hidden, segment

    gradient = jax.eval_shape(jax.grad(lambda params: read(rough.model, params)[0].sum()), rough.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    logits, hidden, segment = jit(partial(read, rough.model))(rough.params)
    assert hidden.dtype == segment.k.dtype == segment.v.dtype == jnp.bfloat16
    assert empty_segment(Transformer(rough.config), (2,), 3).k.dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.5  # accumulated in float32, not cast
    exact, _, _ = jit(partial(read, tiny.model))(tiny.params)
    error = np.abs(logits - exact)[valid] / np.abs(exact).max()
    assert 1e-4 < error.max() < 0.05  # bfloat16 has 8 bits: 0.4 % a rounding


def test_init_keeps_parameters_in_param_dtype(tiny_of):
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(tiny_of(dtype="bfloat16").config, param_dtype=dtype, lora=Lora(rank=2))
        start = partial(Transformer(config).init, tokens=np.zeros((1, 1), np.int32), valid=np.ones((1, 1), bool))
        drawn = jax.eval_shape(start, jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(drawn["params"])} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(drawn["lora"])} == {jnp.dtype("float32")}  # adapters always


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 2, 1)], ids=str)
def test_a_context_that_is_no_prefix_is_refused(tiny, lead):
    rng = np.random.default_rng(0)
    segment = jax.eval_shape(tiny.model.apply, tiny.variables, *level(rng, *lead, 2))[1]
    with pytest.raises(ValueError, match=r"cannot be an ancestor of \(2, 2\)"):
        jax.eval_shape(tiny.model.apply, tiny.variables, *level(rng, 2, 2, 3), (segment,))
