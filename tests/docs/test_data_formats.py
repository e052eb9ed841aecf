"""The page on data formats has the fields of the files that the commands write, and no others."""

import json
import re
from pathlib import Path

import pytest
from pages import DOCS, blocks, table
from tiny import run, write_gin, write_models

from tracelift_jax.groups.schema import CODE_DIMENSIONS, MATH_DIMENSIONS
from tracelift_jax.tasks.files import LAYOUTS, JsonlTask
from tracelift_jax.tasks.oracle import read_oracles
from tracelift_jax.tasks.prepared import prepared_rows

TEXT = (DOCS / "data_formats.md").read_text()
PROGRAMS_ONLY = {"outcomes", "tests", "examples"}
EVALUATE = """
config.Evaluate.train = @config.Train()
config.Evaluate.benchmarks = (@dial/config.Benchmark(),)
dial/config.Benchmark.name = 'dial'
dial/config.Benchmark.task = @config.DialTask()
dial/config.Benchmark.problems = 3
config.Evaluate.batch_size = 4
config.Evaluate.samples = 2
config.Evaluate.sources = ('none', 'reference')
config.Evaluate.audits = ('answer_only',)
"""
SEED = {
    "question": "Ann has 3 boxes with 4 pens each. She gives 5 pens to Bob. How many pens does she have left?",
    "answer": "Ann has 3 * 4 = <<3*4=12>>12 pens.\nShe has 12 - 5 = <<12-5=7>>7 pens left.\n#### 7",
}


def names(rows: list[list[str]], cell: int = 0) -> set[str]:
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[cell])}


def objects(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def fields(rows: list[dict]) -> set[str]:
    return {name for row in rows for name in row}


def table_of(file: str) -> list[list[str]]:
    """The table whose head names a file."""
    return table(TEXT.replace(f"| field of `{file}` |", f"HERE {file}\n| field |"), f"HERE {file}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of two steps, and what other quick commands make."""
    folder = write_models(tmp_path_factory.mktemp("formats"))
    modes = "--gin.Evaluation.modes=('sampled', 'greedy')"
    run("train", f"--gin_file={write_gin(folder)}", f"--run_dir={folder / 'run'}", "--gin.STEPS=2", modes)
    run("eval", f"--run_dir={folder / 'run'}")
    (folder / "seeds.jsonl").write_text(json.dumps(SEED) + "\n")
    run("build-groups", folder / "seeds.jsonl", f"--out={folder}/groups.jsonl", f"--summary={folder}/groups.json")
    files = [f"--gin.TRAIN={folder}/seeds.jsonl", f"--gin.TEST={folder}/seeds.jsonl"]
    run("prepare", "--gin_file=experiments/tasks/gsm8k.gin", *files, f"--out={folder / 'prepared'}")
    return folder


def test_the_run_directory(folder):
    there = {path.name + "/" * path.is_dir() for path in (folder / "run").iterdir()}
    told = names(table(TEXT, "## A run directory"))
    others = {"report.html", "model/", "adapter/", "trust.md", "trust.png", "trust.json"}
    assert there == told - others and others <= told
    assert set(json.loads((folder / "run" / "eval.json").read_text())) == {"step", "before", "after"}
    assert {path.name for path in (folder / "run" / "traces").iterdir()} == {"step_000001.jsonl", "step_000002.jsonl"}
    [checkpoint] = (folder / "run" / "checkpoints").iterdir()
    assert {path.name for path in checkpoint.iterdir() if path.is_dir()} == {"state", "host", "metrics"}


def test_metrics(folder):
    told = {name for name in names(table(TEXT, "## Metrics")) if "/" in name and "…" not in name}
    evaluated = {
        f"eval/{mode}/{name}{end}"
        for mode in ("sampled", "greedy")
        for row in table(TEXT, "Evaluations have `eval/sampled/…`")
        for name in re.findall(r"`(\w+)`", row[0])
        for end in (("", "_low", "_high") if "`_low`" in row[1] else ("",))
    }
    assert fields(objects(folder / "run" / "metrics.jsonl")) - {"step"} == told | evaluated


def test_reward_records(folder):
    records = objects(folder / "run" / "traces" / "step_000002.jsonl")
    told = names(table(TEXT, "## Reward records"))
    assert fields(records) == told - PROGRAMS_ONLY and told >= PROGRAMS_ONLY
    kinds = {"int": int, "string": str, "bool": bool, "number": float, "ints": list, "object": dict}
    for row in table(TEXT, "## Reward records"):
        for name in re.findall(r"`([^`]+)`", row[0]):
            if row[1] in kinds and name not in PROGRAMS_ONLY:
                assert all(type(record[name]) is kinds[row[1]] for record in records), name


def test_exports(folder):
    told = names(table(TEXT, "## Weights"), 1)
    for flags in ([], ["--adapter"]):
        out = folder / f"export{len(flags)}"
        run("export", folder / "run", f"--out={out}", *flags)
        assert {path.name for path in out.iterdir()} <= told


def test_groups_and_prepared_problems(folder):
    [group] = objects(folder / "groups.jsonl")
    rows = table(TEXT, "## Groups")
    assert set(group) == names(rows) - {"tests"}
    kinds = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    assert fields(group["positive_pool"]) == kinds["positive_pool"]
    assert fields(group["negative_bank"]) == kinds["negative_bank"]
    assert set(group["metadata"]) == kinds["metadata"]
    part = TEXT.split("A `rubric` has")[1].split("\n\n")[0]
    assert re.findall(r"`(\w+)`", part) == [*MATH_DIMENSIONS, *CODE_DIMENSIONS, "total"]
    summary = TEXT.split("`--summary` is an object with")[1].split(". ")[0]
    assert re.findall(r"`(\w+)`", summary) == list(json.loads((folder / "groups.json").read_text()))
    prepared = folder / "prepared" / "gsm8k" / "1.0.0"
    wanted = {"dataset_info.json", "features.json"}
    wanted |= {f"gsm8k-{split}.array_record-00000-of-00001" for split in ("train", "test")}
    assert {path.name for path in prepared.iterdir()} == wanted
    [(_, row)] = prepared_rows(str(prepared), "train")
    told = TEXT.split("A row of problems has")[1].split(". ")[0]
    assert set(re.findall(r"`(\w+)`", told)) == set(row)


def test_layouts_and_examples_of_problems(tmp_path):
    told = {name for name in names(table(TEXT, "**Math**")) if name.startswith("'")}
    assert {name.strip("'") for name in told} == set(LAYOUTS)
    for row in table(TEXT, "**Math**")[1:]:
        for name in re.findall(r"`'(\w+)'`", row[0]):
            layout = LAYOUTS[name]
            assert re.findall(r"`(\w+)`", row[1]) == list(layout.problem), name
            assert layout.reasoning in row[3] and (layout.answer or layout.reasoning) in row[2]
    problem, oracle = blocks(TEXT, "json")
    (tmp_path / "problems.jsonl").write_text(problem)
    [found] = JsonlTask(train=str(tmp_path / "problems.jsonl")).problems("train")
    assert found.answer == "12"
    (tmp_path / "oracle.jsonl").write_text(oracle)
    [test] = read_oracles(str(tmp_path / "oracle.jsonl"))["sum/1"]
    assert (test.source, test.reward, test.feedback) == ("mine", True, False)


@pytest.mark.slow
def test_what_is_printed(folder, capsys):
    told = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in table(TEXT, "## What commands print")}
    capsys.readouterr()
    asked = {
        "solve": [f"--gin_file={folder / 'tiny.gin'}", "--answer=4", "The dial shows 7. What does it show now?"],
        "verify": [str(folder / "run" / "traces" / "step_000001.jsonl")],
        "replay": [str(folder / "run")],
    }
    for name, arguments in asked.items():
        run(name, *arguments, "--json")
        assert list(json.loads(capsys.readouterr().out)) == told[name], name


def test_baselines(folder):
    run("baseline", f"--gin_file={folder / 'tiny.gin'}", f"--out={folder / 'base.jsonl'}", "--samples=2")
    header, *rows = objects(folder / "base.jsonl")
    told = TEXT.split("with all that it depends on (")[1].split(")")[0]
    assert re.findall(r"`(\w+)`", told) == list(header["baseline"])
    assert fields(rows) == names(table(TEXT, "## Baselines"))


@pytest.mark.slow
def test_grades(folder):
    """By the shipped reward model."""
    item = {"problem": "The dial shows 7. Ann turns it up 5. What does it show now?", "reasoning": "7 + 5 = 2"}
    (folder / "in.jsonl").write_text(json.dumps(item) + "\n")
    run("score", folder / "in.jsonl", folder / "out.jsonl", "--gin_file=experiments/dial/score.gin")
    [row] = objects(folder / "out.jsonl")
    assert set(row) == set(item) | names(table(TEXT, "## Grades"))
    assert list(row["rubric"]) == list(MATH_DIMENSIONS)


@pytest.mark.slow
def test_evaluations(folder):
    (folder / "eval.gin").write_text((folder / "tiny.gin").read_text() + EVALUATE)
    run("eval", f"--gin_file={folder / 'eval.gin'}", f"--out={folder / 'evals'}")
    there = {path.name for path in (folder / "evals").iterdir()}
    assert there == names(table(TEXT, "## Evaluations"))
    for file in ("traces.jsonl", "records.jsonl"):
        told = names(table_of(file))
        assert fields(objects(folder / "evals" / file)) == told - PROGRAMS_ONLY, file
    results = json.loads((folder / "evals" / "results.json").read_text())
    assert list(results) == ["problems", "groups", "differences"]
    assert set(results["groups"][0]["accuracy"]) == {"value", "low", "high", "n"}
