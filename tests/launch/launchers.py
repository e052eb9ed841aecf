"""Launch scripts run for real, with a small program in place of tracelift, gcloud, kubectl, sbatch, srun, scontrol."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("gke", "gpu_node", "local_processes", "slurm", "tpu_vm")
NAMES = ("tracelift", "gcloud", "kubectl", "sbatch", "srun", "scontrol")

WORDS = (
    "train",
    "--gin.X=a b",
    "it's",
    '"q"',
    "$HOME $$ $(id) `id`",
    "",
    "\\",
    "*",
    "é",
    "@NAME@",
    "&;|<>#!~",
    "~",
    "=",
)
"""Arguments that a careless script would change. `LINES` is one more, which no manifest can hold."""
LINES = "two\nlines\n"

PROGRAM = '''#!{python} -SE
"""Writes down how it was called, then does what its plan says; the last step of a plan is repeated."""
import json, os, pathlib, shutil, signal, subprocess, sys, time

folder = pathlib.Path(os.environ["STAND_INS"])
name = pathlib.Path(sys.argv[0]).name
key = name
if name == "gcloud":
    key += "." + sys.argv[4]
if name == "tracelift" and "JAX_PROCESS_ID" in os.environ:
    key += "." + os.environ["JAX_PROCESS_ID"]
plan = folder / (key + ".json")
steps = json.loads(plan.read_text()) if plan.exists() else [{{}}]
record = folder / "record.jsonl"
seen = [json.loads(line)["key"] for line in record.read_text().splitlines()] if record.exists() else []
step = steps[min(seen.count(key), len(steps) - 1)]
text = sys.stdin.read() if name in ("sbatch", "kubectl") else ""

signals = []
def on_signal(number, frame):
    signals.append(number)
    with (folder / "signals.jsonl").open("a") as file:
        file.write(json.dumps([key, number]) + chr(10))
    if len(signals) > 1:
        os._exit(130)
if name == "tracelift":
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
environment = {{n: v for n, v in os.environ.items() if n.startswith(("JAX_", "XLA_", "CUDA_"))}}
call = {{"key": key, "argv": sys.argv[1:], "stdin": text, "environment": environment, "pid": os.getpid()}}
with record.open("a") as file:
    file.write(json.dumps(call) + chr(10))

print(step.get("out", ""), end="", flush=True)
if key == "gcloud.scp":
    shutil.copy(sys.argv[5], pathlib.Path(os.environ["HOME"]) / sys.argv[6].partition(":")[2])
if key == "gcloud.ssh" and "code" not in step:
    command = next(word.partition("=")[2] for word in sys.argv if word.startswith("--command="))
    sys.exit(subprocess.run(["sh", "-c", command], cwd=os.environ["HOME"]).returncode)  # as sshd does
if name == "srun":
    command = sys.argv[1:]
    while command[0].startswith("--"):
        command.pop(0)
    sys.exit(subprocess.run(command).returncode)
if name == "sbatch":
    sys.exit(subprocess.run(["bash"], input=text, text=True, env={{**os.environ, "SLURM_JOB_ID": "7"}}).returncode)
if step.get("hold"):
    deadline = time.monotonic() + 15
    while not signals:
        if time.monotonic() > deadline:
            sys.exit(99)
        time.sleep(0.01)
    time.sleep(step["hold"])  # it saves
sys.exit(step.get("code", 0))
'''


@dataclass(frozen=True)
class Ended:
    """What a script left: its exit code and what it printed."""

    code: int
    out: str
    err: str


class StandIns:
    """A folder of programs that are first on PATH, with their plans and the record of their calls."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.bin.mkdir(parents=True)
        self.home.mkdir()
        for name in NAMES:
            program = self.bin / name
            program.write_text(PROGRAM.format(python=sys.executable))
            program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a script is started with: the programs, a home of its own, nothing that names a cluster."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("JAX_", "XLA_", "SLURM_", "CUDA_"))}
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "STAND_INS": str(self.folder), "HOME": str(self.home)}

    def plan(self, key: str, *steps: dict[str, Any]) -> None:
        """What the calls of a program do, one each: {"out": text, "code": n, "hold": seconds behind a signal}."""
        (self.folder / f"{key}.json").write_text(json.dumps(steps))

    def calls(self, key: str = "") -> list[dict[str, Any]]:
        """The calls so far, in order; of programs whose key begins with `key`."""
        record = self.folder / "record.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        return [call for call in map(json.loads, lines) if call["key"].startswith(key)]

    def argv(self, key: str) -> list[list[str]]:
        """The arguments of each call."""
        return [call["argv"] for call in self.calls(key)]

    def signals(self) -> list[list[Any]]:
        """Who was told to stop, in order: [key, signal number]."""
        file = self.folder / "signals.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_calls(self, key: str, count: int) -> None:
        """Returns when a program has been called that often."""
        deadline = time.monotonic() + 15
        while len(self.calls(key)) < count:
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.01)

    def wait_for_signals(self, count: int) -> None:
        """Returns when so many signals have arrived."""
        deadline = time.monotonic() + 15
        while len(self.signals()) < count:
            assert time.monotonic() < deadline, self.signals()
            time.sleep(0.01)

    def start(self, script: str, *words: str, root: Path = ROOT) -> "subprocess.Popen[str]":
        """A script in a process group of its own, under way."""
        return subprocess.Popen(
            [str(root / "launch" / f"{script}.sh"), *words],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Where the tests run in a shell's background, Ctrl-C is ignored, and what is ignored cannot be trapped.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def launch(self, script: str, *words: str, root: Path = ROOT) -> Ended:
        """A script, to its end."""
        return ended(self.start(script, *words, root=root))

    def paste(self, text: str) -> Ended:
        """What a dry run printed, given to a shell."""
        done = subprocess.run(
            ["bash", "-eu"],
            input=text,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Waits for a script."""
    out, err = process.communicate(timeout=20)
    return Ended(process.returncode, out, err)
