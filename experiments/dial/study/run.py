"""The study of docs/study.md: five arms, two regimes, several seeds, and the tables they make.

    python experiments/dial/study/run.py --out=runs/study            # goes on where it stopped; about 3 minutes a run
    python experiments/dial/study/run.py --out=runs/study --write    # and puts the tables into docs/study.md
    python experiments/dial/study/run.py --out=runs/study --tables   # trains nothing; tables of what is there

It trains the executors that are not shipped, measures both regimes before any training, and then trains
and measures one seed of all arms after the other. Each is a `tracelift` command in a process of its own. Ctrl-C and
SIGTERM stop at the next step with a checkpoint (exit code 75), and the same command goes on; what is done is not looked
at again.
"""

import argparse
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from study_page import put, report
from study_plan import ARMS, REGIMES, ROOT, Job, Settings, Study
from study_stats import MOST

PAGE = ROOT / "docs" / "study.md"
MARKER = "study"
STOPPED = 75
"""A command's exit code where it was asked to stop and left with a checkpoint."""


class Stopping:
    """Passes the first Ctrl-C or SIGTERM on to the command that runs, and remembers it; a context.

    Commands are in process groups of their own, so that Ctrl-C reaches them once: a second one would end them at once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def run(self, job: Job) -> int:
        """Runs a job to its end, or to where it stops; its exit code, or STOPPED if it was not to begin."""
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self.process = subprocess.Popen(
                job.argv(), cwd=ROOT, stdout=log, stderr=log, process_group=0, env=_environment()
            )
            if self.asked:  # it came before the command was known
                self.process.send_signal(signal.SIGTERM)
            return self.process.wait()


def _environment() -> dict[str, str]:
    """With a cache of compiled programs: what one run has compiled, the next one loads."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return cache | os.environ


def check_settings(study: Study) -> None:
    """Writes the settings into the study's folder, or compares them with those that are there.

    Exits with a line and code 2 where they differ.
    """
    file, mine = study.out / "settings.json", dataclasses.asdict(study.settings)
    if not file.exists():
        study.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine) + "\n")
    there = json.loads(file.read_text())
    if there != mine:
        _refuse(f"{study.out}: holds a study with {there}, asked for is {mine}; choose another --out")


def _refuse(why: str) -> NoReturn:
    print(f"run.py: {why}", file=sys.stderr)
    raise SystemExit(2)


def do(jobs: Sequence[Job], machine: str) -> int:
    """Runs what is not done yet, in order; the exit code: 0, STOPPED, or 1 where a command failed.

    Args:
        machine: what the page calls the one that did it.
    """
    left = [job for job in jobs if not job.stamp.exists()]
    with Stopping() as stopping:
        for number, job in enumerate(left):
            print(f"{number + 1} of {len(left)}: {job.command[0]} {job.path}", flush=True)
            began = time.monotonic()
            code = stopping.run(job)
            if code == STOPPED or stopping.asked:
                print("stopped; the same command goes on", flush=True)
                return STOPPED
            if code:
                print(f"exit code {code}: {' '.join(job.argv())}; it printed {job.log}:", file=sys.stderr)
                print("\n".join(job.log.read_text().splitlines()[-5:]), file=sys.stderr)
                return 1
            about = {"seconds": round(time.monotonic() - began), "date": f"{datetime.date.today()}", "machine": machine}
            job.stamp.write_text(json.dumps(about) + "\n")
    return 0


def _names(known: Sequence[str]):
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return [name for name in known if name in names]

    return read


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def main() -> None:
    """Does what is left to do, and makes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="where all of it is kept; runs/study")
    parser.add_argument("--seeds", type=_count, default=5, metavar="N", help=f"seeds of each arm, at most {MOST}; 5")
    parser.add_argument("--arms", type=_names(list(ARMS)), default=list(ARMS), metavar="A,B", help=", ".join(ARMS))
    parser.add_argument(
        "--regimes", type=_names(list(REGIMES)), default=list(REGIMES), metavar="R", help=", ".join(REGIMES)
    )
    parser.add_argument("--steps", type=_count, default=Settings.steps, metavar="N", help="of each planner; 110")
    parser.add_argument("--problems", type=_count, default=Settings.problems, metavar="N", help="held-out ones; 256")
    parser.add_argument("--executor_steps", type=_count, default=0, metavar="N", help="of the executors; their own")
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores", help="what the page calls this one")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)} too")
    args = parser.parse_args()
    if args.seeds > MOST:
        _refuse(f"--seeds={args.seeds}: at most {MOST}, whose signs are all tried")
    study = Study(args.out.resolve(), Settings(args.steps, args.problems, args.executor_steps))
    check_settings(study)
    code = 0 if args.tables else do(list(study.jobs(args.regimes, args.arms, args.seeds)), args.machine)
    text = report(study, args.regimes, args.arms, args.seeds)
    (study.out / "tables.md").write_text(text + "\n")
    print(study.out / "tables.md")
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), MARKER, text))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
