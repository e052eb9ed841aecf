"""`tracelift eval`: planners before and after training, side by side."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from tracelift_jax.rollout.evaluate import Evaluator
from tracelift_jax.train.checkpoint import find_run
from tracelift_jax.train.planner_loop import Train, planner_weights, trained_planner
from tracelift_jax.train.roles import load_roles
from tracelift_jax.train.run import console

ROWS = {
    "sampled/accuracy": "accuracy, T = 1",
    "greedy/accuracy": "accuracy, greedy",
    "sampled/faithful": "faithful traces",
    "sampled/wrong_reason": "wrong reason *",
    "sampled/uplift": "mean uplift",
    "sampled/score": "mean RM score",
}


def recorded(run_dir: Path, step: int) -> dict[str, float]:
    """What the run itself evaluated after `step` steps; empty where it did not."""
    found: dict[str, float] = {}
    file = run_dir / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        row = json.loads(line)
        if row["step"] == step:
            found |= {name: value for name, value in row.items() if name.startswith("eval/") and value is not None}
    return found


def run_eval(
    load: Callable[[Sequence[str]], Train], files: Sequence[str], run_dirs: Sequence[str], changed: bool
) -> None:
    """Prints a table and writes `eval.json` into each run directory.

    Args:
        load: reads gin files into the experiment, with the command line's bindings on top.
        files: of an untrained planner, where there are no runs. run_dirs: of trained ones.
        changed: whether there are bindings on top, so that what the runs recorded does not answer the question.

    Raises:
        UserError: a directory holds no planner run, or no checkpoint.
    """
    columns: list[tuple[str, dict[str, float]]] = []
    if files:
        config = load(files)
        loaded = load_roles(config.roles, config.loss.normalize)
        trainable, frozen = loaded.trainable(config.seed)
        evaluator = loaded.evaluator(config.evaluation)
        columns.append(("untrained", evaluator(planner_weights(loaded, frozen, trainable))))
    for run_dir in run_dirs:
        columns += _evaluate_run(load, Path(run_dir), changed)
    console.print(_table(columns))


def _evaluate_run(
    load: Callable[[Sequence[str]], Train], run_dir: Path, changed: bool
) -> list[tuple[str, dict[str, float]]]:
    file, step = find_run(run_dir)
    config = load([str(file)])
    before, after = recorded(run_dir, 0), recorded(run_dir, step)
    if changed or not before or not after:
        loaded = load_roles(config.roles, config.loss.normalize)
        evaluator: Evaluator = loaded.evaluator(config.evaluation)
        trainable, frozen = loaded.trainable(config.seed)
        before = evaluator(planner_weights(loaded, frozen, trainable))
        step, weights = trained_planner(config, loaded, str(run_dir))
        after = evaluator(weights)
    (run_dir / "eval.json").write_text(json.dumps({"step": step, "before": before, "after": after}, indent=1) + "\n")
    return [(f"{run_dir.name}\nbefore", before), (f"{run_dir.name}\nafter {step}", after)]


def _table(columns: Sequence[tuple[str, dict[str, float]]]) -> Table:
    problems = int(columns[0][1]["eval/sampled/problems"])
    left_out = int(columns[0][1].get("eval/sampled/left_out", 0))
    caption = f"{problems} held-out problems; ± half a 95 % interval; * right, by unfaithful reasoning"
    if left_out:
        caption += f"; {left_out} more did not fit Roles.prompt_tokens or answer_tokens, or have no number as answer"
    table = Table(caption=caption, box=SIMPLE)
    table.add_column("")
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for key, label in ROWS.items():
        table.add_row(label, *(_cell(values, f"eval/{key}") for _, values in columns))
    return table


def _cell(values: dict[str, float], key: str) -> str:
    if key not in values:
        return "-"
    if f"{key}_low" in values:
        return f"{values[key]:.3f} ±{(values[f'{key}_high'] - values[f'{key}_low']) / 2:.3f}"
    return f"{values[key]:.3f}"
