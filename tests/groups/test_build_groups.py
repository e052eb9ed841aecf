"""Groups from seed files: what is kept, what is dropped, and that a build can be interrupted anywhere."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest
from apple_seeds import positive, row, write_rows
from tiny import command, start

from tracelift_jax.errors import UserError
from tracelift_jax.groups import build_groups, load_groups
from tracelift_jax.groups.arithmetic_flaws import FLAW_KINDS
from tracelift_jax.groups.build import ENGINES, Recipe, make_group
from tracelift_jax.groups.schema import Group
from tracelift_jax.groups.seeds import read_seeds

MOST = max(len(engine.kinds) for engine in ENGINES.values())
ROWS = [row(index) for index in range(12)]
ROWS[3] = {"question": "How many is it?", "answer": "#### 5"}
ROWS[5] = {"question": " ".join(ROWS[1]["question"].split()) + " ", "answer": ROWS[1]["answer"]}
ROWS[7] = {"question": "How many are they?", "answer": "It is 5.\n#### 5"}
ROWS[9] = {"question": "What is x?", "answer": "Let x be what is asked for, so that 2x = 10.\n#### 5"}


@pytest.fixture
def seeds(tmp_path) -> Path:
    path = tmp_path / "apples.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in ROWS)
    return path


def test_groups_and_drops(seeds, tmp_path):
    out, summary = tmp_path / "new" / "groups.jsonl", tmp_path / "summary.json"
    counts = build_groups(seeds, out, Recipe(negatives=4, most=6, seed=3), summary)
    assert counts.dropped == {"empty": 1, "duplicate": 1, "too short": 1, "too few negatives": 1}
    groups = load_groups(out)
    assert [group.problem_id for group in groups] == [f"gsm8k/apples/{i}" for i in (0, 1, 2, 4, 6, 8, 10, 11)]
    for group in groups:
        [solution] = group.positives
        assert solution.reasoning == positive(int(group.problem_id.rpartition("/")[2]))
        assert solution.rubric.dimensions == (4,) * 5 and solution.rubric.total == 1.0
        kinds = [trace.negative_kind for trace in group.negatives]
        assert len(set(kinds)) == len(kinds) and 4 <= len(kinds) <= 6
        assert len({trace.reasoning for trace in group.negatives} | {solution.reasoning}) == len(kinds) + 1
        assert (group.source, group.task_type) == ("gsm8k", "math")
    assert groups[0].reference_solution == "57"  # 14 * 5 - 13
    assert groups[0].positives[0].reasoning == "Ann picks 14*5 = 70 apples.\nShe is left with 70-13 = 57 apples."
    told = json.loads(summary.read_text())
    assert told["seeds"] == 12 and told["groups"] == 8 and told["resumed"] == 0
    settings = {"negatives": 4, "most": 6, "seed": 3, "writers": ["engine"], "grader": "engine", "drop_leaks": False}
    assert told["recipe"] == settings
    assert told["servers"] == [] and told["dropped_traces"] == told["unfinished"] == {}
    # Every kind that math can have is counted, and no other.
    counted = {kind: sum(t.negative_kind == kind for g in groups for t in g.negatives) for kind in FLAW_KINDS}
    assert told["kinds"] == counted
    assert told["negatives"] == sum(counted.values()) == sum(int(n) * k for n, k in told["sizes"].items())


def test_a_group_depends_on_its_problem_and_the_seed_alone(seeds, tmp_path):
    seed = read_seeds(seeds)[4]
    one = make_group(seed, Recipe()).group
    assert isinstance(one, Group) and one == make_group(seed, Recipe()).group
    assert one != make_group(seed, Recipe(seed=1)).group
    build_groups(seeds, tmp_path / "a.jsonl")
    build_groups(seeds, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_interrupted_anywhere_the_file_comes_out_the_same(seeds, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = build_groups(seeds, whole)
    data = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in (0, 1, 15, ends[0] - 1, ends[0], ends[2] + 40, ends[-2], len(data) - 1, len(data)):
        cut.write_bytes(data[:length])
        counts = build_groups(seeds, cut)
        assert cut.read_bytes() == data, length
        assert counts.resumed == sum(end <= length for end in ends)
        assert dataclasses.replace(counts, resumed=0, seconds=0) == dataclasses.replace(expected, seconds=0)


def test_another_build_is_not_continued(seeds, tmp_path):
    out = tmp_path / "groups.jsonl"
    build_groups(seeds, out)
    data = out.read_bytes()
    lines = data.splitlines(keepends=True)
    letter = b"Dear Ann,\n"
    cases = [
        (data, Recipe(seed=1)),
        (data, Recipe(most=4)),
        (lines[1] + lines[0], Recipe()),
        (lines[0] + lines[0], Recipe()),
        (lines[0] + lines[2], Recipe()),
        (letter, Recipe()),
        (letter[:-1], Recipe()),
        (lines[0].replace(b"apples/0", b"pears/0"), Recipe()),
        (data.replace(b"apples.\\n", b"pears.\\n"), Recipe()),
        (lines[0] + lines[1].replace(b"102", b"103") + b'{"probl', Recipe()),
        (data + b"{}\n", Recipe()),
        (b'[1]\n{"problem_id": []}\n', Recipe()),
    ]
    for content, recipe in cases:
        out.write_bytes(content)
        with pytest.raises(UserError, match=r"groups\.jsonl: was not built from these seeds with these"):
            build_groups(seeds, out, recipe)
        assert out.read_bytes() == content


def test_a_group_too_many_at_the_end_is_another_build(tmp_path):
    seeds, out = write_rows(tmp_path / "apples.jsonl", [row(0), row(1), ROWS[9]]), tmp_path / "groups.jsonl"
    assert build_groups(seeds, out, Recipe(negatives=1)).groups == 3
    data = out.read_bytes()
    with pytest.raises(UserError, match=r"groups\.jsonl: was not built from these seeds with these"):
        build_groups(seeds, out, Recipe(negatives=4))
    assert out.read_bytes() == data
    out.write_bytes(data + b'{"problem')
    assert build_groups(seeds, out, Recipe(negatives=1)).resumed == 3
    assert out.read_bytes() == data


def test_the_command(seeds, tmp_path, capsys):
    out, summary = tmp_path / "groups.jsonl", tmp_path / "summary.json"
    flags = [f"--out={out}", f"--summary={summary}", "--negatives=5", "--most=5", "--seed=2"]
    assert command("build-groups", seeds, *flags).code == 0
    shown = capsys.readouterr().out
    assert f"{out}: 8 groups with 40 flawed traces, of 12 seeds" in shown
    assert "dropped: 1 empty, 1 duplicate, 1 too short, 1 too few negatives; 0 groups were there before" in shown
    assert len(shown.splitlines()) == 2
    assert {len(group.negatives) for group in load_groups(out)} == {5}
    recipe = json.loads(summary.read_text())["recipe"]
    assert [recipe[name] for name in ("negatives", "most", "seed")] == [5, 5, 2]
    process = start("build-groups", seeds, *flags)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == ""
    assert "8 groups were there before" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--negatives=0"], "Recipe.negatives (--negatives) must be at least 1, got 0"),
        (["--negatives=6", "--most=5"], f"Recipe.most (--most) must be from Recipe.negatives (6) to {MOST}, got 5"),
        ([f"--most={MOST + 1}"], f"Recipe.most (--most) must be from Recipe.negatives (4) to {MOST}, got {MOST + 1}"),
        (["--gin.Recipe.seed=x"], "--gin.Recipe.seed=x: Recipe.seed: expected int, got 'x' (str)"),
        (["--gin.seed=1"], "--gin.seed=1: nothing uses the macro seed"),
    ],
)
def test_wrong_flags_are_one_line(seeds, tmp_path, flags, message):
    out = tmp_path / "groups.jsonl"
    outcome = command("build-groups", seeds, f"--out={out}", *flags)
    assert (outcome.code, outcome.errors) == (2, f"tracelift: {message}\n")
    assert not out.exists()


def test_wrong_files_are_one_line(seeds, tmp_path):
    none, folder = tmp_path / "none.jsonl", tmp_path
    outcome = command("build-groups", none, f"--out={tmp_path / 'o.jsonl'}")
    assert (outcome.code, outcome.errors) == (2, f"tracelift: {none}: no such file\n")
    outcome = command("build-groups", seeds, f"--out={folder}")
    assert outcome.code == 2 and outcome.errors.startswith(f"tracelift: {folder}: cannot be read (Is a directory)")
    outcome = command("build-groups", seeds, f"--out={seeds / 'x.jsonl'}")
    assert outcome.code == 2 and outcome.errors.startswith(f"tracelift: {seeds / 'x.jsonl'}: cannot be ")
    outcome = command("build-groups", seeds, f"--out={tmp_path / 'o.jsonl'}", f"--summary={folder}")
    assert outcome.code == 2 and outcome.errors.startswith(f"tracelift: {folder}: cannot be written (")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"question": "What?", "answer": "Five."}) + "\n")
    outcome = command("build-groups", bad, f"--out={tmp_path / 'p.jsonl'}")
    assert outcome.code == 2 and outcome.errors.startswith(f'tracelift: {bad}:2: no number after "####"')
