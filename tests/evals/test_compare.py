"""`tracelift eval --compare`: by hand on records that are written down here, and on evaluations of the tiny world."""

import json
import shutil
from pathlib import Path

import pytest
from gin_evals import write_evals, write_run
from tiny import command, run

from tracelift_jax.errors import UserError
from tracelift_jax.evals.compare import compare, find_side, pair_sources

CONFIG = {
    "samples": 2, "answers": 1, "temperature": 1.0, "top_p": 1.0, "malformed": "fail", "answer_only": "{answer}",
    "reasoning_tokens": 64,
}  # fmt: skip


def record(benchmark: str, source: str, mode: str, problem: int, right: int, judged: int = 1, likelihood: float = 0.5):
    failed = 0 if judged else 1
    verdicts = ["ok"] * right + ["wrong"] * (judged - right) + ["failed"] * failed
    return {
        "benchmark": benchmark, "source": source, "executor": "resident", "mode": mode, "problem_id": f"p{problem}",
        "trace": 0, "verdicts": verdicts, "device_verdicts": None, "right": right, "judged": judged, "cut": False,
        "answer_tokens": None, "counted_likelihood": likelihood,
    }  # fmt: skip


def write(path: Path, rows: list[dict], **parts) -> Path:
    path.mkdir()
    about = {name: {"sha256": name} for name in {row["benchmark"] for row in rows}}
    header = {"config": CONFIG, "problems": about, "executor resident": "abc"} | parts
    (path / "evaluation.json").write_text(json.dumps(header))
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "results.json").write_text("{}")
    return path


A_GREEDY, B_GREEDY = [1, 0, 0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1]


@pytest.fixture
def sides(tmp_path) -> tuple[Path, Path]:
    """Two trained planners of different names; b also has a problem that never came and one that a has not."""
    a = [record("x", "first", "greedy", p, right, likelihood=0.2) for p, right in enumerate(A_GREEDY)]
    a += [record("x", "first", "sampled", p, right, 2) for p, right in enumerate([0, 1, 2, 1])]
    a += [
        record("x", "first", "greedy", 8, 1),
        record("y", "first", "greedy", 0, 0),
        record("y", "none", "greedy", 0, 0),
    ]
    b = [record("x", "second", "greedy", p, right, likelihood=0.5) for p, right in enumerate(B_GREEDY)]
    b += [record("x", "second", "sampled", p, right, 2) for p, right in enumerate([1, 1, 2, 2])]
    b += [record("x", "second", "greedy", 8, 0, 0), record("x", "second", "greedy", 9, 1)]
    b += [record("y", "second", "greedy", 0, 1), record("y", "none", "greedy", 0, 0)]
    return write(tmp_path / "a", a), write(tmp_path / "b", b)


def test_by_hand(sides):
    rows = compare(find_side(str(sides[0] / "first")), find_side(str(sides[1] / "second")))
    by = {(row["benchmark"], row["mode"]): row for row in rows}
    assert list(by) == [("x", "greedy"), ("y", "greedy"), ("all", "greedy"), ("x", "sampled")]
    greedy = by["x", "greedy"]
    # Problem 8 never came on one side, problem 9 was asked on one side only.
    assert (greedy["problems"], greedy["accuracy"]["n"]) == (8, 8)
    assert greedy["accuracy"]["value"] == pytest.approx((7 - 3) / 8)
    assert greedy["accuracy"]["low"] < 0.5 < greedy["accuracy"]["high"]
    # 1 against 5: 2 * (1 + 6) / 2^6; with one more benchmark of p = 1 adjusted to twice that.
    assert {name: greedy["mcnemar"][name] for name in ("only_a", "only_b")} == {"only_a": 1, "only_b": 5}
    assert greedy["mcnemar"]["p"] == pytest.approx(0.21875)
    assert greedy["mcnemar"]["holm"] == pytest.approx(0.4375)
    # All together: 9 problems, 1 against 6: 2 * (1 + 7) / 2^7, and not tested once more for Holm.
    assert by["all", "greedy"]["mcnemar"] == {"only_a": 1, "only_b": 6, "p": pytest.approx(0.125), "n": 9}
    assert by["x", "sampled"]["accuracy"]["value"] == pytest.approx((0.5 + 0 + 0 + 0.5) / 4)
    assert "mcnemar" not in by["x", "sampled"]
    # 8 problems went from 0.2 to 0.5; the ninth stayed, for what never came has a likelihood here all the same.
    assert greedy["likelihood"]["value"] == pytest.approx(8 * 0.3 / 9)


def test_the_other_way_round_it_is_the_opposite(sides):
    there = compare(*(find_side(str(side)) for side in sides))
    back = compare(*(find_side(str(side)) for side in reversed(sides)))
    for row, other in zip(there, back, strict=True):
        assert row["accuracy"]["value"] == -other["accuracy"]["value"]
        assert row["accuracy"]["low"] == pytest.approx(-other["accuracy"]["high"], abs=1e-9)


def test_who_is_compared_with_whom(sides):
    a, b = (find_side(str(side)) for side in sides)
    assert pair_sources(a, b) == [("first", "second"), ("none", "none")]
    assert pair_sources(a, find_side(str(sides[1] / "none"))) == [("none", "none")]
    assert pair_sources(find_side(str(sides[0] / "first")), b) == [("first", "second")]
    assert pair_sources(a, find_side(str(sides[1] / "second"))) == [("first", "second")]
    assert pair_sources(a, find_side(str(sides[0] / "first"))) == [("first", "first")]


REFUSED = [
    ({"config": CONFIG | {"samples": 4}}, r"were not evaluated alike (samples: 2 and 4)"),
    ({"executor resident": "abd"}, r"were not evaluated alike (executor resident: 'abc' and 'abd')"),
    ({"problems": {"x": {"sha256": "z"}}}, r"were not evaluated alike (problems of.x: 'x' and 'z')"),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED)
def test_what_was_not_evaluated_alike(tmp_path, parts, message):
    rows = [record("x", "none", "greedy", 0, 1)]
    a, b = write(tmp_path / "a", rows), write(tmp_path / "b", rows, **parts)
    outcome = command("eval", "--compare", a, b)
    assert (outcome.code, outcome.errors) == (2, f"tracelift: {a} and {b} {message}\n")


def test_other_benchmarks_may_differ(tmp_path):
    rows = [record("x", "none", "greedy", 0, 1)]
    a = write(tmp_path / "a", [*rows, record("y", "none", "greedy", 0, 1)])
    b = write(tmp_path / "b", [*rows, record("z", "none", "greedy", 0, 1)])
    found = compare(find_side(str(a)), find_side(str(b)))
    assert [row["benchmark"] for row in found] == ["x"]
    c = write(tmp_path / "c", [record("w", "none", "greedy", 0, 1)])
    with pytest.raises(UserError, match="share no benchmark, executor and mode"):
        compare(find_side(str(a)), find_side(str(c)))


def refused(*arguments) -> str:
    outcome = command("eval", *arguments)
    assert outcome.code == 2
    return outcome.errors.removeprefix("tracelift: ").rstrip("\n")


def test_what_is_no_evaluation(sides, tmp_path):
    a, b = sides
    assert refused("--compare", a, tmp_path / "none").startswith(f"{tmp_path / 'none'}: holds no evaluation; make one")
    assert refused("--compare", a / "third", b) == f"{a / 'third'}: no source 'third' in {a}; there are first, none"
    (b / "results.json").unlink()
    assert refused("--compare", a, b) == f"{b}: the evaluation is not finished; run its command again"
    (a / "records.jsonl").write_text("{}\n")
    assert "cannot be read as records" in refused("--compare", a, a)
    assert "takes two evaluations" in refused("--compare", a, a, "--run_dir=x")


# --- With planners ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(folder, tmp_path_factory) -> Path:
    """Two trained planners beside the untrained one, in one evaluation; the first has learnt nothing yet."""
    out, gin = tmp_path_factory.mktemp("compare"), write_evals(folder)
    # The first has a base of its own, which happens to be the same.
    shutil.copytree(folder / "base", out / "models" / "base")
    shutil.copytree(folder / "reward_model", out / "models" / "reward_model")
    write_evals(out / "models")
    runs = [
        write_run(out / "models" / "tiny_train.gin", out / "first", 0, noise=0.0),
        write_run(folder / "tiny_train.gin", out / "second", 1),
    ]
    modes = "--gin.Evaluate.audits=()"
    run("eval", f"--gin_file={gin}", *(f"--run_dir={path}" for path in runs), f"--out={out / 'evals'}", modes)
    return out


@pytest.mark.slow
def test_planners_are_themselves_and_meet_the_same_draws(evaluated):
    header = json.loads((evaluated / "evals" / "evaluation.json").read_text())
    found = [header[f"planner {name}"] for name in ("untrained", "first", "second")]
    assert [one["step"] for one in found] == [None, 3, 3]
    assert found[0]["weights"] == found[1]["weights"] != found[2]["weights"]
    texts: dict[str, list] = {"untrained": [], "first": [], "second": []}
    for row in map(json.loads, (evaluated / "evals" / "traces.jsonl").read_text().splitlines()):
        if row["source"] in texts:
            texts[row["source"]].append((row["problem_id"], row["drawn"], row["trace"], row["reasoning"]))
    assert {len(text) for text in texts.values()} == {11 * 3}
    assert texts["untrained"] == texts["first"]
    assert texts["untrained"] != texts["second"]
    drawn = [text for text in texts["untrained"] if text[1] == "sampled"]
    assert len({text[3] for text in drawn}) > 11


@pytest.mark.slow
def test_the_command(evaluated, capsys, tmp_path):
    out = tmp_path / "told"
    sides = [evaluated / "evals" / name for name in ("untrained", "second")]
    run("eval", "--compare", *sides, f"--out={out}")
    shown = capsys.readouterr().out
    assert "greedy" in shown and "sampled" in shown and "p " in shown
    rows = json.loads((out / "compare.json").read_text())["rows"]
    assert [(row["a"], row["b"], row["mode"], row["problems"]) for row in rows] == [
        ("untrained", "second", "greedy", 11),
        ("untrained", "second", "sampled", 11),
    ]
    results = json.loads((evaluated / "evals" / "results.json").read_text())
    right = {(g["source"], g["mode"]): g["accuracy"]["value"] for g in results["groups"]}
    for row in rows:
        gained = right["second", row["mode"]] - right["untrained", row["mode"]]
        assert row["accuracy"]["value"] == pytest.approx(gained)
        [told] = [d for d in results["differences"] if (d["source"], d["mode"]) == ("second", row["mode"])]
        assert told["accuracy"]["value"] == pytest.approx(gained)
    assert "| dial | untrained | second | resident | greedy | 11 |" in (out / "compare.md").read_text()


@pytest.mark.slow
def test_a_planner_that_trained_on_is_not_mixed_in(folder, evaluated, tmp_path):
    copied = Path(shutil.copytree(evaluated / "evals", tmp_path / "evals"))
    (copied / "records.jsonl").unlink()
    traces = (copied / "traces.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "traces.jsonl").write_bytes(b"".join(traces[:-1]))
    moved = evaluated / "second" / "checkpoints" / "3"
    later = moved.rename(evaluated / "second" / "checkpoints" / "4")
    flags = [f"--run_dir={evaluated / name}" for name in ("first", "second")]
    try:
        line = refused(f"--gin_file={folder / 'evals.gin'}", *flags, f"--out={copied}", "--gin.Evaluate.audits=()")
    finally:
        later.rename(moved)
    assert line == f"{copied}: holds another evaluation (newest checkpoint of second: 3 and 4); choose another --out"
