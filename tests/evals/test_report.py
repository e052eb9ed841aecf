"""Sentences and tables from results that are written down here."""

import copy

import pytest

from tracelift_jax.evals.report import findings, markdown
from tracelift_jax.evals.show import show
from tracelift_jax.evals.view import View

NOTHING = {"value": None, "low": None, "high": None, "n": 0}


def value(middle: float, half: float = 0.1) -> dict:
    return {"value": middle, "low": middle - half, "high": middle + half, "n": 200}


def group(source: str, mode: str, accuracy: float, **changes) -> dict:
    plain = {
        "benchmark": "x",
        "source": source,
        "executor": "resident",
        "mode": mode,
        "problems": 200,
        "traces": 200,
        "answers": 200,
        "failed": 0,
        "compared": 200,
        "disagreed": 0,
        "cut": 0,
        "accuracy": value(accuracy),
        "pass_at": {},
        "likelihood": value(accuracy - 0.01),
        "uplift": NOTHING if source == "none" else value(accuracy - 0.2),
        "uplift_likelihood": NOTHING,
        "well_formed": value(1.0),
        "leak": value(0.0),
        "faithful": NOTHING,
        "wrong_reason": NOTHING,
        "score": NOTHING if source == "none" else value(0.75),
        "score_right": 0.812,
        "score_wrong": None,
        "tokens": {"mean": 12.34, "p50": 12.0, "p95": 30.0},
        "answer_tokens": {"mean": None, "p50": None, "p95": None},
    }
    return plain | changes


def change(source: str, against: str, mode: str, moved: float) -> dict:
    names = {"benchmark": "x", "source": source, "executor": "resident", "mode": mode, "against": against}
    return names | {"accuracy": value(moved), "likelihood": value(moved), "score": NOTHING}


@pytest.fixture
def results() -> dict:
    modes = ("greedy", "sampled")
    right = {"none": 0.2, "reference": 0.9, "reference/other": 0.05, "untrained": 0.5, "run": 0.7}
    return {
        "problems": {"x": {"problems": 200, "left_out": 0, "without_reference": 0, "sha256": "", "baseline": ""}},
        "groups": [group(source, mode, accuracy) for source, accuracy in right.items() for mode in modes],
        "differences": [
            *(change("reference/other", "reference", mode, -0.85) for mode in modes),
            *(change("run", "untrained", mode, moved) for mode, moved in zip(modes, (0.2, 0.05), strict=True)),
        ],
    }


def said(results: dict) -> str:
    return "\n".join(findings(View(results)))


def test_what_stands_out(results):
    told = said(results)
    assert told.splitlines() == [
        "x, resident, greedy: run is better than untrained (0.200 (0.100 to 0.300)).",
        "x, resident, sampled: run cannot be told from untrained (0.050 (-0.050 to 0.150)).",
        "x, resident, reference: another problem's reasoning costs right answers (-0.850 (-0.950 to -0.750)).",
        "x, resident, reference: with another problem's reasoning it does worse than alone: it believes what it reads.",
    ]


def test_an_audit_without_effect_is_told_as_such(results):
    results["differences"][0] = change("reference/other", "reference", "greedy", -0.05)
    assert "whose problem the reasoning is of makes no difference that these problems could show" in said(results)


def changed(results: dict, number: int, **changes) -> dict:
    out = copy.deepcopy(results)
    out["groups"][number] |= changes
    return out


@pytest.mark.parametrize(
    ("number", "changes", "sentence"),
    [
        (0, {"failed": 3}, "x, resident, none, greedy: 3 of 200 answers never came or could not be judged."),
        (0, {"failed": 2}, None),
        (3, {"disagreed": 1}, "x, resident, reference, sampled: the readers on device and host disagree on 1 of 200 "),
        (3, {"cut": 7}, "x, resident, reference, sampled: 7 of 200 traces were cut to fit the executor."),
        (
            6,
            {"leak": value(0.2)},
            "x, resident, untrained, greedy: 0.200 (0.100 to 0.300) of the traces state the final",
        ),
        (6, {"leak": value(0.04)}, None),
        (
            6,
            {"well_formed": value(0.9)},
            "untrained, greedy: only 0.900 (0.800 to 1.000) of the traces are well formed.",
        ),
        (4, {"leak": value(0.9)}, None),  # an audit is made to leak
    ],
)
def test_what_is_worth_a_sentence(results, number, changes, sentence):
    before, told = said(results).splitlines(), said(changed(results, number, **changes)).splitlines()
    new = [line for line in told if line not in before]
    assert len(new) == (0 if sentence is None else 1)
    assert sentence is None or sentence in new[0]


def test_problems_that_are_not_there(results):
    results["problems"]["x"] = {"problems": 80, "left_out": 5, "without_reference": 2, "sha256": "", "baseline": ""}
    told = said(results)
    assert "x: only 75 problems; the intervals matter more than the values." in told
    assert "x: 5 of 80 problems did not fit, or lack tests, and are in no number." in told
    assert "x: 2 problems have no reference reasoning, and are not in its rows." in told


def test_nothing_stands_out(results):
    results["groups"], results["differences"] = results["groups"][:2], []
    assert findings(View(results)) == ["Nothing stands out in these numbers."]


def test_the_tables(results):
    text = markdown(results)
    right, uplift = "0.900 (0.800 to 1.000)", "0.700 (0.600 to 0.800)"
    row = f"| reference | {right} | {right} | {uplift} | {uplift} "
    assert row + "| 0.890 (0.790 to 0.990) | - |" in text
    assert "| none | 0.200 (0.100 to 0.300) | 0.200 (0.100 to 0.300) | - | - | 0.190 (0.090 to 0.290) | - |" in text
    assert (
        "| run less untrained | 0.200 (0.100 to 0.300) | 0.050 (-0.050 to 0.150) | 0.050 (-0.050 to 0.150) | - |"
        in text
    )
    assert "faithful" not in text
    assert "| 0.750 (0.650 to 0.850) | 0.812 | - | 12.3 | 12.0 | 30.0 |" in text
    assert "## x: 200 problems" in text


def passing(results: dict) -> dict:
    for row in results["groups"]:
        right = row["accuracy"]["value"]
        row["pass_at"] = {"1": value(right)} | ({"10": value(right + 0.03)} if row["mode"] == "sampled" else {})
    return results


def test_the_table_of_pass_at_k(results):
    assert "pass@k" not in markdown(results)
    text = markdown(passing(results))
    assert "| pass@k | pass@1, greedy | pass@1, sampled | pass@10, sampled |" in text
    assert "| none | 0.200 (0.100 to 0.300) | 0.200 (0.100 to 0.300) | 0.230 (0.130 to 0.330) |\n" in text
    assert "| run | 0.700 (0.600 to 0.800) | 0.700 (0.600 to 0.800) | 0.730 (0.630 to 0.830) |\n" in text


def test_pass_at_k_in_the_terminal(results, capsys):
    show(results, {})
    assert "pass@k" not in capsys.readouterr().out
    show(passing(results), {})
    shown = capsys.readouterr().out.split("pass@k")[1]
    lines = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert "@1 greedy  @1 sampled  @10 sampled" in " ".join(shown.splitlines()[1].split()).replace(" @", "  @")
    assert lines["none"][1:] == ["0.200", "±0.100", "0.200", "±0.100", "0.230", "±0.100"]
    assert lines["· other"][-2:] == ["0.080", "±0.100"]


def test_a_benchmark_that_some_sources_have_nothing_for(results):
    for row in [group("none", mode, 0.1) for mode in ("greedy", "sampled")]:
        results["groups"].append(row | {"benchmark": "y"})
    results["problems"]["y"] = {"problems": 200, "left_out": 0, "without_reference": 200, "sha256": "", "baseline": ""}
    text = markdown(results)
    assert text.count("## y: 200 problems") == 1
    behind = text.split("## y: 200 problems")[1]
    assert "| none |" in behind and "| reference |" not in behind


def test_the_terminal(results, capsys):
    show(results, {"run writes, greedy": 12.345})
    shown = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert lines["none"][1:] == ["0.200", "±0.100", "0.200", "±0.100", "-", "-", "-", "-"]
    assert lines["· other"][2:6] == ["0.050", "±0.100", "0.050", "±0.100"]
    assert lines["run"][-3:] == ["0.750", "0.000", "12.3"]
    assert "run writes, greedy: 12.3 problems/s" in shown
    assert max(map(len, shown.splitlines())) <= 80
