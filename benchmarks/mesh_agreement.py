"""Trains the dial world's planner on several meshes and counts how far their metrics are apart.

    python benchmarks/mesh_agreement.py               # five steps on five meshes, about ten minutes on two cores
    python benchmarks/mesh_agreement.py --steps=2 --meshes 1x1x1 2x2x2 --out=FOLDER

Each run is `tracelift train --gin_file=experiments/dial/tracelift.gin` in processes of its own, with virtual CPU
devices: one device, eight as data x fsdp x tensor, and two processes of four. All draw the same problems and, as long
as no two candidates for a token are closer than rounding, the same tokens. Numbers differ in their last places: sums
over a batch, or in projections split over devices, are added up in another order. What differs grows with every
update.

Exit code 1: other tokens were drawn, or a metric is further off than TOLERANCE of its size in the first run, or of
TINY where it is smaller: the loss of a policy that has not moved is nothing but rounding.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE, TINY = 2e-4, 1e-2
MESHES = {
    "1x1x1": (1, (1, 1, 1)),
    "8x1x1": (1, (8, 1, 1)),
    "2x2x2": (1, (2, 2, 2)),
    "1x4x2": (1, (1, 4, 2)),
    "2 processes, 2x2x2": (2, (2, 2, 2)),
}
"""(processes, data x fsdp x tensor) by name."""
RULES = (
    "Roles.mesh=@config.MeshConfig()",
    "MeshConfig.rules=@config.Rules()",
    "Rules.vocab=''",  # V = 337 is odd
)


def environment(processes: int, number: int, devices: int, address: str) -> dict[str, str]:
    """Of one process, with its share of virtual devices."""
    threads = {"NPROC": "64", "PJRT_NPROC": "64"}  # virtual devices wait for each other in threads, more than cores
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}"}
    told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(number)}
    return os.environ | {"JAX_PLATFORMS": "cpu"} | threads | flags | told


def train(name: str, run_dir: Path, steps: int) -> None:
    """Runs one mesh to its end; a run that is there already is only told about again."""
    processes, (data, fsdp, tensor) = MESHES[name]
    sizes = (f"MeshConfig.data={data}", f"MeshConfig.fsdp={fsdp}", f"MeshConfig.tensor={tensor}")
    less = (f"STEPS={steps}", "Evaluation.problems=128")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [
                sys.executable,
                *("-m", "tracelift_jax", "train", "--gin_file=experiments/dial/tracelift.gin"),
                *(f"--gin.{binding}" for binding in (*RULES, *sizes, *less)),
                f"--run_dir={run_dir}",
            ],
            cwd=ROOT,
            env=environment(processes, number, data * fsdp * tensor, address),
            stdout=subprocess.DEVNULL,
        )
        for number in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        sys.exit(f"{name}: exit codes {codes}")


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All but times."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def tokens(run_dir: Path) -> list[Any]:
    """Of all traces and answers, in the order of the batches."""
    rows = [json.loads(line) for file in sorted(run_dir.glob("traces/*")) for line in file.open()]
    return [(row["problem_id"], row["trace"], row["trace_tokens"], row["answer_tokens"]) for row in rows]


def furthest(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> tuple[float, str]:
    """The largest relative difference of a metric, and which it is of."""
    found = (0.0, "")
    for a, b in zip(here, there, strict=True):
        for name in b:
            x, y = (float("nan") if row[name] is None else row[name] for row in (a, b))
            found = max(found, (abs(x - y) / max(abs(y), TINY), f"{name} of step {b['step']}"))
    return found


def main() -> None:
    """Trains, compares and prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--meshes", nargs="+", choices=MESHES, default=list(MESHES))
    parser.add_argument("--out", help="keeps the runs here; a temporary folder if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, good = Path(args.out or temporary), True
        runs = {name: folder / name.replace(", ", "_").replace(" ", "_") for name in args.meshes}
        for name, run_dir in runs.items():
            print(f"training on {name}", file=sys.stderr)
            train(name, run_dir, args.steps)
        first = runs[args.meshes[0]]
        print("| mesh | same tokens | largest relative difference of a metric | which |\n|---|---|---:|---|")
        for name, run_dir in list(runs.items())[1:]:
            same, (most, which) = tokens(run_dir) == tokens(first), furthest(metrics(run_dir), metrics(first))
            print(f"| {name} | {'yes' if same else 'no'} | {most:.1e} | {which} |")
            good = good and same and most <= TOLERANCE
        sys.exit(not good)


if __name__ == "__main__":
    main()
