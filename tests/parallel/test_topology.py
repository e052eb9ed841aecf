"""Machines by name, and what is said of names and environments that do not do."""

import importlib.util
import math

import pytest
from jax.experimental import topologies
from tiny import command

from tracelift_jax.errors import UserError
from tracelift_jax.parallel import topology
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.parallel.topology import CHIPS, find

HERE = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(
    ("name", "shape", "count", "chip"),
    [
        ("v5e:4x4", "v5e:4x4", 16, "v5e"),
        ("v5e-16", "v5e:4x4", 16, "v5e"),
        ("v5litepod-256", "v5e:16x16", 256, "v5e"),
        ("v6e-64", "v6e:8x8", 64, "v6e"),
        ("v5p-16", "v5p:2x2x2", 8, "v5p"),  # named by cores, two a chip
        ("v5p-64", "v5p:2x4x4", 32, "v5p"),
        ("v5p-512", "v5p:4x8x8", 256, "v5p"),
        ("v5p:4x4x16", "v5p:4x4x16", 256, "v5p"),
        ("h100-8", "v5p:2x2x2", 8, "h100"),
    ],
)
def test_machines(name, shape, count, chip):
    machine = find(name)
    assert (machine.topology, machine.count, machine.chip) == (shape, count, CHIPS[chip])
    assert machine.calculated == (chip == "h100")


@pytest.mark.parametrize("name", ["v5e-17", "v5p-12", "v4-8", "v5e:4x4x4", "v5p:4x4", "v5e:0x4", "v5e", "v5p-16x", ""])
def test_unknown_machines_are_refused_with_the_list(name):
    with pytest.raises(
        UserError, match=rf"^--topology={name}: no such machine; there are v5e-4 \(v5e:2x2\), .*v5p-16 "
    ):
        find(name)


def test_figures_of_chips():
    """The bidirectional total of all links, as the documentation has it."""
    for name, links, total in (("v5e", 4, 400e9), ("v5p", 6, 1200e9), ("v6e", 4, 800e9), ("h100", 1, 900e9)):
        assert 2 * links * CHIPS[name].link == total
    assert CHIPS["v5e"].memory / CHIPS["v5e"].bandwidth == pytest.approx(0.0206, abs=1e-4)


@pytest.mark.skipif(HERE, reason="libtpu is here")
def test_without_libtpu_one_line_says_what_to_install():
    outcome = command("aot", "--gin_file=experiments/dial/exec_only.gin", "--topology=v5e:4x4")
    assert outcome.code == 2
    assert outcome.errors.startswith("tracelift: compiling for TPUs needs libtpu: pip install 'tracelift_jax[aot]'")
    assert outcome.errors.count("\n") == 1


def test_a_bad_machine_is_told_before_anything_is_read():
    outcome = command("aot", "--gin_file=nowhere.gin", "--topology=v9:1x1")
    assert outcome.code == 2 and "v9:1x1: no such machine" in outcome.errors


@pytest.mark.skipif(not HERE, reason="no libtpu")
def test_a_shape_that_no_machine_has():
    topology.prepare()
    with pytest.raises(UserError, match=r"^--topology=v5e:3x5: "):
        topology.devices(find("v5e:3x5"))


@pytest.mark.skipif(not HERE, reason="no libtpu")
@pytest.mark.parametrize(
    ("name", "tensor"), [("v5e-16", 4), ("v5e-16", 8), ("v6e-64", 4), ("v6e-64", 2), ("v6e-64", 8), ("v5p-64", 8)]
)
def test_layers_are_shared_by_neighbours(name, tensor):
    """Also where they take a part of the torus's side: each group fills a box of chips."""
    topology.prepare()
    mesh = make_mesh(MeshConfig(tensor=tensor), topology.devices(find(name)))
    assert dict(mesh.shape) == {"data": find(name).count // tensor, "fsdp": 1, "tensor": tensor}
    assert len(set(mesh.devices.flat)) == find(name).count
    for group in mesh.devices.reshape(-1, tensor):
        corners = [[device.coords[axis] for device in group] for axis in range(3)]
        assert math.prod(max(side) - min(side) + 1 for side in corners) == tensor, corners


@pytest.mark.skipif(not HERE, reason="no libtpu")
def test_two_slices_lie_along_data():
    topology.prepare()
    devices = topologies.get_topology_desc("v5e:4x4", platform="tpu", num_slices=2).devices
    mesh = make_mesh(MeshConfig(tensor=4), devices)
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 4}
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}] * 4 + [{1}] * 4
