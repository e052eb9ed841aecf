"""Programs a second: each in a box of its own, against a plain `python3` started for each.

    python benchmarks/sandbox_speed.py

Both run by as many threads as there are cores, in turns of a few dozen programs, so that what else the machine does
meets both alike. Printed are the medians of the turns; the ratio is the median of the ratios of neighbouring turns.
"""

import argparse
import concurrent.futures
import functools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tracelift_jax.tasks.sandbox import Limits, Pool, Program, SandboxConfig, open_pool
from tracelift_jax.tasks.sandbox.mounts import interpreter

FUNCTION = "def double(x):\n    return 2 * x\n\n"
MAIN = "print(double(int(input())))\n"
CHECK = "assert double(4) == 8\n"
LIMITS = Limits(seconds=10.0)

WAYS = {"python3": (), "python3 -I -S": ("-I", "-S")}
"""A plain start, and one without what is installed beside the standard library: a box starts that way."""

CASES = {
    "1 input": (Program(FUNCTION + MAIN, inputs=("4",)), 1),
    "10 inputs": (Program(FUNCTION + MAIN, inputs=("4",) * 10), 10),
    "3 checks": (Program(FUNCTION, checks=(CHECK,) * 3), 3),
}


def plain(folder: Path, arguments: tuple[str, ...], program: Program) -> None:
    """What one would do without a sandbox: a file, and an interpreter for each input or check."""
    command = [interpreter(), *arguments]
    for text in program.inputs:
        subprocess.run([*command, folder / "program.py"], input=text, capture_output=True, text=True, check=True)
    for _ in program.checks:
        subprocess.run([*command, folder / "checked.py"], capture_output=True, check=True)


def seconds(run: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(pool: Pool, threads: concurrent.futures.Executor, folder: Path, programs: list[Program], turns: int) -> str:
    """Cells of the table for one kind of program: rates, and how often the first is the others."""
    ends = {run.status for runs in pool.run(programs, LIMITS) for run in runs}
    assert ends == {"ok"}, ends
    rates: list[list[float]] = []
    for _ in range(turns):
        took = [seconds(lambda: pool.run(programs, LIMITS))]
        for arguments in WAYS.values():
            start = functools.partial(plain, folder, arguments)
            took.append(seconds(lambda start=start: list(threads.map(start, programs))))
        rates.append([len(programs) / each for each in took])
    medians = [statistics.median(column) for column in zip(*rates, strict=True)]
    ratios = [statistics.median(row[0] / row[i] for row in rates) for i in range(1, len(medians))]
    return " | ".join([*(f"{rate:.1f}" for rate in medians), *(f"{ratio:.2f}" for ratio in ratios)])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--programs", type=int, default=40, help="in a turn")
    flags = parser.parse_args()
    config = SandboxConfig()
    print(f"{config.threads} cores; {flags.turns} turns of {flags.programs} programs; programs a second")
    print(f"| each has | in boxes | {' | '.join(WAYS)} | {' | '.join(f'boxes / {way}' for way in WAYS)} |")
    print(f"|---|{'---:|' * (1 + 2 * len(WAYS))}")
    with (
        tempfile.TemporaryDirectory() as name,
        open_pool(config) as pool,
        concurrent.futures.ThreadPoolExecutor(config.threads) as threads,
    ):
        folder = Path(name)
        (folder / "program.py").write_text(FUNCTION + MAIN)
        (folder / "checked.py").write_text(FUNCTION + CHECK)
        for case, (program, runs) in CASES.items():
            programs = [program] * max(config.threads, flags.programs // runs)
            print(f"| {case} | {compare(pool, threads, folder, programs, flags.turns)} |", flush=True)


if __name__ == "__main__":
    main()
