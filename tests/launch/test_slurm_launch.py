"""SLURM: what is submitted, and the job that it becomes, run by stand-ins of sbatch, srun and scontrol."""

import pytest
from launchers import LINES, ROOT, WORDS


def options(stand_ins) -> list[str]:
    (argv,) = stand_ins.argv("sbatch")
    return argv


def test_one_process_for_each_gpu(stand_ins):
    done = stand_ins.launch("slurm", "--nodes=2", "--gpus=4", "--installed", "--", *WORDS, LINES)
    assert (done.code, done.err) == (0, "")
    assert options(stand_ins) == [
        "--job-name=tracelift",
        "--nodes=2",
        "--ntasks=8",
        "--ntasks-per-node=4",
        "--time=24:00:00",
        "--signal=TERM@120",
        "--requeue",
        "--open-mode=append",
        "--output=slurm-%x-%j.out",
        "--gpus-per-node=4",
    ]
    # no --gpus-per-task: each process sees all GPUs of its node, and jax gives it the one of its number
    assert stand_ins.argv("srun") == [["--kill-on-bad-exit=0", "tracelift", *WORDS, LINES]]
    assert stand_ins.argv("tracelift") == [[*WORDS, LINES]]
    assert stand_ins.calls("tracelift")[0]["environment"] == {}


def test_one_process_for_each_node_is_told_its_gpus(stand_ins):
    given = ("--nodes=3", "--gpus=2", "--tasks=node", "--cpus=24", "--partition=p", "--account=a b", "--time=1:00:00")
    assert stand_ins.launch("slurm", *given, "--grace=60", "--log=l/%j", "--installed", "--", "train").code == 0
    assert options(stand_ins) == [
        "--job-name=tracelift",
        "--nodes=3",
        "--ntasks=3",
        "--ntasks-per-node=1",
        "--time=1:00:00",
        "--signal=TERM@60",
        "--requeue",
        "--open-mode=append",
        "--output=l/%j",
        "--gpus-per-node=2",
        "--cpus-per-task=24",
        "--partition=p",
        "--account=a b",
    ]
    # srun does not take it from the job
    assert stand_ins.argv("srun") == [["--kill-on-bad-exit=0", "--cpus-per-task=24", "tracelift", "train"]]
    assert stand_ins.calls("tracelift")[0]["environment"] == {"JAX_LOCAL_DEVICE_IDS": "0,1"}


def test_nodes_without_gpus(stand_ins):
    assert stand_ins.launch("slurm", "--gpus=0", "--tasks=node", "--installed", "--", "train").code == 0
    assert not [option for option in options(stand_ins) if "gpu" in option]
    assert stand_ins.calls("tracelift")[0]["environment"] == {}


@pytest.mark.parametrize(("code", "again"), [(75, True), (0, False), (1, False), (2, False), (137, False)])
def test_75_puts_the_job_back_into_the_queue(stand_ins, code, again):
    stand_ins.plan("tracelift", {"code": code})
    assert stand_ins.launch("slurm", "--installed", "--", "train").code == code
    assert stand_ins.argv("scontrol") == ([["requeue", "7"]] if again else [])


@pytest.mark.parametrize(("restarts", "again"), [("1", True), ("2", False)])
def test_not_for_ever(stand_ins, monkeypatch, restarts, again):
    stand_ins.plan("tracelift", {"code": 75})
    dry = stand_ins.launch("slurm", "--installed", "--max_restarts=2", "--dry_run", "--", "train")
    assert stand_ins.paste(f"export SLURM_RESTART_COUNT={restarts}\n{dry.out}").code == 75
    assert stand_ins.argv("scontrol") == ([["requeue", "7"]] if again else [])


def test_the_setup_goes_ahead_of_the_run_in_the_same_shell(stand_ins):
    setup = "export JAX_SETUP='a b'\nmkdir made"
    assert stand_ins.launch("slurm", f"--setup={setup}", "--installed", "--", "train").code == 0
    assert stand_ins.calls("tracelift")[0]["environment"] == {"JAX_SETUP": "a b"}
    assert (stand_ins.folder / "made").is_dir()  # where the job was submitted


def test_a_dry_run_prints_the_job_and_pasted_it_does_the_same(stand_ins):
    given = ("--gpus=1", "--installed", "--", *WORDS, LINES, "\nEND\n")
    dry = stand_ins.launch("slurm", "--dry_run", *given)
    assert (dry.code, dry.err, stand_ins.calls()) == (0, "", [])
    assert stand_ins.launch("slurm", *given).code == 0
    (submitted,) = stand_ins.calls("sbatch")
    assert stand_ins.paste(dry.out).code == 0
    pasted = stand_ins.calls("sbatch")[1]
    assert (pasted["argv"], pasted["stdin"]) == (submitted["argv"], submitted["stdin"])
    assert stand_ins.argv("tracelift") == [[*WORDS, LINES, "\nEND\n"]] * 2


def test_the_project_s_own_environment_is_first_on_the_path(stand_ins):
    dry = stand_ins.launch("slurm", "--dry_run", "--", "train")
    lines = dry.out.splitlines()
    assert lines[0] == f"source {ROOT}/launch/env.sh && ensure_venv '[cuda]'"
    assert f"export PATH={ROOT}/.venv/bin:$PATH" in lines


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks=core",), "--tasks=core is neither gpu nor node"),
        (("--gpus=0",), "--tasks=gpu needs GPUs: give --gpus=..., or --tasks=node"),
        (("--nodes=0",), "--nodes=0: give at least one"),
        (("--gpus=eight",), "--gpus=eight is not a whole number"),
        (("--cpus=-1",), "--cpus=-1 is not a whole number"),
        (("--time=",), "give --time=...; see --help"),
    ],
)
def test_wrong_flags_are_one_line(stand_ins, flags, message):
    done = stand_ins.launch("slurm", *flags, "--", "train")
    assert (done.code, done.out, done.err) == (2, "", f"slurm.sh: {message}\n")
    assert stand_ins.calls() == []
