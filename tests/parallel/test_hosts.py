"""Data between hosts and the mesh, in one process and in two real ones with two devices each.

`python tests/parallel/test_hosts.py` is what each of the two runs.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from several import ends, start_all
from tiny import assert_same

from tracelift_jax.config import MeshConfig
from tracelift_jax.errors import UserError
from tracelift_jax.parallel import hosts, join
from tracelift_jax.parallel.mesh import make_mesh, replicated, split_batch
from tracelift_jax.train.stopping import Stopper

BATCH = {"a": np.arange(8 * 3, dtype=np.int32).reshape(8, 3), "b": np.arange(8) % 2 == 0}
MESHES = {
    "data": MeshConfig(),  # rows 0 to 3 and 4 to 7
    "tensor": MeshConfig(data=2, tensor=2),  # the same, each row on both devices of a process
    "across": MeshConfig(data=1, tensor=4),  # both processes hold all rows, and the first owns them
}


def in_two() -> dict[str, Any]:
    """What one of the two processes finds."""
    join.join()
    out: dict[str, Any] = {"first": hosts.first(), "alone": hosts.alone()}
    for name, config in MESHES.items():
        mesh = make_mesh(config)
        rows, placed = hosts.own_rows(mesh, 8), hosts.place_batch(BATCH, mesh)
        whole = hosts.whole(placed)
        taken = hosts.take_rows(placed, rows)
        out[name] = {
            "rows": rows,
            "taken": taken["a"].tolist(),
            "same": bool((whole["a"] == BATCH["a"]).all() and (whole["b"] == BATCH["b"]).all()),
            "combined": hosts.combine(hosts.at_rows(taken, rows, 8))["a"].tolist(),
        }
    mesh = make_mesh(MESHES["data"])
    keys = hosts.place_everywhere(jax.random.key(7), mesh)
    out["key"] = jax.random.key_data(keys).tolist()
    out["sum"] = hosts.combine({"x": np.array([1.5, jax.process_index()], np.float32)})["x"].tolist()
    spread = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("data")))
    out["whole"] = [np.asarray(x).tolist() for x in hosts.whole([spread, spread + 1, np.array(3)])]
    out["from first"] = [hosts.from_first(hosts.first()), hosts.from_first(not hosts.first())]
    out["agreed"] = []
    for problem in ("", "" if hosts.first() else "no room"):
        try:
            hosts.agree(problem)
            out["agreed"].append("yes")
        except UserError as error:
            out["agreed"].append(str(error))
    out["leaving"] = votes()
    return out


def votes() -> list[bool]:
    """Steps after which this process leaves where the second one is asked during the third."""
    found = []
    with Stopper(print) as stopper:
        for step in range(1, 6):
            if step == 3 and not hosts.first():
                stopper._asked = True  # as a signal does
            stopper.after_dispatch()
            found.append(stopper.leaving)
    return found


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    told = ends(start_all(2, 2, [str(Path(__file__))]))
    assert [code for code, _, _ in told] == [0, 0], told
    return [json.loads(output.partition("RESULT")[2]) for _, output, _ in told]


def test_each_row_has_one_owner(two):
    for name in MESHES:
        assert sorted(two[0][name]["rows"] + two[1][name]["rows"]) == list(range(8))
    assert [[each[name]["rows"] for each in two] for name in MESHES] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[0, 1, 2, 3, 4, 5, 6, 7], []],
    ]


def test_rows_are_taken_and_put_together_again(two):
    for each in two:
        for name in MESHES:
            assert each[name]["taken"] == [BATCH["a"][row].tolist() for row in each[name]["rows"]]
            assert each[name]["combined"] == BATCH["a"].tolist()
            assert each[name]["same"]


def test_both_hold_what_is_put_everywhere(two):
    key = jax.random.key_data(jax.random.key(7)).tolist()
    assert [each["key"] for each in two] == [key, key]
    assert [each["whole"] for each in two] == [[[0, 1, 2, 3], [1, 2, 3, 4], 3]] * 2


def test_sums_and_the_first_ones_word(two):
    assert [each["sum"] for each in two] == [[3.0, 1.0]] * 2
    assert [each["from first"] for each in two] == [[True, False]] * 2
    assert [(each["first"], each["alone"]) for each in two] == [(True, False), (False, False)]


def test_what_keeps_one_process_keeps_both(two):
    other = "another process of this run could not go on; what it printed says why"
    assert [each["agreed"] for each in two] == [["yes", other], ["yes", "no room"]]


def test_both_leave_after_the_step_behind_the_signal(two):
    assert [each["leaving"] for each in two] == [[False, False, False, True, True]] * 2


# ------------------------------------------------------------------------------------------------- in one process


def test_one_process_owns_and_takes_all():
    mesh = make_mesh(MeshConfig())
    rows, placed = hosts.own_rows(mesh, 8), hosts.place_batch(BATCH, mesh)
    assert rows == tuple(range(8))
    assert_same(hosts.take_rows(placed, rows), BATCH)
    assert_same(hosts.take_rows(placed, (6, 1)), {"a": BATCH["a"][[6, 1]], "b": BATCH["b"][[6, 1]]})
    assert_same(hosts.whole(placed), BATCH)
    assert placed["a"].sharding == split_batch(mesh)
    assert hosts.place_everywhere(BATCH, mesh)["a"].sharding == replicated(mesh)


def test_one_process_agrees_with_itself():
    assert_same(hosts.combine(BATCH), BATCH)
    hosts.agree("")
    with pytest.raises(UserError, match=r"^no room$"):
        hosts.agree("no room")
    assert [hosts.from_first(value) for value in (True, False)] == [True, False]


def test_places_in_zeros():
    put = hosts.at_rows(np.array([[5, 6], [7, 8]], np.int8), (3, 0), 4)
    assert (put.dtype, put.tolist()) == (np.int8, [[7, 8], [0, 0], [0, 0], [5, 6]])
    assert hosts.at_rows(np.zeros((0, 2), np.float32), (), 3).tolist() == [[0, 0]] * 3


if __name__ == "__main__":
    print("RESULT" + json.dumps(in_two()))
