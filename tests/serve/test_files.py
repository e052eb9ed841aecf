"""`tracelift score`: every line in its place, the same bytes however often interrupted, errors by file and line."""

import dataclasses
import gzip
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import command, start

from tracelift_jax.errors import UserError
from tracelift_jax.serve.files import run_score

CHUNK = 16
LINES = 43  # two chunks, and one that is not whole
SETTINGS = {"lengths": (80, 112), "batch_size": 8, "chunk": CHUNK}


@pytest.fixture(scope="module")
def small(config):
    return dataclasses.replace(config, **SETTINGS)


@pytest.fixture(scope="module")
def rows(items) -> list[dict]:
    rows: list[dict] = [{"problem": item.problem, "reasoning": item.reasoning} for item in items[:LINES]]
    rows[3] = {"id": 10**30, **rows[3], "more": {"é": [None, 0.1, "\ud800", "\u2028"]}, "task_name": "code"}
    rows[20]["x"] = float("nan")
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclasses.dataclass(frozen=True)
class Done:
    source: Path
    target: Path

    @property
    def lines(self) -> list[bytes]:
        return self.target.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def done(small, rows, tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("score")
    source, target = write(folder / "in.jsonl", rows), folder / "new" / "out.jsonl"
    run_score(small, str(source), str(target))
    return Done(source, target)


def refused(config, source: Path, target: Path) -> str:
    with pytest.raises(UserError) as error:
        run_score(config, str(source), str(target))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_line_has_its_grade_behind_what_it_had(done, rows, scorer, items):
    wanted = scorer.grade([scorer.read(item) for item in items[:LINES]])
    assert len(done.lines) == LINES
    for line, row, grade in zip(done.lines, rows, wanted, strict=True):
        found = json.loads(line)
        assert list(found) == [*row, "score", "total", "rubric"]
        assert json.dumps({name: found[name] for name in row}) == json.dumps(row)
        np.testing.assert_allclose([found["score"], found["total"]], [grade.score, grade.total], atol=1e-5)
        np.testing.assert_allclose(list(found["rubric"].values()), list(grade.rubric.values()), atol=6e-5)
    assert "task_understanding" in json.loads(done.lines[3])["rubric"]
    assert "problem_understanding" in json.loads(done.lines[4])["rubric"]
    assert "é" in done.lines[3].decode()


@pytest.mark.parametrize(
    ("whole", "torn"),
    [(0, 0), (0, 30), (CHUNK - 1, 5), (CHUNK, 0), (CHUNK, 1), (2 * CHUNK + 4, 99), (LINES, 0), (LINES, 7)],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(small, done, tmp_path, whole, torn, capsys):
    target = tmp_path / "out.jsonl"
    rest = b"".join(done.lines[whole:]) or b'{"torn": 3'
    target.write_bytes(b"".join(done.lines[:whole]) + rest[:torn])
    run_score(small, str(done.source), str(target))
    assert target.read_bytes() == done.target.read_bytes()
    assert f"{LINES} lines scored, {LINES - whole} of them now" in capsys.readouterr().out


def test_gzip_and_blank_lines(small, done, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(gzip.compress(b"\xef\xbb\xbf\n" + done.source.read_bytes().replace(b"\n", b"\r\n\n")))
    run_score(small, str(source), str(target))
    assert target.read_bytes() == done.target.read_bytes()


def test_nothing_to_do(small, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("")
    run_score(small, str(source), str(target))
    assert target.read_text() == ""


# --- What is refused --------------------------------------------------------------------------------------------------

BAD = [
    ('{"problem": "x"', "not JSON"),
    ("[1]", "not a JSON object"),
    ('{"problem": "x"}', 'field "reasoning" is missing'),
    ('{"problem": "x", "reasoning": "y", "score": 1}', 'field "score" is in the input already'),
    ('{"problem": "x", "reasoning": "%s"}' % ("7 + 5 = 2 ; " * 60), "the reasoning takes 363 tokens"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_bad_line_is_named_and_what_stands_before_it_is_done(small, done, tmp_path, text, reason):
    lines = done.source.read_text().splitlines(keepends=True)
    source, target = tmp_path / "in", tmp_path / "out"
    bad = CHUNK + 5
    source.write_text("".join([*lines[:bad], f"{text}\n", *lines[bad + 1 :]]))
    for _ in range(2):  # again, it says the same
        line = refused(small, source, target)
        assert line.startswith(f"{source}:{bad + 1}: ") and reason in line
        found = [json.loads(line) for line in target.read_bytes().splitlines()]
        wanted = [json.loads(line) for line in done.lines[:bad]]
        np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in wanted], atol=1e-5)
    source.write_text("".join(lines))
    run_score(small, str(source), str(target))
    assert target.read_bytes() == done.target.read_bytes()


def test_another_input(small, rows, done, tmp_path):
    for changed in (0, CHUNK + 1):  # in a chunk that is done, and in the one that is graded again
        others = [dict(row) for row in rows]
        others[changed]["reasoning"] += " "
        source, target = write(tmp_path / "other.jsonl", others), tmp_path / "out"
        before = b"".join(done.lines[: CHUNK + 3])
        target.write_bytes(before)
        line = refused(small, source, target)
        assert line == (
            f"{target}: does not hold the scores of {source} (see {source}:{changed + 1}); give another output"
        )
        assert target.read_bytes() == before


@pytest.mark.parametrize("there", [1, CHUNK, LINES])
def test_another_reward_model(small, done, tmp_path, there):
    target = tmp_path / "out"
    before = b"".join(done.lines[:there])
    target.write_bytes(before)
    other = dataclasses.replace(small, prompts=dataclasses.replace(small.prompts, open="("))
    assert "was scored by another reward model or with other prompts" in refused(other, done.source, target)
    assert target.read_bytes() == before


@pytest.mark.parametrize("kept", [0, CHUNK - 3, CHUNK, LINES - 1])
def test_an_output_with_more_lines(small, rows, done, tmp_path, kept):
    source, target = write(tmp_path / "in", rows[:kept]), tmp_path / "out"
    for there in (kept + 1, LINES):
        before = b"".join(done.lines[:there])
        target.write_bytes(before)
        line = refused(small, source, target)
        assert line == f"{target}: has more lines than {source}; give another output"
        assert target.read_bytes() == before


def test_an_output_of_another_kind(small, done, tmp_path):
    target = tmp_path / "out"
    for text in ("hello\n", "[]\n", "{}\n", '{"score": "x"}\n'):
        target.write_text(text)
        assert "does not hold the scores of" in refused(small, done.source, target)
        assert target.read_text() == text


def test_files_that_cannot_be(small, done, tmp_path):
    assert refused(small, tmp_path / "none", tmp_path / "out") == f"{tmp_path}/none: no such file"
    assert not (tmp_path / "out").exists()
    assert "is the input" in refused(small, done.source, done.source)
    assert "give a name without .gz" in refused(small, done.source, tmp_path / "out.jsonl.gz")
    assert "cannot be written (Is a directory)" in refused(small, done.source, tmp_path)


# --- The command ------------------------------------------------------------------------------------------------------

FLAGS = ("--gin_file=experiments/dial/score.gin", "--gin.Scorer.lengths=(80,)", "--gin.Scorer.batch_size=8")


@pytest.mark.slow
def test_a_killed_process_is_continued_by_the_next(config, items, tmp_path):
    """SIGKILL at whatever it does; the same bytes as a run that nothing happened to."""
    short = [item for item in items if len(item.problem) < 150][:40]
    rows = [{"problem": item.problem, "reasoning": item.reasoning} for item in short * 40]
    source, target, whole = write(tmp_path / "in.jsonl", rows), tmp_path / "out", tmp_path / "whole"
    process = start("score", source, target, *FLAGS, "--gin.Scorer.chunk=16")
    while process.poll() is None and (not target.exists() or target.read_bytes().count(b"\n") < 32):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    before = target.read_bytes()
    assert 32 <= before.count(b"\n") < len(rows)
    small = dataclasses.replace(config, lengths=(80,), batch_size=8, chunk=16)
    run_score(small, str(source), str(whole))
    assert whole.read_bytes().startswith(before)
    run_score(small, str(source), str(target))
    assert target.read_bytes() == whole.read_bytes()


def test_a_bad_line_is_one_line_and_exit_code_2(tmp_path):
    source = tmp_path / "in"
    source.write_text('{"problem": 3}\n')
    outcome = command("score", source, tmp_path / "out", *FLAGS)
    assert (outcome.code, outcome.errors) == (2, f'tracelift: {source}:1: field "reasoning" is missing\n')
    outcome = command("score", source, tmp_path / "out")
    assert outcome.code == 2 and "give --gin_file=F" in outcome.errors
