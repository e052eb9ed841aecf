"""Groups from seed files: what is kept, what is dropped, and that a build can be interrupted anywhere."""

import gzip
import json
from pathlib import Path

import pytest
from tiny import command, start

from tracelift_jax.errors import UserError
from tracelift_jax.groups import build_groups, load_groups
from tracelift_jax.groups.arithmetic_flaws import FLAW_KINDS
from tracelift_jax.groups.build import Recipe, make_group
from tracelift_jax.groups.seeds import read_seeds


def row(index: int) -> dict[str, str]:
    a, b = 14 + 3 * index, 5 + index
    return {
        "question": f"Ann picks {a} apples a day for {b} days and gives {a - 1} away. How many are left?",
        "answer": f"Ann picks {a}*{b} = <<{a}*{b}={a * b}>>{a * b} apples.\n"
        f"She is left with {a * b}-{a - 1} = <<{a * b}-{a - 1}={a * b - a + 1}>>{a * b - a + 1} apples.\n"
        f"#### {a * b - a + 1}",
    }


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
        [positive] = group.positives
        assert "<<" not in positive.reasoning and "####" not in positive.reasoning
        assert positive.rubric.dimensions == (4,) * 5 and positive.rubric.total == 1.0
        kinds = [trace.negative_kind for trace in group.negatives]
        assert len(set(kinds)) == len(kinds) and 4 <= len(kinds) <= 6
        assert len({trace.reasoning for trace in group.negatives} | {positive.reasoning}) == len(kinds) + 1
        assert (group.source, group.task_type) == ("gsm8k", "math")
    assert groups[0].reference_solution == "57"  # 14 * 5 - 13
    assert groups[0].positives[0].reasoning == "Ann picks 14*5 = 70 apples.\nShe is left with 70-13 = 57 apples."
    told = json.loads(summary.read_text())
    assert told["seeds"] == 12 and told["groups"] == 8 and told["resumed"] == 0
    assert told["recipe"] == {"negatives": 4, "most": 6, "seed": 3}
    counted = {kind: sum(t.negative_kind == kind for g in groups for t in g.negatives) for kind in FLAW_KINDS}
    assert told["kinds"] == counted
    assert told["negatives"] == sum(counted.values()) == sum(int(n) * k for n, k in told["sizes"].items())


def test_a_group_depends_on_its_problem_and_the_seed_alone(seeds, tmp_path):
    seed = read_seeds(seeds)[4]
    one = make_group(seed, Recipe())
    assert one == make_group(seed, Recipe())
    assert one != make_group(seed, Recipe(seed=1))
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
        assert (counts.kinds, counts.dropped, counts.sizes) == (expected.kinds, expected.dropped, expected.sizes)


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
    ]
    for content, recipe in cases:
        out.write_bytes(content)
        with pytest.raises(UserError, match=r"groups\.jsonl: (was not built from these|lacks gsm8k/apples/1)"):
            build_groups(seeds, out, recipe)
        assert out.read_bytes() == content


def test_the_command(seeds, tmp_path, capsys):
    out, summary = tmp_path / "groups.jsonl", tmp_path / "summary.json"
    flags = [f"--out={out}", f"--summary={summary}", "--negatives=5", "--most=5", "--seed=2"]
    assert command("build-groups", seeds, *flags).code == 0
    shown = capsys.readouterr().out
    assert f"{out}: 8 groups with 40 flawed traces, of 12 seeds" in shown
    assert "dropped: 1 empty, 1 duplicate, 1 too short, 1 too few negatives; 0 groups were there before" in shown
    assert {len(group.negatives) for group in load_groups(out)} == {5}
    assert json.loads(summary.read_text())["recipe"] == {"negatives": 5, "most": 5, "seed": 2}
    process = start("build-groups", seeds, *flags)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == ""
    assert "8 groups were there before" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--negatives=0"], "--negatives must be at least 1, got 0"),
        (["--negatives=6", "--most=5"], "--most must be from --negatives (6) to 10, got 5"),
        (["--most=11"], "--most must be from --negatives (4) to 10, got 11"),
        (["--gin.seed=1"], "tracelift build-groups: takes no --gin_file and no --gin.NAME; see its --help"),
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
