"""The capacity table of docs/scaling.md: which model fits which machine, and what a step takes there at least.

    python benchmarks/capacity.py --results=capacity.jsonl              # goes on where it stopped; minutes a row
    python benchmarks/capacity.py --results=capacity.jsonl --write      # and puts the tables into docs/scaling.md

Each row is one `tracelift aot --json` of TraceLift on GSM8K (experiments/gsm8k/tracelift.gin) with a file of
experiments/shapes and one of experiments/meshes, in a process of its own. It needs the extra `aot`, and no TPU.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
RUN = "experiments/gsm8k/tracelift.gin"
INT8 = ("base/config.Model.weights=int8",)
ADAPTER = (
    "Roles.reward_model=@config.Adapter()",
    "config.Adapter.path=experiments/shapes/grader_adapter",
)
"""A reward model on the shared base, in place of one of its own weights."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One experiment on one machine.

    Attributes:
        model: a file of experiments/shapes. machine: as `--topology` takes it. mesh: a file of experiments/meshes.
        batch: problems a step. accumulate: micro-batches. flags: further bindings. note: what they are, for the table.
    """

    model: str
    machine: str
    mesh: str
    batch: int
    accumulate: int
    flags: tuple[str, ...] = ()
    note: str = ""

    @property
    def key(self) -> str:
        """What tells rows apart."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def command(self) -> list[str]:
        """What measures it."""
        files = (f"experiments/shapes/{self.model}.gin", RUN, f"experiments/meshes/{self.mesh}.gin")
        bindings = (f"BATCH={self.batch}", f"ACCUMULATE={self.accumulate}", *self.flags)
        return [
            *(sys.executable, "-m", "tracelift_jax", "aot", "--json", f"--topology={self.machine}"),
            *(f"--gin_file={file}" for file in files),
            *(f"--gin.{binding}" for binding in bindings),
        ]


MACHINES = {"v5e-16": 16, "v5e-256": 256, "v5p-64": 32, "v5p-512": 256, "v6e-64": 64, "h100-8": 8}
"""The machines of the table and their chips."""
TENSOR = {
    "qwen2.5_0.5b": (1, 1, 1, 1, 1, 1),
    "qwen2.5_1.5b": (1, 1, 1, 1, 1, 1),
    "qwen2.5_7b": (4, 4, 1, 1, 4, 4),
    "llama3.1_8b": (8, 8, 1, 1, 4, 8),
    "llama3_70b": (8, 8, 8, 8, 8, 8),
}
"""How many chips share each layer, by machine; no more than the model has key-value heads."""


def _table() -> Iterator[Row]:
    """Every group of chips that holds a model takes one problem of a batch; where there are few groups, several."""
    for model, tensors in TENSOR.items():
        for (machine, chips), tensor in zip(MACHINES.items(), tensors, strict=True):
            groups = chips // tensor
            batch = max(16, groups)
            accumulate = min(4, batch // groups)
            if model != "llama3_70b":
                yield Row(model, machine, f"tensor{tensor}", batch, accumulate)
            elif machine.startswith("v5p"):
                yield Row(model, machine, "tensor8", batch, accumulate, ADAPTER, "RM an adapter")
            else:
                yield Row(model, machine, "tensor8", batch, accumulate, (*ADAPTER, *INT8), "RM an adapter, int8 base")


GROWTH: Sequence[tuple[str, Row]] = [
    ("as above", Row("qwen2.5_7b", "v5e-16", "tensor4", 16, 4)),
    ("G = 8", Row("qwen2.5_7b", "v5e-16", "tensor4", 16, 4, ("Roles.traces=8",))),
    (
        "sampled uplift, K = 3",
        Row("qwen2.5_7b", "v5e-16", "tensor4", 16, 4, ("RewardConfig.uplift=sampled", "RewardConfig.repeats=3")),
    ),
    ("traces of 1,024", Row("qwen2.5_7b", "v5e-16", "tensor4", 16, 4, ("planner/config.Sampling.max_tokens=1024",))),
    ("64 chips (8 hosts), batch 64", Row("qwen2.5_7b", "v5e-64", "tensor4", 64, 4)),
    ("256 chips (32 hosts), batch 256", Row("qwen2.5_7b", "v5e-256", "tensor4", 256, 4)),
]
"""What changes from row to row of the second table."""


def rows() -> list[Row]:
    """All rows, each once."""
    return list(dict.fromkeys([*_table(), *(row for _, row in GROWTH)]))


def measure(row: Row) -> dict[str, Any]:
    """What `tracelift aot` says of it.

    Raises:
        RuntimeError: it says nothing.
    """
    done = subprocess.run(row.command(), cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
        raise RuntimeError(f"{' '.join(row.command())}: exit {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """What was measured before, by key."""
    if not file.exists():
        return {}
    return {line["key"]: line["report"] for line in map(json.loads, file.read_text().splitlines())}


def cells(row: Row, report: dict[str, Any]) -> list[str]:
    """Mesh, batch, fits, memory, seconds and largest part of one row."""
    mesh = " × ".join(str(size) for size in report["mesh"].values())
    memory = report["machine"]["memory"]
    size = f"{report['most'] / 1e9:.1f} / {memory / 1e9:.1f}"
    seconds, largest = "-", "-"
    if report["step_seconds"] is not None:
        parts = [part for program in report["programs"] for part in program["parts"]]
        longest = max(parts, key=lambda part: sum(part["seconds"].values()))
        why = max(longest["seconds"], key=lambda what: longest["seconds"][what])
        share = sum(longest["seconds"].values()) / report["step_seconds"]
        seconds = f"{report['step_seconds']:.2f}"
        largest = f"{longest['name']}, {share:.0%} ({why})"
    return [mesh, f"{row.batch} / {row.accumulate}", "yes" if report["fits"] else "**no**", size, seconds, largest]


def tables(found: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The page's tables by name; rows not measured yet are left out."""
    head = "mesh | batch / accumulate | fits | GB a chip / there | s a step, at least | largest part"
    lines = [f"| model | machine | {head} |", "|---|---|---|---|---|---:|---:|---|"]
    for row in _table():
        if row.key in found:
            model = row.model.replace("_", "-") + (f" ({row.note})" if row.note else "")
            lines.append("| " + " | ".join([model, row.machine, *cells(row, found[row.key])]) + " |")
    growth = [f"| what | {head} |", "|---|---|---|---|---:|---:|---|"]
    growth += [
        "| " + " | ".join([what, *cells(row, found[row.key])]) + " |" for what, row in GROWTH if row.key in found
    ]
    wanted = {"capacity": list(_table()), "growth": [row for _, row in GROWTH]}
    for name, rows in (("capacity", lines), ("growth", growth)):
        open_rows = sum(row.key not in found for row in wanted[name])
        rows += ["", f"{open_rows} of {len(wanted[name])} rows have not been compiled yet."] if open_rows else []
    return {"capacity": "\n".join(lines), "growth": "\n".join(growth)}


def put(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no {begin.strip()} ... {end}")
        page = f"{before}{begin}{table}\n{end}{after}"
    return page


def main() -> None:
    """Measures what is missing, and writes the page if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="a line a row; what is there is not measured again")
    parser.add_argument("--most", type=int, default=None, metavar="N", help="measure at most N rows; all if not given")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    args = parser.parse_args()
    found = read(args.results)
    missing = [row for row in rows() if row.key not in found]
    failed = 0
    for index, row in enumerate(missing[: args.most]):
        print(f"{index + 1} of {len(missing)}: {row.model} on {row.machine}", file=sys.stderr, flush=True)
        try:
            report = measure(row)
        except RuntimeError as error:  # a row that failed is tried again by the next call
            print(error, file=sys.stderr, flush=True)
            failed += 1
            continue
        with args.results.open("a") as file:
            file.write(json.dumps({"key": row.key, "report": report}) + "\n")
        found[row.key] = report
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), tables(found)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
