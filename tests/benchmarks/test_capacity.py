"""The capacity table: rows that load and split, cells and places of the page; shapes are those of the models."""

import importlib.util
import json
import math
from pathlib import Path

import jax
import pytest

from tracelift_jax import gin_config
from tracelift_jax.config import Train
from tracelift_jax.models import build
from tracelift_jax.models.transformer import abstract_variables
from tracelift_jax.parallel.topology import UNREAD, find

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("capacity", ROOT / "benchmarks" / "capacity.py")
assert spec is not None and spec.loader is not None
capacity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(capacity)


@pytest.mark.parametrize("model", sorted(capacity.TENSOR))
def test_shapes_have_the_models_parameters(model):
    """As published, and as the file's header has it."""
    file = ROOT / "experiments" / "shapes" / f"{model}.gin"
    train = gin_config.load(Train, [str(file), capacity.RUN], fill=UNREAD).value
    shape = build.model_config(train.roles.base, 0)
    counted = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_variables(shape)["params"]))
    published = {
        "qwen2.5_0.5b": 494_032_768,
        "qwen2.5_1.5b": 1_543_714_304,
        "qwen2.5_7b": 7_615_616_512,
        "llama3.1_8b": 8_030_261_248,
        "llama3_70b": 70_553_706_496,
    }
    assert counted == published[model]
    assert f"({counted:,} parameters)" in file.read_text()


def test_every_row_loads_and_splits():
    rows = capacity.rows()
    assert len({row.key for row in rows}) == len(rows) == 35
    assert {row.machine for row in rows} == {*capacity.MACHINES, "v5e-64"}
    for row in rows:
        command = row.command()
        assert command[1:5] == ["-m", "tracelift_jax", "aot", "--json"]
        files, bindings, _ = gin_config.parse_flags(command[5:])
        train = gin_config.load(Train, files, bindings, fill=UNREAD).value
        mesh, chips = train.roles.mesh, find(row.machine).count
        assert chips == capacity.MACHINES.get(row.machine, chips)
        groups = chips // mesh.tensor
        assert (train.batch_size, train.optimizer.accumulate) == (row.batch, row.accumulate)
        assert train.batch_size // train.optimizer.accumulate % groups == 0
        assert train.roles.base.shape.kv_heads % mesh.tensor == 0


REPORT = {
    "mesh": {"data": 4, "fsdp": 1, "tensor": 4},
    "machine": {"memory": 16.9e9},
    "most": 9.14e9,
    "fits": True,
    "step_seconds": 4.0,
    "programs": [
        {"parts": [{"name": "write, decoding", "seconds": {"compute": 0.1, "memory": 2.7, "wires": 0.2}}]},
        {"parts": [{"name": "update", "seconds": {"compute": 1.0, "memory": 0.0, "wires": 0.0}}]},
    ],
}


def test_cells():
    row = capacity.Row("qwen2.5_7b", "v5e-16", "tensor4", 16, 4)
    expected = ["4 × 1 × 4", "16 / 4", "yes", "9.1 / 16.9", "4.00", "write, decoding, 75% (memory)"]
    assert capacity.cells(row, REPORT) == expected
    refused = REPORT | {"fits": False, "step_seconds": None}
    assert capacity.cells(row, refused)[2:] == ["**no**", "9.1 / 16.9", "-", "-"]


def test_tables_take_their_places(tmp_path):
    page = "a\n<!-- one: begin -->\nold\n<!-- one: end -->\nb\n"
    assert capacity.put(page, {"one": "| new |"}) == "a\n<!-- one: begin -->\n| new |\n<!-- one: end -->\nb\n"
    with pytest.raises(ValueError, match="the page has no <!-- two: begin -->"):
        capacity.put(page, {"two": ""})
    row = capacity.rows()[0]
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"key": row.key, "report": REPORT}) + "\n")
    found = capacity.tables(capacity.read(results))
    assert len(found["capacity"].splitlines()) == 3 + 2 and len(found["growth"].splitlines()) == 2 + 2
    assert found["capacity"].endswith("\n29 of 30 rows have not been compiled yet.")
    everything = capacity.tables({row.key: REPORT for row in capacity.rows()})
    assert len(everything["capacity"].splitlines()) == 2 + 30 and len(everything["growth"].splitlines()) == 2 + 6
    assert capacity.read(tmp_path / "none") == {}
    assert capacity.put(capacity.PAGE.read_text(), found).count(found["capacity"]) == 1
