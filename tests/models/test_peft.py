"""PEFT directories: names and orientation written out by hand, exact round trips, and interruptions."""

import dataclasses
import json
import resource
import struct

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from adapter_files import SEVEN, assert_bitwise, configure, drop, name, refused, settings, store, stored
from hypothesis import given
from hypothesis import strategies as st

from tracelift_jax.models import peft
from tracelift_jax.models.einsum import Einsum, Lora
from tracelift_jax.models.rubric import RubricHeads
from tracelift_jax.models.transformer import ModelConfig, abstract_variables

# V = 37, D = 8, F = 12, H = 4, N = 2, Q = 6, rank 2: what peft calls the adapter of a Qwen2ForCausalLM of one layer.
ONE_LAYER = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (24, 2),
    "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight": (12, 2),
    "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight": (12, 2),
    "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight": (2, 24),
    "base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight": (8, 2),
    "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight": (12, 2),
    "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": (12, 2),
    "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": (2, 12),
    "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight": (8, 2),
}
HEADS = {f"base_model.model.dimension_heads.{d}.weight": (5, 8) for d in range(5)}
HEADS |= {f"base_model.model.dimension_heads.{d}.bias": (5,) for d in range(5)}
HEADS |= {"base_model.model.total_head.weight": (1, 8), "base_model.model.total_head.bias": (1,)}

HEAD_MODULES = [*(f"dimension_heads.{d}" for d in range(5)), "total_head"]


def random_heads(seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = {"dimensions": (5, 8, 5), "dimension_bias": (5, 5), "total": (8,), "total_bias": ()}
    return {key: np.asarray(rng.standard_normal(shape), np.float32) for key, shape in shapes.items()}


@pytest.fixture
def saved(tmp_path, tiny_lora):
    """A directory with the adapter of `tiny_lora`: two layers, rank 2, alpha 3."""
    peft.save_adapter(tmp_path, tiny_lora.lora, tiny_lora.config)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------- layout


def test_names_and_shapes_are_those_of_peft(tmp_path, tiny_of):
    tiny = tiny_of(layers=1, scan_unroll=1, lora=Lora(2, 3.0))
    peft.save_adapter(tmp_path, tiny.lora, tiny.config)
    assert {key: tensor.shape for key, tensor in stored(tmp_path).items()} == ONE_LAYER
    with open(tmp_path / "adapter_model.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    assert header["__metadata__"] == {"format": "pt"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_config_is_what_peft_reads(tmp_path, tiny_of):
    tiny = tiny_of(layers=1, scan_unroll=1, lora=Lora(2, 3.0, dropout=0.05))
    peft.save_adapter(tmp_path, tiny.lora, tiny.config, base="Qwen/Qwen2.5-7B")
    assert settings(tmp_path) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "Qwen/Qwen2.5-7B",
        "inference_mode": True,
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.05,
        "target_modules": SEVEN,
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    assert type(settings(tmp_path)["lora_alpha"]) is int
    assert peft.read_adapter_config(tmp_path) == Lora(2, 3.0, 0.05)


def test_a_fractional_alpha_and_no_base(tmp_path, tiny_of):
    tiny = tiny_of(layers=1, scan_unroll=1, lora=Lora(2, 2 * 2**0.5))
    peft.save_adapter(tmp_path, tiny.lora, tiny.config)
    assert settings(tmp_path)["lora_alpha"] == 2.8284271247461903
    assert settings(tmp_path)["base_model_name_or_path"] is None
    assert peft.read_adapter_config(tmp_path) == tiny.config.lora


def test_orientation_by_hand(saved, tiny_lora):
    """Element by element: A[r, in], B[out, r], heads before head width on both sides."""
    tensors, blocks = stored(saved), tiny_lora.lora["blocks"]
    query, out, down = blocks["attention"]["query"], blocks["attention"]["out"], blocks["mlp"]["down"]
    assert tensors[name(1, "self_attn.q_proj", "A")][1, 5] == query["a"][1, 5, 1]
    assert tensors[name(1, "self_attn.q_proj", "B")][3 * 6 + 4, 1] == query["b"][1, 1, 3, 4]
    assert tensors[name(0, "self_attn.o_proj", "A")][1, 2 * 6 + 5] == out["a"][0, 2, 5, 1]
    assert tensors[name(0, "self_attn.o_proj", "B")][7, 1] == out["b"][0, 1, 7]
    assert tensors[name(1, "mlp.down_proj", "A")][0, 11] == down["a"][1, 11, 0]
    assert tensors[name(1, "mlp.down_proj", "B")][6, 0] == down["b"][1, 0, 6]


@pytest.mark.parametrize(
    ("room", "projection", "module", "spec", "shape"),
    [
        ("attention", "query", "self_attn.q_proj", "...D,DHQ->...HQ", (8, 4, 6)),
        ("attention", "key", "self_attn.k_proj", "...D,DNQ->...NQ", (8, 2, 6)),
        ("attention", "value", "self_attn.v_proj", "...D,DNQ->...NQ", (8, 2, 6)),
        ("attention", "out", "self_attn.o_proj", "...HQ,HQD->...D", (4, 6, 8)),
        ("mlp", "gate", "mlp.gate_proj", "...D,DF->...F", (8, 12)),
        ("mlp", "up", "mlp.up_proj", "...D,DF->...F", (8, 12)),
        ("mlp", "down", "mlp.down_proj", "...F,FD->...D", (12, 8)),
    ],
    ids=lambda value: value if isinstance(value, str) and "_proj" in value else "",
)
def test_the_file_computes_what_the_model_computes(saved, tiny_lora, room, projection, module, spec, shape):
    """y = x W^T + (alpha / r) (x A^T) B^T on the file's tensors as they lie is our `Einsum`."""
    rng, fan_in = np.random.default_rng(3), 24 if module == "self_attn.o_proj" else shape[0]
    x, kernel = rng.standard_normal((5, fan_in)), rng.standard_normal(shape).astype(np.float32)
    a, b = (stored(saved)[name(1, module, half)].astype(np.float64) for half in "AB")
    weight = kernel.reshape(fan_in, -1).T
    expected = x @ weight.T + (3.0 / 2) * (x @ a.T) @ b.T
    loaded = peft.load_adapter(saved, tiny_lora.config)["blocks"][room][projection]
    variables = {"params": {"kernel": kernel}, "lora": {half: loaded[half][1] for half in "ab"}}
    ours_x = jnp.asarray(x, jnp.float32).reshape((5, 4, 6) if fan_in == 24 else (5, fan_in))
    y = Einsum(spec, shape, lora=tiny_lora.config.lora).apply(variables, ours_x)
    np.testing.assert_allclose(np.asarray(y).reshape(5, -1), expected, rtol=1e-5, atol=1e-5)


def test_layers_are_stacked_in_order(tmp_path, tiny_of):
    """Twelve layers: 10 and 11 do not sort behind 1."""
    tiny = tiny_of(layers=12, scan_unroll=1, lora=Lora(2, 3.0))
    peft.save_adapter(tmp_path, tiny.lora, tiny.config)
    for layer in (1, 2, 10, 11):
        np.testing.assert_array_equal(
            stored(tmp_path)[name(layer, "mlp.up_proj", "A")], tiny.lora["blocks"]["mlp"]["up"]["a"][layer].T
        )
    assert_bitwise(peft.load_adapter(tmp_path, tiny.config), tiny.lora)


# -------------------------------------------------------------------------------------------------------- round trips


def test_save_load_save_is_bitwise(tmp_path, tiny_of):
    """Signed zeros, infinities and subnormal numbers included."""
    tiny = tiny_of(lora=Lora(3, 5.0, dropout=0.1))
    lora = jax.tree.map(np.copy, tiny.lora)
    lora["blocks"]["attention"]["out"]["a"][0, 0, :3, 0] = [-0.0, np.inf, 1e-40]
    peft.save_adapter(tmp_path / "one", lora, tiny.config, base="base", heads=random_heads())
    assert peft.read_adapter_config(tmp_path / "one") == tiny.config.lora
    loaded, heads = (load(tmp_path / "one", tiny.config) for load in (peft.load_adapter, peft.load_heads))
    assert_bitwise(loaded, lora)
    assert_bitwise(heads, random_heads())
    peft.save_adapter(tmp_path / "two", loaded, tiny.config, base="base", heads=heads)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_adapters_of_half_precision(tmp_path, tiny_lora, dtype):
    """Stored as they are, and loaded without loss as the float32 that a model keeps its adapter in."""
    half = jax.tree.map(lambda x: x.astype(dtype), tiny_lora.lora)
    peft.save_adapter(tmp_path, half, tiny_lora.config)
    assert len(stored(tmp_path)) == 28 and {t.dtype for t in stored(tmp_path).values()} == {np.dtype(dtype)}
    assert_bitwise(peft.load_adapter(tmp_path, tiny_lora.config), jax.tree.map(lambda x: x.astype(np.float32), half))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_tree_is_the_models_own(saved, tiny_of, dtype):
    """In structure, shapes and dtypes, whatever the base is kept in."""
    config = tiny_of(param_dtype=dtype, dtype=dtype, lora=Lora(2, 3.0)).config
    declared = nn.meta.unbox(abstract_variables(config)["lora"])
    loaded = peft.load_adapter(saved, config)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), loaded) == jax.tree.map(lambda x: (x.shape, x.dtype), declared)


def test_device_arrays_are_saved_too(tmp_path, tiny_lora):
    peft.save_adapter(tmp_path, jax.device_put(tiny_lora.lora), tiny_lora.config)
    assert_bitwise(peft.load_adapter(tmp_path, tiny_lora.config), tiny_lora.lora)


@given(
    layers=st.integers(1, 3),
    width=st.integers(1, 7),
    ff_width=st.integers(1, 7),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    head_width=st.integers(1, 3).map(lambda half: 2 * half),
    rank=st.integers(1, 9),
)
def test_any_shape_comes_back(tmp_path_factory, layers, width, ff_width, kv_heads, groups, head_width, rank):
    """Ranks above the widths too; the tree has the shapes that `Einsum` documents."""
    heads = kv_heads * groups
    lora = Lora(rank, 2.0)
    config = ModelConfig(9, width, ff_width, layers, heads, kv_heads, head_width, lora=lora)
    q, kv, d, f = (heads, head_width), (kv_heads, head_width), (width,), (ff_width,)
    axes = {"attention": {"query": (d, q), "key": (d, kv), "value": (d, kv), "out": (q, d)}}
    axes |= {"mlp": {"gate": (d, f), "up": (d, f), "down": (f, d)}}
    rng = np.random.default_rng(layers)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    tree = {
        room: {key: {"a": draw(layers, *i, rank), "b": draw(layers, rank, *o)} for key, (i, o) in inside.items()}
        for room, inside in axes.items()
    }
    path = tmp_path_factory.mktemp("adapter")
    peft.save_adapter(path, {"blocks": tree}, config)
    assert_bitwise(peft.load_adapter(path, config), {"blocks": tree})


# ------------------------------------------------------------------------------------------------- what may be left out


def only(tree, kept) -> dict:
    """`tree` with zeros wherever `kept(projection, layer)` is false."""

    def clear(path, leaf):
        keep = [kept(path[2].key, layer) for layer in range(len(leaf))]
        return np.where(np.reshape(keep, (-1, *[1] * (leaf.ndim - 1))), leaf, np.float32(0))

    return jax.tree_util.tree_map_with_path(clear, tree)


@pytest.mark.parametrize(
    ("changes", "gone", "kept"),
    [
        (
            {"target_modules": ["v_proj", "q_proj"]},
            ["k_proj", "o_proj", "mlp"],
            lambda key, _: key in ("query", "value"),
        ),
        (
            {"target_modules": ["self_attn.o_proj", "mlp.up_proj"]},
            ["q_proj", "k_proj", "v_proj", "gate_proj", "down_proj"],
            lambda key, _: key in ("out", "up"),
        ),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj", "1.mlp.up_proj"]},
            ["k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "1.self_attn.q_proj", "0.mlp.up_proj"],
            lambda key, layer: (key, layer) in [("query", 0), ("up", 1)],
        ),
        ({"target_modules": "all-linear"}, [], lambda *_: True),
        ({"target_modules": None}, ["mlp"], lambda key, _: key in ("query", "key", "value", "out")),
        (
            {"target_modules": r".*\.1\.mlp\.(up|down)_proj"},
            ["self_attn", "gate_proj", "layers.0."],
            lambda key, layer: layer == 1 and key in ("up", "down"),
        ),
        ({"layers_to_transform": [1]}, ["layers.0."], lambda _, layer: layer == 1),
        ({"layers_to_transform": 0}, ["layers.1."], lambda _, layer: layer == 0),
        ({"layers_to_transform": []}, [], lambda *_: True),
        ({"exclude_modules": ["0.mlp.up_proj"]}, ["0.mlp.up_proj"], lambda key, layer: (key, layer) != ("up", 0)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_the_adapter_leaves_out_is_zero(saved, tiny_lora, changes, gone, kept):
    configure(saved, **changes)
    drop(saved, *gone)
    assert_bitwise(peft.load_adapter(saved, tiny_lora.config), only(tiny_lora.lora, kept))


def test_the_end_of_a_name_is_whole_parts_of_it(tmp_path, tiny_of):
    """ "0.mlp.up_proj" is in layer 0 and not in layer 10."""
    tiny = tiny_of(layers=11, scan_unroll=1, lora=Lora(2, 3.0))
    peft.save_adapter(tmp_path, tiny.lora, tiny.config)
    configure(tmp_path, target_modules=["0.mlp.up_proj"])
    store(tmp_path, {key: t for key, t in stored(tmp_path).items() if "layers.0.mlp.up_proj" in key})
    expected = only(tiny.lora, lambda key, layer: (key, layer) == ("up", 0))
    assert_bitwise(peft.load_adapter(tmp_path, tiny.config), expected)


def test_what_is_zero_is_not_trained(saved, tiny_lora):
    configure(saved, target_modules=["v_proj"])
    drop(saved, "q_proj", "k_proj", "o_proj", "mlp")
    lora, tiny = peft.load_adapter(saved, tiny_lora.config), tiny_lora
    tokens = np.arange(5, dtype=np.int32)

    @jax.jit
    @jax.grad
    def gradient(lora):
        hidden, _ = tiny.model.apply({"params": tiny.params, "lora": lora}, tokens, np.ones(5, bool))
        return (hidden * np.linspace(-1, 1, hidden.size).reshape(hidden.shape)).sum()

    moved = jax.tree.map(lambda g: bool(np.any(np.asarray(g) != 0)), gradient(lora))["blocks"]
    assert moved["attention"].pop("value") == {"a": True, "b": True}
    assert not any(jax.tree.leaves(moved))


def test_names_with_the_adapters_name_in_them(saved, tiny_lora):
    """As they are in a running model: lora_A.default.weight."""
    store(saved, {key.replace(".weight", ".default.weight"): t for key, t in stored(saved).items()})
    assert_bitwise(peft.load_adapter(saved, tiny_lora.config), tiny_lora.lora)


def test_rank_stabilised_scale(saved, tiny_lora):
    """alpha / sqrt(r): alpha 3, rank 2 give 2.1213, which is what our alpha / rank must be."""
    configure(saved, use_rslora=True)
    lora = peft.read_adapter_config(saved)
    assert lora.rank == 2 and lora.alpha / lora.rank == pytest.approx(2.12132034, abs=1e-8)
    refused(lambda: peft.load_adapter(saved, tiny_lora.config), "alpha 4.24", "3.0", "set them alike")
    loaded = peft.load_adapter(saved, dataclasses.replace(tiny_lora.config, lora=lora))
    assert_bitwise(loaded, tiny_lora.lora)


def test_absent_fields_mean_their_defaults(saved):
    (saved / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 6.5}')
    assert peft.read_adapter_config(saved) == Lora(4, 6.5, 0.0)


def test_fields_that_change_nothing_are_allowed(saved, tiny_lora):
    """What peft 0.21 writes beside what we write."""
    configure(
        saved,
        alora_invocation_tokens=None,
        alpha_pattern={},
        arrow_config=None,
        auto_mapping=None,
        corda_config=None,
        ensure_weight_tying=False,
        eva_config=None,
        exclude_modules=None,
        init_lora_weights="gaussian",
        kasa_config=None,
        layer_replication=None,
        layers_pattern=None,
        layers_to_transform=None,
        loftq_config={},
        lora_bias=False,
        megatron_config=None,
        megatron_core="megatron.core",
        modules_to_save=None,
        peft_version="0.21.2",
        qalora_group_size=16,
        rank_pattern={},
        target_parameters=None,
        trainable_token_indices=None,
        use_bdlora=None,
        use_qalora=False,
        velora_config=None,
    )
    assert_bitwise(peft.load_adapter(saved, tiny_lora.config), tiny_lora.lora)


# ------------------------------------------------------------------------------------------------------ reward models


@pytest.fixture
def graded(tmp_path, tiny_lora):
    """The same directory with heads beside the adapter."""
    peft.save_adapter(tmp_path, tiny_lora.lora, tiny_lora.config, heads=random_heads())
    return tmp_path


def test_heads_lie_beside_the_adapter(graded, tiny_lora):
    shapes = {key: t.shape for key, t in stored(graded).items() if "lora" not in key}
    assert shapes == HEADS
    assert (settings(graded)["task_type"], settings(graded)["modules_to_save"]) == (None, HEAD_MODULES)
    assert_bitwise(peft.load_adapter(graded, tiny_lora.config), tiny_lora.lora)


def test_heads_are_linear_layers(graded, tiny_lora):
    """logits of dimension d = W_d x + b_d, total = w x + b, on the file's tensors."""
    x = np.random.default_rng(2).standard_normal(8).astype(np.float32)
    said = RubricHeads(8).apply({"params": peft.load_heads(graded, tiny_lora.config)}, x)
    tensors = {key.removeprefix("base_model.model."): t for key, t in stored(graded).items()}
    for d in range(5):
        expected = tensors[f"dimension_heads.{d}.weight"] @ x + tensors[f"dimension_heads.{d}.bias"]
        np.testing.assert_allclose(said.logits[d], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        said.total_logit, (tensors["total_head.weight"] @ x + tensors["total_head.bias"])[0], rtol=1e-5
    )


@pytest.mark.parametrize("head", ["dimension_heads.4.weight", "dimension_heads.0.bias", "total_head.weight"])
def test_a_missing_or_misshapen_head_is_named(graded, tiny_lora, head):
    tensors, full = stored(graded), f"base_model.model.{head}"
    where = graded / "adapter_model.safetensors"
    store(graded, {key: t for key, t in tensors.items() if key != full})
    refused(lambda: peft.load_heads(graded, tiny_lora.config), where, repr(full), "missing")
    store(graded, tensors | {full: np.zeros((*tensors[full].shape, 2), np.float32)})
    refused(lambda: peft.load_heads(graded, tiny_lora.config), where, repr(full), [*tensors[full].shape, 2])


def test_a_planners_adapter_has_no_heads(saved, tiny_lora):
    refused(lambda: peft.load_heads(saved, tiny_lora.config), "dimension_heads.0.weight", "missing")


# ------------------------------------------------------------------------------------------------------- interruptions


def test_a_full_disk_leaves_no_half_file(tmp_path, saved, tiny_of):
    """A real one: no file of this process may grow beyond 1000 bytes. What was there before is still there, whole."""
    other = tiny_of(seed=1, lora=Lora(2, 3.0))
    before = {file: file.read_bytes() for file in saved.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        refused(lambda: peft.save_adapter(saved, other.lora, other.config), saved, "cannot write the adapter")
        refused(lambda: peft.save_adapter(tmp_path / "new", other.lora, other.config), tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new").rmdir()
    assert {file: file.read_bytes() for file in saved.iterdir()} == before


@pytest.mark.parametrize("after", [0, 1])
def test_no_mixture_of_two_adapters_loads(saved, tiny_of, monkeypatch, after):
    """Interrupted before the first and before the second of the two files gets its name."""
    other, left = tiny_of(seed=1, lora=Lora(2, 3.0)), after
    replace = type(saved).replace

    def interrupted(self, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(saved), "replace", interrupted)
        peft.save_adapter(saved, other.lora, other.config)
    assert [file.name for file in saved.iterdir()] == ["adapter_model.safetensors"]
    refused(lambda: peft.load_adapter(saved, other.config), saved / "adapter_config.json", "no such file")
    peft.save_adapter(saved, other.lora, other.config)
    assert_bitwise(peft.load_adapter(saved, other.config), other.lora)


def test_a_file_where_the_directory_should_be(tmp_path, tiny_lora):
    (tmp_path / "file").write_text("")
    refused(
        lambda: peft.save_adapter(tmp_path / "file", tiny_lora.lora, tiny_lora.config),
        tmp_path / "file",
        "cannot write the adapter",
    )
