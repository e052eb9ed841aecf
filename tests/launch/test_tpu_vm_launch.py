"""TPU VMs: what the workers are told, run by a stand-in of gcloud; preemption, restarts, stopping."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launchers import LINES, ROOT, WORDS, ended

AT = ("--name=pod", "--zone=z")
QUICK = (*AT, "--wait=0")
NEW = (*QUICK, "--create", "--type=v5litepod-16", "--version=v2-alpha-tpuv5-lite")
READY = {"out": "READY\n"}
MISSING = {"code": 1}
CREATE = ["create", "pod", "--zone=z", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"]


@pytest.fixture
def root(stand_ins) -> Path:
    """A checkout with the launchers alone, and a worker's home in which the project is installed."""
    for program in ("git", "flock"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    root = stand_ins.folder / "check out"
    shutil.copytree(ROOT / "launch", root / "launch")
    shutil.copy(ROOT / "setup.cfg", root)
    (root / ".gitignore").write_text(".cache/\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=root, check=True)
    installed = stand_ins.home / "tracelift_jax" / ".venv" / "bin"
    installed.mkdir(parents=True)
    shutil.copy(stand_ins.bin / "tracelift", installed / "tracelift")
    shutil.copy(stand_ins.bin / "tracelift", installed / "python")  # never called: the installation is there
    (installed.parent / ".installed-tpu-").touch()
    stand_ins.plan("gcloud.describe", READY)
    return root


def verbs(stand_ins) -> list[str]:
    return [call["argv"][3] for call in stand_ins.calls("gcloud")]


def test_the_workers_get_the_words_as_given(stand_ins, root):
    done = stand_ins.launch("tpu_vm", *AT, "--project=p", "--internal_ip", "--", *WORDS, LINES, root=root)
    assert (done.code, done.err) == (0, "")
    describe, scp, ssh = (argv[3:] for argv in stand_ins.argv("gcloud"))
    everyone = ["--zone=z", "--project=p", "--worker=all", "--internal-ip"]
    assert describe == ["describe", "pod", "--zone=z", "--project=p", "--format=value(state)"]
    assert scp == ["scp", ".cache/launch/pod.tar.gz", "pod:tracelift_jax.tar.gz", *everyone]
    assert ssh[:-1] == ["ssh", "pod", *everyone]
    assert stand_ins.argv("tracelift") == [[*WORDS, LINES]]


def test_what_is_committed_goes_along_and_nothing_else(stand_ins, root):
    (root / "setup.cfg").write_text("changed")
    (root / "untracked").touch()
    (stand_ins.home / "tracelift_jax" / "kept").touch()
    done = stand_ins.launch("tpu_vm", *AT, "--", "train", root=root)
    assert (done.code, done.err) == (0, "tpu_vm.sh: changes that are not committed do not go along\n")
    there = stand_ins.home / "tracelift_jax"
    assert (there / "setup.cfg").read_text() == (ROOT / "setup.cfg").read_text()
    assert (there / "kept").exists()
    assert not (there / "untracked").exists()


def test_the_setup_runs_ahead_of_it_in_the_same_shell(stand_ins, root):
    setup = "export JAX_SETUP='it'\"'\"'s'\nmkdir -p made  # the end"
    assert stand_ins.launch("tpu_vm", *AT, f"--setup={setup}", "--", "train", root=root).code == 0
    assert stand_ins.calls("tracelift")[0]["environment"] == {"JAX_SETUP": "it's"}
    assert (stand_ins.home / "tracelift_jax" / "made").is_dir()


def test_a_setup_that_fails_ends_it(stand_ins, root):
    assert stand_ins.launch("tpu_vm", *QUICK, "--setup=false\ntrue", "--", "train", root=root).code == 1
    assert stand_ins.calls("tracelift") == []


def test_what_the_setup_leaves_running_does_not_hold_the_worker(stand_ins, root):
    setup = "sleep 4 >/dev/null 2>&1 &"  # a mount's process, say
    for _ in range(2):
        assert stand_ins.launch("tpu_vm", *AT, f"--setup={setup}", "--", "train", root=root).code == 0
    lock = stand_ins.home / "tracelift_jax" / ".launch.lock"
    assert subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode == 0


def test_a_run_waits_for_the_one_before_it_on_its_worker(stand_ins, root):
    lock = stand_ins.home / "tracelift_jax" / ".launch.lock"
    with subprocess.Popen(["flock", str(lock), "sleep", "1"]):
        assert (
            stand_ins.launch(
                "tpu_vm", *AT, "--setup=flock -n .launch.lock true || mkdir mine", "--", "train", root=root
            ).code
            == 0
        )
    assert (stand_ins.home / "tracelift_jax" / "mine").is_dir()


def test_75_starts_it_again_with_a_look_at_the_machine(stand_ins, root):
    stand_ins.plan("tracelift", {"code": 75}, {"code": 0})
    done = stand_ins.launch("tpu_vm", *QUICK, "--", "train", root=root)
    assert done.code == 0
    assert verbs(stand_ins) == ["describe", "scp", "ssh"] * 2
    assert done.err == "tpu_vm.sh: was stopped; starts again in 0 s (restart 1)\n"


@pytest.mark.parametrize(("code", "looks"), [(0, 1), (2, 1), (1, 2), (134, 2)])
def test_nothing_else_starts_it_again_while_the_machine_is_there(stand_ins, root, code, looks):
    stand_ins.plan("tracelift", {"code": code})
    assert stand_ins.launch("tpu_vm", *QUICK, "--", "train", root=root).code == code
    assert len(stand_ins.calls("tracelift")) == 1
    assert verbs(stand_ins).count("describe") == looks


def test_a_preempted_machine_is_made_again(stand_ins, root):
    stand_ins.plan("gcloud.describe", MISSING, READY, {"out": "PREEMPTED\n"}, {"out": "PREEMPTED\n"}, MISSING, READY)
    stand_ins.plan("gcloud.create", {}, {"code": 1}, {})
    stand_ins.plan("gcloud.ssh", {"code": 255}, {})
    done = stand_ins.launch("tpu_vm", *NEW, "--spot", "--", "train", root=root)
    assert done.code == 0
    assert verbs(stand_ins) == [
        *("describe", "create", "describe", "scp", "ssh"),
        "describe",  # the connection was lost: because the machine was
        *("describe", "delete", "describe", "create", "describe", "scp", "ssh"),
    ]
    assert stand_ins.argv("gcloud.create")[0][3:] == [*CREATE, "--spot"]
    assert stand_ins.argv("gcloud.delete")[0][3:] == ["delete", "pod", "--zone=z", "--quiet"]


def test_a_first_machine_that_cannot_be_made_is_not_asked_for_again(stand_ins, root):
    stand_ins.plan("gcloud.describe", MISSING)
    stand_ins.plan("gcloud.create", {"code": 1})
    assert stand_ins.launch("tpu_vm", *NEW, "--", "train", root=root).code == 1
    assert verbs(stand_ins) == ["describe", "create"]


def test_a_lost_machine_is_asked_for_so_many_times(stand_ins, root):
    stand_ins.plan("gcloud.describe", {"out": "TERMINATED\n"}, MISSING)
    stand_ins.plan("gcloud.create", {"code": 1})
    done = stand_ins.launch("tpu_vm", *NEW, "--max_restarts=2", "--", "train", root=root)
    assert done.code == 1
    assert verbs(stand_ins).count("create") == 3
    assert "could not make pod again" in done.err


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"out": "PREEMPTED\n"}, "pod is PREEMPTED: make it again and give the same command, or give --create"),
        (MISSING, "there is no TPU VM pod in z, or gcloud cannot say; see --create"),
    ],
)
def test_nothing_is_made_unasked(stand_ins, root, state, message):
    stand_ins.plan("gcloud.describe", state)
    done = stand_ins.launch("tpu_vm", *QUICK, "--", "train", root=root)
    assert (done.code, done.err) == (1, f"tpu_vm.sh: {message}\n")
    assert verbs(stand_ins) == ["describe"]


def test_it_waits_for_a_machine_that_starts(stand_ins, root):
    stand_ins.plan("gcloud.describe", {"out": "CREATING\n"}, {"out": "REPAIRING\n"}, READY)
    assert stand_ins.launch("tpu_vm", *QUICK, "--", "train", root=root).code == 0
    assert verbs(stand_ins) == ["describe"] * 3 + ["scp", "ssh"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_asks_the_workers(stand_ins, root, number):
    stand_ins.plan("tracelift", {"hold": 0.3, "code": 75})
    process = stand_ins.start("tpu_vm", *QUICK, "--", "train", root=root)
    stand_ins.wait_for_calls("tracelift", 1)
    process.send_signal(number)
    done = ended(process)
    assert (done.code, done.err) == (75, "tpu_vm.sh: asks the workers to stop\n")
    assert stand_ins.signals() == [["tracelift", signal.SIGTERM]]
    assert verbs(stand_ins) == ["describe", "scp", "ssh", "ssh"]
    assert stand_ins.argv("gcloud.ssh")[1][3:-1] == ["ssh", "pod", "--zone=z", "--worker=all"]


def test_asked_twice_it_ends_the_workers(stand_ins, root):
    stand_ins.plan("tracelift", {"hold": 10, "code": 75})
    process = stand_ins.start("tpu_vm", *QUICK, "--", "train", root=root)
    stand_ins.wait_for_calls("tracelift", 1)
    for count in (1, 2):
        process.send_signal(signal.SIGTERM)
        stand_ins.wait_for_signals(count)
    assert ended(process).code == 130


def test_a_dry_run_prints_all_of_it_and_pasted_it_runs(stand_ins, root):
    dry = stand_ins.launch("tpu_vm", *NEW, "--dry_run", "--", *WORDS, LINES, root=root)
    assert (dry.code, dry.err, stand_ins.calls()) == (0, "", [])
    assert not (root / ".cache").exists()
    lines = dry.out.splitlines()
    assert lines[0] == f"cd '{root}'"
    assert [line.split()[4] for line in lines if line.startswith("gcloud")] == [
        *("describe", "delete", "create", "scp", "ssh")
    ]
    assert stand_ins.paste(dry.out).code == 0
    pasted = stand_ins.argv("gcloud")
    assert stand_ins.argv("tracelift") == [[*WORDS, LINES]]
    assert stand_ins.launch("tpu_vm", *NEW, "--", *WORDS, LINES, root=root).code == 0
    assert stand_ins.argv("gcloud")[len(pasted) :] == [pasted[0], *pasted[3:]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--name=pod",), "give --zone=...; see --help"),
        ((*AT, "--create", "--type=v5litepod-16"), "give --version=...; see --help"),
        ((*AT, "--type=v5litepod-16"), "--type and --version are for --create"),
        ((*AT, "--spot"), "--spot is for --create"),
        (("--name=a/../b", "--zone=z"), "--name=a/../b: lower-case letters, digits and hyphens"),
        ((*AT, "--wait=soon"), "--wait=soon is not a whole number"),
    ],
)
def test_wrong_flags_are_one_line(stand_ins, flags, message):
    done = stand_ins.launch("tpu_vm", *flags, "--", "train")
    assert (done.code, done.out, done.err) == (2, "", f"tpu_vm.sh: {message}\n")
    assert stand_ins.calls() == []


def test_gcloud_itself_knows_every_flag(stand_ins, root):
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("no gcloud")
    dry = stand_ins.launch(
        "tpu_vm", *NEW, "--spot", "--project=p", "--internal_ip", "--dry_run", "--", "train", root=root
    )
    assert stand_ins.paste(dry.out).code == 0
    commands = [["gcloud", *argv] for argv in stand_ins.argv("gcloud")]
    # what the workers run is one word to gcloud, whatever is in it
    words = [[word.partition("=")[0] + "=x" if word.startswith("--command=") else word for word in c] for c in commands]
    file = stand_ins.folder / "commands.json"
    file.write_text(json.dumps([{"command_string": " ".join(command)} for command in words]))
    checked = subprocess.run(
        [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env={**stand_ins.environment, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if checked.returncode != 0:
        pytest.skip("this gcloud does not check commands")
    verdicts = json.loads(checked.stdout)
    assert [(v["success"], v["error_message"]) for v in verdicts] == [(True, None)] * len(commands)
