"""`tracelift aot`: what is compiled, what is said of it, and what of programs that move weights while they decode.

`python tests/train/test_aot.py FOLDER` compiles the models in FOLDER for eight virtual devices in several layouts and
prints what came of it.
"""

import dataclasses
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console
from tiny import ROOT, TASK, make_train, subprocess_environment, write_gin, write_models

from tracelift_jax import gin_config
from tracelift_jax.config import (
    CodeRewardConfig,
    DialCode,
    DialGroups,
    ExecutorServer,
    Frame,
    LoraConfig,
    MeshConfig,
    Model,
    OptimizerConfig,
    Prompts,
    RewardConfig,
    Sft,
    Shape,
    Train,
    TrainRm,
)
from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.parallel.mesh import Rules
from tracelift_jax.parallel.roofline import Collectives, Part, Work
from tracelift_jax.parallel.topology import CHIPS, UNREAD, Chip, Machine
from tracelift_jax.train.advice import advise
from tracelift_jax.train.aot import Compiled, Memory, Report, compile_experiment, wanted
from tracelift_jax.train.aot_show import run_aot, show, to_json
from tracelift_jax.train.programs import plan
from tracelift_jax.train.start import start

LORA = LoraConfig(rank=2, alpha=4.0)
CPU = Machine("eight", "v5e:2x4", Chip("a CPU", memory=1e9, flops=1e12, bandwidth=1e11, link=1e9, axes=2))
HERE = importlib.util.find_spec("libtpu") is not None
SHAPE = Shape(width=16, ff_width=24, layers=2, heads=2, kv_heads=2, head_width=8, vocab_size=352)


def split(mesh: MeshConfig, **changes: Any) -> Train:
    """Random models that split over a mesh."""
    roles = {
        "base": Model(shape=SHAPE, param_dtype="bfloat16", dtype="bfloat16", remat="none"),
        "tokenizer": "assets/dial/tokenizer",
        "reward_model": Model(shape=SHAPE, dtype="bfloat16", param_dtype="bfloat16"),
        "lora": LORA,
        "mesh": mesh,
    }
    return make_train(Path("nowhere"), roles=roles, batch_size=8, **changes)


def main(folder: str) -> None:
    out = {}
    layouts = {
        "fsdp": MeshConfig(data=2, fsdp=2, tensor=2),
        "fsdp while decoding": MeshConfig(data=2, fsdp=2, tensor=2, rollout=Rules()),
    }
    for name, mesh in layouts.items():
        report = compile_experiment(split(mesh), CPU, jax.devices(), lambda line: None)
        out[name] = to_json(report, [])
    lies = plan(split(MeshConfig(data=4, tensor=2)), jax.devices())  # what lies where is known before anything compiles
    out["data"] = {"resident": lies.resident, "copies_for_decoding": lies.moved}
    (Path(folder) / "reports.json").write_text(json.dumps(out))


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reports")
    arguments = [sys.executable, __file__, str(folder)]
    done = subprocess.run(arguments, cwd=ROOT, env=subprocess_environment(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "reports.json").read_text())


def collectives(report: dict[str, Any], decoding: bool, weights: bool) -> list[dict[str, Any]]:
    found = [one for program in report["programs"] for one in program["collectives"]]
    return [one for one in found if one["decoding"] == decoding and one["weights"] == weights]


def test_weights_that_move_in_a_decode_loop_are_found(reports):
    """Rollout rules that keep D split have every decode step gather weights; the default rules move them before."""
    ours, theirs = reports["fsdp"], reports["fsdp while decoding"]
    assert ours["weights_moved_in_decode_loops"] == 0 == len(collectives(ours, decoding=True, weights=True))
    assert theirs["weights_moved_in_decode_loops"] > 0
    assert {one["kind"] for one in collectives(theirs, decoding=True, weights=True)} >= {"all-gather"}
    assert collectives(ours, decoding=True, weights=False)  # tensor-parallel activations are added up all the same
    [layout, *_] = ours["programs"]
    assert layout["name"] == "lay out weights" and any(one["weights"] for one in layout["collectives"])
    assert theirs["copies_for_decoding"] < 0.2 * ours["copies_for_decoding"]  # the heads, which are whole everywhere


def test_what_lies_where(reports):
    """Base and reward model halve with each axis over which D or all else is split; norms and biases less so."""
    whole, halves = reports["data"], reports["fsdp"]
    assert halves["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    base = "base (executor, planner)"
    assert whole["copies_for_decoding"] == 0
    assert whole["resident"][base] < 2 * halves["resident"][base] < 1.2 * whole["resident"][base]
    # What decodes is whole over D: as much as there is of both models without fsdp.
    both = whole["resident"][base] + whole["resident"]["reward model's weights"]
    adapters = halves["copies_for_decoding"] - both
    assert 0 <= adapters < 0.2 * both


def test_parts_of_a_step(reports):
    """Stages by their names; decode loops as often as they run at most: 6 and 3 tokens, the first drawn before."""
    for report in (reports["fsdp"], reports["fsdp while decoding"]):
        [rollout] = [program for program in report["programs"] if program["name"] == "rollout"]
        assert rollout["loops_at_most"] == [2, 5]
        names = {part["name"]: part["flops"] for part in rollout["parts"] if part["flops"]}
        # What two stages have in common may bear no stage's name.
        assert names.pop("rollout", 0) < 0.1 * sum(names.values())
        assert set(names) == {"write", "write, decoding", "execute", "execute, decoding", "grade"}
        assert report["step_seconds"] == pytest.approx(
            sum(sum(part["seconds"].values()) for program in report["programs"] for part in program["parts"])
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def test_programs_of_other_experiments(folder):
    """With a host between executor and reward each function is a program; supervised runs have their update."""

    code = make_train(folder, roles={"task": DialCode(), "reward": CodeRewardConfig(), "prompt_tokens": 200})
    assert [p.name for p in plan(code, jax.devices()).programs] == ["write", "grade", "execute", "judge", "update"]
    server = ExecutorServer(base_url="http://localhost:1/v1", model="m")
    served = make_train(folder, roles={"executor_server": server, "reward": RewardConfig(uplift="sampled")})
    assert [p.name for p in plan(served, jax.devices()).programs] == ["write", "grade", "judge", "update"]
    model = Model(path=str(folder / "base"))
    for experiment in (
        Sft(task=TASK, tokenizer="assets/dial/tokenizer", model=model, prompt_tokens=30, branch_tokens=30),
        TrainRm(groups=DialGroups(), model=model, lora=LORA),
    ):
        planned = plan(experiment, jax.devices())
        assert [p.name for p in planned.programs] == ["update"]
        assert planned.resident == start(experiment, isinstance(experiment, TrainRm)).memory()
        compiled = planned.programs[0].lowered.compile()
        assert compiled.memory_analysis().argument_size_in_bytes > 0


def test_what_does_not_go_together_is_told():
    with pytest.raises(UserError, match="is not 1 devices"):
        plan(split(MeshConfig(tensor=2)), jax.devices()[:1])
    wordy = Prompts(planner=Frame(before="Thirty words " * 15))
    roles = dataclasses.replace(split(MeshConfig()).roles, prompts=wordy)
    with pytest.raises(UserError, match="have no room for the words around a problem; raise them"):
        plan(dataclasses.replace(split(MeshConfig()), roles=roles), jax.devices()[:1])


def test_a_model_without_path_and_shape_is_refused(folder):
    nothing = make_train(folder, roles={"base": Model(), "tokenizer": "assets/dial/tokenizer"})
    with pytest.raises(UserError, match=r"Model\.path is empty and Model\.shape is not set: give --gin\.BASE=DIR"):
        plan(nothing, jax.devices()[:1])


# ----------------------------------------------------------------------------------------------------- what is said


def program(name: str, alive: float, temporaries: float, **work: Any) -> Compiled:
    part = Part(name, name == "rollout", 1e12, 1e9, 0.0, {"compute": 1.0, "memory": 2.0, "wires": 0.0})
    done = Work(parts=[part], collectives=work.get("collectives", []), arguments=0.0, loops=[], kernels=0)
    return Compiled(name, 1.0, Memory(int(alive), 0, int(temporaries), 0, 0), done)


def report(experiment: Train, *programs: Compiled, memory: float = 10e9, moved: int = 0, tensor: int = 1) -> Report:
    shape = dataclasses.replace(model_config(experiment), heads=8, kv_heads=4, width=64)
    machine = dataclasses.replace(CPU, chip=dataclasses.replace(CPU.chip, memory=memory))
    mesh = {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
    kept = {"base (executor, planner)": int(6e9), "optimizer": int(1e9)}
    return Report(machine, mesh, experiment.batch_size, kept, int(6e9), moved, 0, [shape], programs)


def model_config(experiment: Train):
    return build.model_config(experiment.roles.base, 300)


def test_fitting_leaves_a_margin():
    train = split(MeshConfig())
    assert report(train, program("update", 7e9, 2.4e9)).fits
    assert not report(train, program("update", 7e9, 2.6e9)).fits  # 9.6 of 10, of which 0.5 stay free
    refused = dataclasses.replace(program("update", 7e9, 0), memory=None, work=None, refused="no", wanted=int(5e9))
    assert not report(train, refused).fits and report(train, refused).step_seconds is None
    assert report(train, refused).most == 5e9


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G.", 20.5 * 2**30),
        ("the total memory required for HLO temporaries (400.00G) exceeds available HBM (15.75G).", 400 * 2**30),
        ("Used 512.0M of 1.00M vmem", 2**29),
        ("no", 0),
    ],
)
def test_what_a_refused_program_wants(message, size):
    assert wanted(message) == size


def test_advice_by_hand():
    """An update with 4 GB of temporaries on 7 GB alive, of which 6 are weights; 8 problems, one a device."""
    train = dataclasses.replace(split(MeshConfig()), batch_size=32)
    told = report(train, program("rollout", 7e9, 1e9), program("update", 7e9, 4e9))
    lines = advise(train, told)
    assert sorted(lines) == [
        "MeshConfig.tensor = 2: about 7.5 GB",  # 7/2 + 4
        "OptimizerConfig.accumulate = 2: about 9.0 GB",  # 7 + 4/2
        "Train.batch_size = 16: about 9.0 GB",
    ]
    # Four problems a micro-batch do not split over 8 devices, nor 4 key-value heads over 8.
    few = dataclasses.replace(train, optimizer=OptimizerConfig(accumulate=4))
    told = report(few, program("rollout", 7e9, 1e9), program("update", 7e9, 4e9))
    assert [line.partition(":")[0] for line in advise(few, told)] == ["MeshConfig.tensor = 2"]
    # 7/4 + twice 6 while copies whole over D are laid out, more than the update's 7/4 + 9; with 2 it is 15.5.
    roomy = report(few, program("rollout", 7e9, 1e9), program("update", 7e9, 9e9), memory=16e9)
    assert advise(few, roomy) == ["MeshConfig.fsdp = 4: about 13.8 GB", "MeshConfig.tensor = 2: about 12.5 GB"]
    assert advise(train, report(train, program("update", 1e9, 1e9))) == []


def test_advice_where_nothing_is_enough():
    train = split(MeshConfig())
    lines = advise(train, report(train, program("rollout", 60e9, 1e9), program("update", 60e9, 1e9)))
    assert lines[-1] == "more chips, or chips with more memory"
    assert lines[0].startswith("MeshConfig.tensor = 4: about 16.0 GB, not enough alone")


def test_what_people_read():
    train = split(MeshConfig())
    moving = Collectives("all-gather", True, True, 3, 3000, 7e9)
    bad = report(train, program("rollout", 7e9, 2e9, collectives=[moving]), program("update", 7e9, 4e9))
    console = Console(record=True, width=120, file=io.StringIO())
    show(bad, ["something: about 9.0 GB"], console)
    text = console.export_text()
    assert "eight: 8 x a CPU, calculated from a program for v5e:2x4, 10.0 GB each" in text
    assert "a step takes at least 6.00 s by the chip's published figures, of which rollout, decoding 3.00 s" in text
    assert "3 collectives move weights inside a decode loop" in text
    assert "does not fit: 11.0 GB of 10.0 GB" in text and "change something: about 9.0 GB" in text
    data = json.loads(json.dumps(to_json(bad, [])))
    assert data["weights_moved_in_decode_loops"] == 3 and data["fits"] is False
    assert (data["machine"]["name"], data["machine"]["chip"], data["machine"]["chips"]) == (
        "eight",
        "a CPU",
        8,
    ) and data["programs"][0]["memory"]["temporaries"] == 2e9


@pytest.mark.parametrize(("memory", "fits"), [(1e9, True), (1e5, False)])
def test_the_command_on_the_device_at_hand(folder, capsys, memory, fits):
    machine = dataclasses.replace(CPU, chip=dataclasses.replace(CPU.chip, memory=memory))
    train = make_train(folder, roles={"lora": LORA})
    assert run_aot(train, machine, jax.devices()[:1], as_json=True) == fits
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["fits"] == fits and bool(data["advice"]) != fits
    assert captured.err.splitlines() == ["tracing for 8 x a CPU", "compiling rollout", "compiling update"]


# ------------------------------------------------------------------------------------------------------ with libtpu


def aot(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tracelift_jax", "aot", "--json", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(not HERE, reason="no libtpu")
def test_a_small_model_on_a_tpu(folder):
    code, data = aot(f"--gin_file={write_gin(folder)}", "--topology=v5e:2x2")
    assert code == 0 and data["fits"] and data["weights_moved_in_decode_loops"] == 0
    assert data["machine"]["memory"] == CHIPS["v5e"].memory
    [rollout, update] = data["programs"]
    assert rollout["loops_at_most"] == [2, 5] and update["memory"]["alive"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="no libtpu")
@pytest.mark.parametrize(("machine", "mesh", "parts"), [("v5e:4x4", "tensor4", 4), ("v5p-16", "tensor1", 2)])
def test_seven_billion_parameters(machine, mesh, parts):
    """The paper's run on 16 chips of v5e and 8 of v5p: it fits, and no decode step waits for weights."""
    files = ("shapes/qwen2.5_7b", "gsm8k/tracelift", f"meshes/{mesh}")
    run = (*(f"--gin_file=experiments/{file}.gin" for file in files), f"--gin.ACCUMULATE={parts}")
    code, data = aot(f"--topology={machine}", *run)
    assert code == 0 and data["fits"]
    assert data["weights_moved_in_decode_loops"] == 0
    assert data["compile_seconds"] < 300
    per_chip = 4 if mesh == "tensor4" else 1
    assert data["resident"]["base (executor, planner)"] == pytest.approx(15.23e9 / per_chip, rel=0.01)


def test_macros_that_files_ask_for():
    """Data and weights need not be named; anything else that a file asks for still does."""
    files = ["experiments/shapes/qwen2.5_0.5b.gin", "experiments/gsm8k/tracelift.gin"]
    grader = gin_config.load(Train, files, fill=UNREAD).value.roles.reward_model
    assert isinstance(grader, Model) and grader.path == "" and grader.shape.width == 896
    with pytest.raises(UserError, match="GRADER has no value"):
        gin_config.load(Train, files, fill={"TRAIN": "x", "TEST": "x"})
    given = gin_config.load(Train, files, ["GRADER=there"], fill=UNREAD).value.roles.reward_model
    assert isinstance(given, Model) and given.path == "there"


if __name__ == "__main__":
    main(sys.argv[1])
