"""The same run on one device and on eight virtual ones: the same tokens, the same metrics, the batch really split.

`python tests/parallel/test_devices.py FOLDER LAYOUT` plays it over the models in FOLDER and prints what came of it.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tinies import TINY, make_tiny
from tiny import command, make_train, run_on_eight, say, write_gin, write_models

from tracelift_jax.config import Evaluation, GrpoConfig, MeshConfig, OptimizerConfig, RewardConfig
from tracelift_jax.models import hf
from tracelift_jax.parallel.mesh import make_mesh
from tracelift_jax.train.planner_loop import PlannerTraining
from tracelift_jax.train.roles import load_roles


def play(folder: Path, mesh: MeshConfig) -> dict[str, Any]:
    """Two steps of full fine-tuning with everything switched on."""
    config = make_train(
        folder,
        roles={
            "mesh": mesh,
            "traces": 2,
            "reward": RewardConfig(uplift="sampled", baseline_samples=2, repeats=1, adaptive=2),
        },
        batch_size=16,
        loss=GrpoConfig(kl=0.1, reduction="token"),
        optimizer=OptimizerConfig(learning_rate=1e-2, accumulate=2, epsilon=1e-3),
        evaluation=Evaluation(problems=3, batch_size=8),
    )
    training = PlannerTraining(config, load_roles(config.roles, config.loss.normalize))
    state, out = training.state, {"metrics": [], "tokens": [], "answers": [], "asked": [], "rewards": []}
    done = None
    for step in (1, 2):
        batch, problems = training.next_batch()
        state, metrics, ((done, _), counts) = training.step(state, batch)
        training.remember(step, problems, jax.device_get(counts))
        out["metrics"].append({name: float(value) for name, value in metrics.items()})
        out["tokens"].append(np.where(done.traces.valid, done.traces.ids, -1).tolist())
        out["answers"].append(np.where(done.answers.valid, done.answers.ids, -1).tolist())
        out["asked"].append(np.asarray(done.asked).tolist())
        out["rewards"].append(np.asarray(done.reward).tolist())
    assert done is not None
    arrays = {"traces": done.traces.ids, "reward": done.reward, "baseline": done.uplift.baseline_ok}
    out["shards"] = {name: [list(s.data.shape) for s in x.addressable_shards] for name, x in arrays.items()}
    embedding = state.trainable["params"]["embedding"]
    out["embedding_shards"] = sorted({s.data.shape for s in embedding.addressable_shards})
    out["devices"] = jax.device_count()
    out["fingerprints"] = training.loaded.fingerprints
    return out


FAMILIES = {
    "qwen2": {},
    "qwen3": {"family": "qwen3", "qkv_bias": False, "qk_norm": True, "tie_embeddings": False},
    "llama": {"family": "llama", "qkv_bias": True, "out_bias": True},
}


def stream(folder: Path) -> dict[str, Any]:
    """Each family's checkpoint, loaded onto data = fsdp = tensor = 2 and onto one device."""
    layout = MeshConfig(data=2, fsdp=2, tensor=2)
    mesh, out = make_mesh(layout), {}
    for name in FAMILIES:
        config = dataclasses.replace(hf.read_config(folder / name), param_dtype="bfloat16")
        split, whole = hf.load_params(folder / name, config, mesh, layout), hf.load_params(folder / name, config)
        kernel = split["blocks"]["attention"]["query"]["kernel"]
        out[name] = {
            "same": jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), split, whole)),
            "query": sorted({s.data.shape for s in kernel.addressable_shards}),
            "embedding": sorted({s.data.shape for s in split["embedding"].addressable_shards}),
        }
    return out


LAYOUTS = {"data": MeshConfig(), "fsdp": MeshConfig(data=2, fsdp=4)}


def refused(folder: Path) -> list[list[Any]]:
    """What becomes of batches that do not fit the mesh."""
    gin = write_gin(folder)
    outcomes = [
        command("train", f"--gin_file={gin}", f"--run_dir={folder / str(number)}", *more)
        for number, more in enumerate(
            (["--gin.Train.batch_size=12"], ["--gin.Train.batch_size=8", "--gin.Evaluation.batch_size=4"])
        )
    ]
    return [[outcome.code, outcome.errors] for outcome in outcomes]


def main(folder: Path, what: str) -> None:
    """Prints one JSON object: the run of a layout, or what is loaded and refused."""
    if what == "files":
        found = {"streamed": stream(folder), "refusals": refused(folder)}
    else:
        found = play(folder, LAYOUTS[what])
    say(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("models"))
    for name, changes in FAMILIES.items():
        # V must split over two tensor shards: 37 does not.
        tiny = make_tiny(dataclasses.replace(TINY, vocab_size=38, **changes))
        hf.save(folder / name, tiny.params, tiny.config, shard_bytes=4000)
    return folder


@pytest.fixture(scope="module")
def one(folder) -> dict[str, Any]:
    return play(folder, MeshConfig())


@pytest.fixture(scope="module", params=[pytest.param(layout, marks=pytest.mark.slow) for layout in LAYOUTS])
def eight(request, folder) -> dict[str, Any]:
    return run_on_eight(__file__, folder, request.param) | {"layout": request.param}


@pytest.fixture(scope="module")
def files(folder) -> dict[str, Any]:
    return run_on_eight(__file__, folder, "files")


def test_one_device_is_compared_with_eight(one, eight):
    assert one["devices"] == jax.device_count() == 1
    assert eight["devices"] == 8


def test_the_same_tokens_are_drawn(one, eight):
    assert eight["tokens"] == one["tokens"]
    assert eight["answers"] == one["answers"]
    assert eight["asked"] == one["asked"]
    # Two samples for each of two traces in four of sixteen groups, though four do not split over eight devices.
    assert [np.sum(asked) for asked in one["asked"]] == [16 * 2 * 2 + 4 * 2 * 2] * 2
    assert one["tokens"][0] != one["tokens"][1]


def test_fingerprints_do_not_depend_on_the_mesh(one, eight):
    assert eight["fingerprints"] == one["fingerprints"]
    assert set(one["fingerprints"]) == {"executor", "reward_model"}


def test_checkpoints_stream_to_their_shards(files):
    """D = 8 over fsdp, H = 4 and V = 38 over tensor: every device holds its part, of the same values."""
    expected = {"same": True, "query": [[2, 4, 2, 6]], "embedding": [[19, 4]]}
    assert files["streamed"] == dict.fromkeys(FAMILIES, expected)


def test_the_metrics_are_the_same(one, eight):
    np.testing.assert_allclose(eight["rewards"], one["rewards"], rtol=1e-4, atol=1e-6)
    for here, there in zip(eight["metrics"], one["metrics"], strict=True):
        assert here.keys() == there.keys()
        for name in there:
            np.testing.assert_allclose(here[name], there[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_the_batch_is_split_over_the_devices(one, eight):
    # Over both axes, whatever the layout.
    assert one["shards"]["traces"] == [[16, 2, 6]]
    assert eight["shards"] == {"traces": [[2, 2, 6]] * 8, "reward": [[2, 2]] * 8, "baseline": [[2, 2]] * 8}


def test_parameters_are_whole_or_split_over_fsdp(eight):
    assert eight["embedding_shards"] == {"data": [[337, 16]], "fsdp": [[337, 4]]}[eight["layout"]]


def test_batches_that_do_not_split_are_one_line(files):
    assert [code for code, _ in files["refusals"]] == [2, 2]
    assert [errors for _, errors in files["refusals"]] == [
        "tracelift: Train.batch_size must be a multiple of the 8 data shards of the mesh, got 12\n",
        "tracelift: Evaluation.batch_size must be a multiple of the 8 data shards of the mesh, got 4\n",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
