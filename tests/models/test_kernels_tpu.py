"""Splash compiled for sixteen real TPU chips, without any: one kernel a pass, and no collective that XLA has not.

`python tests/models/test_kernels_tpu.py` compiles and prints; libtpu belongs into an environment of its own.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.experimental import topologies
from tiny import ROOT

from tracelift_jax.models.transformer import ModelConfig, Transformer, abstract_variables
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh, parameter_shardings, split_batch
from tracelift_jax.rollout.score import read_traces
from tracelift_jax.text.spans import Tokens

B, G, P, R = 4, 8, 256, 256
WIDE = ModelConfig(
    vocab_size=1024,  # of no interest here
    width=3584,
    ff_width=18_944,
    layers=2,
    heads=28,
    kv_heads=4,
    head_width=128,
    dtype="bfloat16",
    param_dtype="bfloat16",
    remat="attention",
)
"""Two layers as wide as Qwen2.5-7B's."""


def compiled(attention) -> dict:
    """The gradient of all weights through traces and their problems: kernels, and collectives by kind and bytes."""
    config, layout = dataclasses.replace(WIDE, attention=attention), MeshConfig(data=4, tensor=4)
    mesh = make_mesh(layout, topologies.get_topology_desc("v5e:4x4", platform="tpu").devices)
    abstract = abstract_variables(config)["params"]

    def struct(shape, dtype, sharding):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    shardings = parameter_shardings(abstract, mesh, layout.rules)
    params = jax.tree.map(lambda leaf, s: struct(leaf.shape, leaf.dtype, s), nn.meta.unbox(abstract), shardings)

    def tokens(*shape):
        return Tokens(*(struct(shape, kind, split_batch(mesh)) for kind in (jnp.int32, jnp.bool_)))

    def loss(params, problem, trace):
        hidden = read_traces(Transformer(config, mesh), {"params": params}, problem, trace)
        return jnp.sin(hidden.astype(jnp.float32)).sum()

    text = jax.jit(jax.grad(loss)).lower(params, tokens(B, P), tokens(B, G, R)).compile().as_text()
    kernels = Counter(re.findall(r"%(splash_mha_[a-z]+)\S* = .* custom-call\(", text))
    kinds = r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    return {"kernels": kernels, "collectives": Counter(re.findall(kinds, text))}


@pytest.mark.slow
def test_splash_compiles_for_a_tpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu")
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "TPU_SKIP_MDS_QUERY": "1",
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    played = json.loads(done.stdout.partition("RESULT")[2])
    # Once for the problem and once for its traces; the forward pass is not run again for the backward one.
    assert played["splash"]["kernels"] == {"splash_mha_fwd": 2, "splash_mha_dq": 2, "splash_mha_dkv": 2}
    assert played["xla"]["kernels"] == {}
    assert played["splash"]["collectives"] == played["xla"]["collectives"]
    assert set(played["splash"]["collectives"]) == {"all-reduce"}  # neither keys nor values are gathered


if __name__ == "__main__":
    print("RESULT" + json.dumps({attention: compiled(attention) for attention in ("splash", "xla")}))
