"""The study of docs/study.md: seven arms, four regimes, several seeds, and the tables they make.

    python experiments/dial/study/run.py --out=runs/study            # goes on where it stopped; a minute or two a run
    python experiments/dial/study/run.py --out=runs/study --write    # and puts the tables into docs/study.md
    python experiments/dial/study/run.py --out=runs/study --tables   # trains nothing; tables of what is there

It trains the executors that are not shipped, measures each regime before any training, and then trains
and measures one seed of all arms after the other. Each is a `tracelift` command in a process of its own. Ctrl-C and
SIGTERM stop at the next step with a checkpoint (exit code 75), and the same command goes on; what is done is not looked
at again.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from study_jobs import Taken, alone, do
from study_page import put, report
from study_plan import ARMS, HERE, REGIMES, ROOT, Settings, Study
from study_results import collect, keep
from study_stats import MOST

PAGE = ROOT / "docs" / "study.md"
MARKER = "study"
RESULTS = HERE / "results"


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
    parser.add_argument("--at_once", type=_count, default=1, metavar="N", help="jobs, on a share of the cores each; 1")
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores", help="what the page calls this one")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--write", action="store_true", help=f"tables into {PAGE.relative_to(ROOT)}, results beside me")
    args = parser.parse_args()
    if args.seeds > MOST:
        _refuse(f"--seeds={args.seeds}: at most {MOST}, whose signs are all tried")
    study = Study(args.out.resolve(), Settings(args.steps, args.problems, args.executor_steps))
    check_settings(study)
    code = 0
    if not args.tables:
        try:
            with alone(study.out):
                code = do(list(study.jobs(args.regimes, args.arms, args.seeds)), args.machine, args.at_once)
        except Taken as taken:
            _refuse(str(taken))
    collect(study, args.regimes, args.arms, args.seeds)
    text = report(study, args.regimes, args.arms, args.seeds)
    (study.out / "tables.md").write_text(text + "\n")
    print(study.out / "tables.md")
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), MARKER, text))
        keep(study, RESULTS)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
