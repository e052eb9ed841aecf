import dataclasses

import jax
import numpy as np
import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.models import build, hf
from tracelift_jax.models.build import Model, Shape
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh

LAYOUT = MeshConfig()
SHAPE = Shape(width=8, ff_width=12, layers=2, heads=2, kv_heads=1, head_width=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random model of 2 layers, as a directory, with its parameters and configuration."""
    path = tmp_path_factory.mktemp("model")
    model = Model(shape=SHAPE, seed=3)
    config = build.model_config(model, 32)
    params = build.load_base(model, config, make_mesh(LAYOUT), LAYOUT)
    hf.save(path, params, config)
    return path, params, config


def hidden(config, params):
    ids = np.arange(6, dtype=np.int32)[None]
    return forward(Transformer(config), {"params": params}, ids, np.ones((1, 6), bool))[0]


def test_grown_layers_change_nothing_at_first(saved):
    path, params, config = saved
    model = Model(path=str(path), grow=2)
    grown = build.model_config(model, 32)
    assert grown.layers == 4
    tree = build.load_base(model, grown, make_mesh(LAYOUT), LAYOUT)
    np.testing.assert_array_equal(hidden(grown, tree), hidden(config, params))
    # They can learn all the same: but for the output projections they are copies of the two layers below.
    new, old = (
        jax.tree.map(lambda x, part=part: np.asarray(x)[part], tree["blocks"]) for part in (slice(2, 4), slice(2))
    )
    assert not new["attention"]["out"]["kernel"].any() and not new["mlp"]["down"]["kernel"].any()
    np.testing.assert_array_equal(new["attention"]["query"]["kernel"], old["attention"]["query"]["kernel"])
    np.testing.assert_array_equal(new["mlp"]["gate"]["kernel"], old["mlp"]["gate"]["kernel"])


def test_growing_random_weights_is_refused():
    with pytest.raises(UserError, match=r"^Model.grow needs a path"):
        Model(grow=1)


def test_shipped_paths_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (build.find("assets/dial/base") / "config.json").is_file()
    (tmp_path / "assets" / "dial" / "base").mkdir(parents=True)
    assert build.find("assets/dial/base").resolve() == tmp_path / "assets" / "dial" / "base"  # one's own comes first


def test_a_reward_model_of_an_untied_base_has_no_head(saved, tmp_path):
    _, params, config = saved
    untied = dataclasses.replace(config, tie_embeddings=False)
    headed = params | {"head": np.zeros((8, 32), np.float32)}
    shape, bare = build.without_head(untied, headed)
    assert shape.tie_embeddings and "head" not in bare
    heads = build.init_heads(shape, 0, make_mesh(LAYOUT), LAYOUT)
    hf.save_reward_model(tmp_path, bare, heads, shape)
    again, same_heads = hf.load_reward_model(tmp_path, shape)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(bare))
    jax.tree.map(np.testing.assert_array_equal, same_heads, jax.device_get(heads))


def test_the_shipped_models_fit_in_five_megabytes():
    files = [f for f in (build.ASSETS / "dial").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 5_000_000
