"""What all launch scripts have in common: their help, wrong flags in one line, and shellcheck."""

import re
import shutil
import subprocess

import pytest
from launchers import ROOT, SCRIPTS

FIRST = {"local_processes": ("2",)}
NEEDED = {
    "gke": ("--name=a", "--image=i", "--topology=v5e:4x4", "--claim=c"),
    "tpu_vm": ("--name=a", "--zone=z"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_of_every_flag_and_no_other(stand_ins, script):
    done = stand_ins.launch(script, "--help")
    assert (done.code, done.err) == (0, "")
    text = (ROOT / "launch" / f"{script}.sh").read_text()
    declared = re.search(r"^flags=\((.*?)\)$", text, re.DOTALL | re.MULTILINE)
    assert declared is not None
    known = set(re.findall(r"\[(\w+)\]=", declared[1]))
    told = set(re.findall(r"^ {2}--(\w+)", done.out, re.MULTILINE)) | set(re.findall(r", --(\w+)=NAME", done.out))
    assert told == known
    assert f"launch/{script}.sh" in done.out
    defaults = {name: re.search(rf"^ {{2}}--{name}=(\S+)", done.out, re.MULTILINE) for name in known}
    for name, value in re.findall(r"\[(\w+)\]=([\w%.:-]+)", declared[1]):
        if value != "false" and name != "log":
            told_default = defaults[name]
            assert told_default is not None
            assert told_default[1] == value


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nmae=a", "--", "train"), "there is no flag --nmae; see --help"),
        (("--=a", "--", "train"), "there is no flag --; see --help"),
        (("--dry_run=yes", "--", "train"), "--dry_run takes no value"),
        (("train",), "did not expect 'train': tracelift's command goes behind --; see --help"),
        ((), "give tracelift's command behind --: -- train --gin_file=FILE --run_dir=FOLDER"),
        (("--",), "give tracelift's command behind --: -- train --gin_file=FILE --run_dir=FOLDER"),
        (("--", "tracelift", "train"), "leave out the word tracelift behind --"),
    ],
)
def test_wrong_flags_are_one_line_and_run_nothing(stand_ins, script, words, message):
    done = stand_ins.launch(script, *FIRST.get(script, ()), *NEEDED.get(script, ()), *words)
    assert (done.code, done.out, done.err) == (2, "", f"{script}.sh: {message}\n")
    assert stand_ins.calls() == []


@pytest.mark.parametrize(
    ("script", "flag"), [("gke", "name"), ("gpu_node", "wait"), ("slurm", "time"), ("tpu_vm", "zone")]
)
def test_a_flag_without_its_value(stand_ins, script, flag):
    done = stand_ins.launch(script, f"--{flag}", "value", "--", "train")
    assert (done.code, done.out, done.err) == (2, "", f"{script}.sh: --{flag} needs a value: --{flag}=VALUE\n")


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck")
    scripts = [ROOT / ".ci" / "run", *(ROOT / "tests").glob("*.sh"), *(ROOT / "launch").glob("*.sh")]
    assert len(scripts) >= 11
    done = subprocess.run([shellcheck, *map(str, scripts)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
