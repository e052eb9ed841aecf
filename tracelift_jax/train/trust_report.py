"""What a reward model's held-out grades say of it: `trust.json`, `trust.md` to read, `trust.png` to look at."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tracelift_jax.groups.schema import Group
from tracelift_jax.parallel.hosts import first
from tracelift_jax.train.process_bench import ProcessBench, run_process_bench
from tracelift_jax.train.trust import Predictions, Value, measure
from tracelift_jax.train.trust_grade import Judge, predict

REPORT = "trust.json"
FEW_GROUPS = 100
WEAK_PAIRS = 0.9
HIGH = 0.9
MISCALIBRATED = 0.05
CORRELATED = 0.3
WRONG_TOTAL = 0.1
MOVED = 0.02
"""What is worth a sentence: fewer groups, pairs right less often, a higher score of a flawed trace, a larger
calibration error, a stronger correlation of error and length, a larger error of the direct total, and a larger change
of the score by a leaked answer than these."""

POSITIVE = "(positive)"


def write_report(
    path: Path, judge: Judge, groups: Sequence[Group], limit: int, process_bench: ProcessBench | None
) -> dict[str, Any]:
    """Grades the first `limit` held-out groups and writes `path/trust.{json,md,png}`; returns what is in the JSON.

    Of several processes all grade, and the first writes.

    Raises:
        UserError: no group fits the judge's room, or the ProcessBench file cannot be used.
    """
    held_out = predict(judge, groups, limit)
    report = {"left_out": held_out.left_out, **measure(held_out.predictions, held_out.names)}
    if process_bench:
        report["process_bench"] = run_process_bench(judge, process_bench)
    if not first():
        return report
    path.mkdir(parents=True, exist_ok=True)
    draw(report, held_out.predictions, path / "trust.png")
    (path / "trust.md").write_text(markdown(report))
    # Last, because its presence says that the report is whole.
    (path / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return report


# --- To read ----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three decimals; "-" where there is nothing to measure."""
    return "-" if value is None else f"{value:.3f}"


def interval(value: Value) -> str:
    """`0.912 (0.880 to 0.940)`."""
    if value["value"] is None:
        return "-"
    return f"{number(value['value'])} ({number(value['low'])} to {number(value['high'])})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(report: Mapping[str, Any]) -> str:
    """The report as text; every number in it is one of `report`, to three decimals."""
    whole, blind = report["grading"], report["baselines"]
    longer = "longer" if blind["longer_is_better"] else "shorter"
    what = f"{report['groups']} held-out groups, {report['traces']} traces"
    if report["left_out"]:
        what += f"; {report['left_out']} more groups did not fit and are in no number"
    parts = [
        "# Can this reward model be trusted?\n",
        f"{what}. In brackets: 95 % intervals. Groups are what varies: errors by bootstrap over whole groups, rates by "
        "Wilson's interval with as many trials as there are groups.\n",
        "## What to watch for\n",
        "".join(f"- {sentence}\n" for sentence in findings(report)),
        "## Ranking and error\n",
        "Without reading: pairs by length alone, the "
        f"{longer} trace being the better one; groups in random order; as score always {number(blind['constant'])}, "
        "the median total.\n",
        table(
            ["", "value", "without reading"],
            [
                [
                    "pair accuracy: positive above a negative",
                    interval(report["ranking"]["pair_accuracy"]),
                    number(blind["pair_accuracy"]["value"]),
                ],
                [
                    "group accuracy: positive above all negatives",
                    interval(report["ranking"]["group_accuracy"]),
                    number(blind["group_accuracy"]),
                ],
                ["mean absolute error of the score", interval(whole["mae"]), number(blind["mae"]["value"])],
                ["root mean squared error of the score", interval(whole["rmse"]), "-"],
                ["bias: mean score less mean true total", interval(whole["bias"]), "-"],
                [
                    "mean absolute error of the direct total",
                    interval(whole["total_mae"]),
                    number(blind["mae"]["value"]),
                ],
            ],
        ),
        "## By kind of flaw\n",
        _kinds_table(report["kinds"], blind["kinds"]),
        "## Dimensions\n",
        _dimensions_tables(report),
        "## Length\n",
        _length_tables(report["length"]),
        "## A leaked answer\n",
        _leak_table(report["leak"]),
    ]
    if "process_bench" in report:
        parts += ["## First wrong steps\n", _process_bench_table(report["process_bench"])]
    return "\n".join([*parts, "![reliability and scores](trust.png)\n"])


def _kinds_table(kinds: Mapping[str, Mapping[str, Any]], blind: Mapping[str, Value]) -> str:
    head = ["", "traces", "pair accuracy", "by length alone", "error", "rmse", "score", "true total", "highest score"]
    return table(
        head,
        [
            [
                kind or POSITIVE,
                str(row["n"]),
                interval(row["pair_accuracy"]),
                number(blind[kind]["value"]) if kind else "-",
                interval(row["mae"]),
                interval(row["rmse"]),
                number(row["mean_score"]),
                number(row["mean_total"]),
                number(row["highest"]),
            ]
            for kind, row in kinds.items()
        ],
    )


def _dimensions_tables(report: Mapping[str, Any]) -> str:
    """All traces, then each measure by kind."""
    found = report["grading"]["dimensions"]
    columns = ["accuracy", "blind", "macro_f1", "ece", "confidence"]
    rows = [{**found[name], "blind": report["baselines"]["labels"][name]} for name in report["dimensions"]]
    parts = [
        "ECE is the expected calibration error: the gap between how sure the model is of a label and how often it is "
        "right, averaged over 15 equal bins of that confidence. Without reading, one says the commonest label.\n",
        table(
            ["all traces", "accuracy", "without reading", "macro F1", "ECE", "confidence"],
            [
                [name, *(number(row[column]) for column in columns)]
                for name, row in zip(report["dimensions"], rows, strict=True)
            ],
        ),
    ]
    for column, title in (("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("ece", "ECE")):
        rows = [
            [kind or POSITIVE, *(number(row["dimensions"][name][column]) for name in report["dimensions"])]
            for kind, row in report["kinds"].items()
        ]
        parts.append(table([f"{title} by kind", *report["dimensions"]], rows))
    return "\n".join(parts)


def _length_tables(length: Mapping[str, Any]) -> str:
    rows = [
        [name, str(length[name]["n"]), number(length[name]["score"]), number(length[name]["error"])]
        for name in ("positives", "negatives")
    ]
    quarters = [
        [
            f"{row['shortest']} to {row['longest']}",
            str(row["n"]),
            interval(row["pair_accuracy"]),
            interval(row["mae"]),
            interval(row["bias"]),
        ]
        for row in length["quarters"]
    ]
    return "\n".join(
        [
            "Spearman's correlation of a trace's tokens with its score, and with the score's error, which is not moved "
            "by longer traces being better or worse ones.\n",
            table(["", "traces", "with the score", "with the error"], rows),
            table(["tokens", "traces", "pair accuracy of the negatives", "error", "bias"], quarters),
        ]
    )


def _leak_table(leak: Mapping[str, Any]) -> str:
    return "\n".join(
        [
            "Every trace once more with the final answer written behind it, which a planner must not do.\n",
            table(
                ["", "traces", "mean change of the score", "share raised"],
                [
                    [name, str(row["difference"]["n"]), interval(row["difference"]), interval(row["raised"])]
                    for name, row in leak.items()
                ],
            ),
        ]
    )


def _process_bench_table(found: Mapping[str, Any]) -> str:
    counted = f"{found['solutions']} solutions of `{found['path']}`"
    if found["left_out"]:
        counted += f"; {found['left_out']} more did not fit"
    return "\n".join(
        [
            f"{counted}. The first step behind which the score is below {number(found['threshold'])} counts as the "
            "first wrong one; that threshold was chosen on one half, and this is the other.\n",
            table(
                ["", "solutions", "accuracy"],
                [
                    ["with a wrong step", str(found["wrong"]["n"]), interval(found["wrong"])],
                    ["all steps right", str(found["right"]["n"]), interval(found["right"])],
                    ["F1, their harmonic mean", "", number(found["f1"])],
                    ["F1 where the threshold was chosen", "", number(found["f1_choosing"])],
                ],
            ),
        ]
    )


def findings(report: Mapping[str, Any]) -> list[str]:
    """What a reader should know before using the model, a sentence each; never empty."""
    out = []
    if report["groups"] < FEW_GROUPS:
        out.append(f"Only {report['groups']} groups: the intervals matter more than the values.")
    for kind, row in report["kinds"].items():
        pairs = row["pair_accuracy"]
        if pairs["value"] is not None and pairs["value"] < WEAK_PAIRS:
            out.append(
                f"Does not reliably see {kind}: the positive is above it in {number(pairs['value'])} of pairs. A "
                "planner can earn reward with such traces."
            )
        if kind and row["highest"] > HIGH:
            out.append(f"Some {kind} scores up to {number(row['highest'])}, like a trace without a flaw.")
    for name, row in report["grading"]["dimensions"].items():
        if row["ece"] > MISCALIBRATED:
            gap = row["confidence"] - row["accuracy"]
            side = "too sure" if gap > row["ece"] / 2 else "too unsure" if gap < -row["ece"] / 2 else "both ways"
            out.append(
                f"Miscalibrated on {name}: {side} (confidence {number(row['confidence'])}, accuracy "
                f"{number(row['accuracy'])}, ECE {number(row['ece'])})."
            )
    if report["grading"]["total_mae"]["value"] > WRONG_TOTAL:
        out.append(
            f"The directly predicted total, which is half of the score, is off by "
            f"{number(report['grading']['total_mae']['value'])} on average: the score ranks more than it grades."
        )
    for name in ("positives", "negatives"):
        strength = report["length"][name]["error"]
        if strength is not None and abs(strength) > CORRELATED:
            more = "too much" if strength > 0 else "too little"
            out.append(f"Longer {name} get {more}: error and length correlate by {number(strength)}.")
        change = report["leak"][name]["difference"]["value"]
        if change is not None and change > MOVED:
            out.append(f"A leaked answer pays: {name} gain {number(change)} by it. A planner may learn to.")
        elif change is not None and change < -MOVED:
            out.append(f"A leaked answer costs {name} {number(-change)}, though the reasoning before it is the same.")
    return [*(out or ["Nothing stands out in these numbers."]), _caution(report)]


def _caution(report: Mapping[str, Any]) -> str:
    kinds = ", ".join(kind for kind in report["kinds"] if kind)
    return f"Measured on flaws of these kinds alone: {kinds}. What a trained planner comes up with may be another."


# --- To look at -------------------------------------------------------------------------------------------------------


def draw(report: Mapping[str, Any], p: Predictions, path: Path) -> None:
    """Reliability of each dimension, and the scores of each kind, as a PNG."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    for name, rows in report["reliability"].items():
        filled = [row for row in rows if row["n"]]
        left.plot(
            [row["confidence"] for row in filled],
            [row["accuracy"] for row in filled],
            marker="o",
            markersize=4,
            label=f"{name}  ECE {report['grading']['dimensions'][name]['ece']:.3f}",
        )
    left.set(title="Reliability of the labels", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(fontsize=8)
    edges = np.linspace(0, 1, 41)
    for kind in (*([""] if p.positive.any() else []), *p.kinds):
        scores = p.score[p.kind == kind]
        share = np.full(len(scores), 1 / len(scores))
        width = 2.2 if not kind else 1.1
        right.hist(scores, edges, weights=share, histtype="step", linewidth=width, label=kind or POSITIVE)
    right.set(title="Scores by kind", xlabel="score", ylabel="share of traces", xlim=(0, 1))
    right.legend(fontsize=8, loc="upper center")
    figure.savefig(path, dpi=110)
