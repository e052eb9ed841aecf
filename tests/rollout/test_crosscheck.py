"""The two verifiers side by side: in the docs' table, on GSM8K, on generated answers, and by the command."""

import gzip
import json
import re
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import command

from tracelift_jax.rollout.crosscheck import BATCH, Case, Judged, device_verdicts, judge, tally
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG
from tracelift_jax.tasks.verify import verify

DOCS = Path(__file__).resolve().parents[2] / "docs" / "verification.md"
ROW = re.compile(r"\| `(.+)` \| `(.+)` \| (ok|wrong) \| (ok|wrong) \| .+ \|")
VERDICT = {"ok": OK, "wrong": WRONG}


def test_the_docs_list_of_disagreements():
    rows = [match.groups() for match in map(ROW.fullmatch, DOCS.read_text().splitlines()) if match]
    assert len(rows) >= 30
    answers, references, host, device = zip(*rows, strict=True)
    assert [verify(a, r) for a, r in zip(answers, references, strict=True)] == [VERDICT[v] for v in host]
    assert device_verdicts(answers, references) == [VERDICT[v] for v in device]
    assert all(h != d for h, d in zip(host, device, strict=True))


@pytest.fixture(scope="module")
def gsm8k(shared_data) -> list[str]:
    """Every worked answer of both splits."""
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text().splitlines()
    with gzip.open(shared_data / "gsm8k" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        lines += file.read().splitlines()
    return [json.loads(line)["answer"] for line in lines]


STYLES = {
    "as it is": lambda steps, number: f"{steps}#### {number}",
    "phrase": lambda steps, number: f"{steps}The answer is: ${number}.\n\nQ: 2 + 2 =",
    "box": lambda steps, number: f"{steps}So \\boxed{{{number}}} dollars, 99 % sure",
    "bare": lambda steps, number: number,
    "sentence": lambda steps, number: f"{steps}That makes **{number}** of them.",
}


def tally_of_gsm8k(gsm8k, write) -> dict:
    split = [answer.rsplit("#### ", 1) for answer in gsm8k]
    return tally(judge(Case("", write(*parts), parts[1]) for parts in split), None)


@pytest.mark.slow
def test_gsm8k_as_it_is(gsm8k):
    result = tally_of_gsm8k(gsm8k, STYLES["as it is"])
    assert result["table"]["ok"] == {"ok": 8792, "wrong": 0}, result["disagreements"][:3]


@pytest.mark.parametrize("style", STYLES)
def test_gsm8k_in_other_styles(style, gsm8k):
    result = tally_of_gsm8k(gsm8k[:1319], STYLES[style])
    assert result["table"]["ok"] == {"ok": 1319, "wrong": 0}, result["disagreements"][:3]


@pytest.mark.slow
def test_gsm8k_where_the_steps_alone_must_tell(gsm8k):
    result = tally_of_gsm8k(gsm8k, lambda steps, number: steps.strip())
    assert result["agree"] >= 0.999 * 8792
    assert all(re.search(r"\d:\d\d", one["answer"]) for one in result["disagreements"])  # times of day


# ------------------------------------------------------------------------------------------------------- generated


@st.composite
def plain_answers(draw) -> tuple[str, Fraction]:
    """What both verifiers must read: signs, thousands, decimals and a/b, in the places an answer stands in."""
    whole, decimals, under = draw(st.integers(0, 10**15)), draw(st.text("0123456789", max_size=4)), 1
    text = f"{whole:,}" if draw(st.booleans()) else str(whole)
    value = Fraction(whole)
    if decimals:
        text, value = f"{text}.{decimals}", value + Fraction(int(decimals), 10 ** len(decimals))
    elif draw(st.booleans()):
        under = draw(st.integers(1, 10**6))
        braced = draw(st.booleans())
        text, value = (rf"\frac{{{text}}}{{{under}}}" if braced else f"{text}/{under}"), value / under
    sign = draw(st.sampled_from(["", "-", "−", "+"]))
    text = draw(st.sampled_from(["{}", "${}", "{} apples", "{}."] if under == 1 else ["{}"])).format(text)
    places = [
        "{}",
        "#### {}",
        "3 + 4\n#### {}\n",
        "so the answer is {}",
        "Final answer: {} in 7 days",
        r"9 \boxed{{{}}} 8",
    ]
    return draw(st.sampled_from(places)).format(sign + text), value * (-1 if sign in ("-", "−") else 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(plain_answers(), min_size=16, max_size=16), st.sampled_from([0, 1, Fraction(1, 100)]))
def test_generated_plain_answers(answers, off):
    texts = [text for text, _ in answers]
    references = [str(value + off) for _, value in answers]
    wanted = [OK if off == 0 else WRONG] * len(texts)
    assert [verify(*pair) for pair in zip(texts, references, strict=True)] == wanted
    assert device_verdicts(texts, references) == wanted


def test_long_and_short_answers_in_one_batch():
    texts = ["#### 5", "7 " * 30_000 + "8", "", "x" * 200_000 + "9", *["1"] * (BATCH + 3), "0" * 3000 + " 4"]
    last = ["5", "8", "0", "9", *["1"] * (BATCH + 3), "4"]
    wanted = [OK, OK, WRONG, OK, *[OK] * (BATCH + 3), OK]
    assert device_verdicts(texts, last) == wanted
    assert device_verdicts(texts, ["6"] * len(texts)) == [WRONG] * len(texts)
    assert [one.device for one in judge(Case("", *pair) for pair in zip(texts, last, strict=True))] == wanted
    assert list(judge([])) == []


# --------------------------------------------------------------------------------------------------------- command


def write(path: Path, *rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def printed(capsys, *arguments) -> str:
    """What `tracelift verify ARGUMENTS` prints."""
    outcome = command("verify", *arguments)
    assert outcome.code == 0, outcome.errors
    return capsys.readouterr().out


def record(answers: list, verdicts: list[str], **more) -> dict:
    return {"reference": "18", "answers": answers, "verdicts": verdicts, "well_formed": True, **more}


def test_command_on_predictions(tmp_path, capsys):
    path = write(
        tmp_path / "p.jsonl",
        {"said": "#### 18", "target": 18},
        {"said": "17 1/2", "target": 17.5},
        {"said": "7", "target": "8"},
        {"said": "3:45", "target": "45"},
    )
    result = json.loads(printed(capsys, path, "--answer=said", "--reference=target", "--json"))
    assert result["answers"] == 4 and result["agree"] == 2 and result["failed"] == 0
    assert result["table"] == {
        "ok": {"ok": 1, "wrong": 1},
        "wrong": {"ok": 1, "wrong": 1},
        "failed": {"ok": 0, "wrong": 0},
    }
    assert result["recorded"] == {"answers": 0, "differ": 0}
    assert result["disagreements"] == [
        {"where": f"{path}:2", "answer": "17 1/2", "reference": "17.5", "host": "ok", "device": "wrong"},
        {"where": f"{path}:4", "answer": "3:45", "reference": "45", "host": "wrong", "device": "ok"},
    ]
    text = printed(capsys, path, "--answer=said", "--reference=target", "--show=1")
    assert "2 of 4 verdicts agree (50.000 %)" in text
    assert re.search(r"host ok +1 +1\nhost wrong +1 +1\n", text)
    assert f"{path}:2  host ok, device wrong" in text and f"{path}:4" not in text
    assert "1 more disagree; --json lists all" in text


def test_command_on_reward_records(tmp_path, capsys):
    write(tmp_path / "step_1.jsonl", record([" 18", "36/2", "1"], ["ok", "wrong", "wrong"]))
    write(tmp_path / "step_2.jsonl", record(["18"], ["wrong"], well_formed=False), record(["18"], ["failed"]))
    result = json.loads(printed(capsys, tmp_path / "step_*.jsonl", "--json"))
    assert result["answers"] == 5 and result["agree"] == 5
    assert result["recorded"] == {
        "answers": 3,
        "differ": 1,
    }  # 36/2; the malformed and the failed have no reader's verdict
    assert "1 of 3 verdicts in the records differ" in printed(capsys, tmp_path / "step_*.jsonl")


@pytest.mark.skipif(find_spec("math_verify") is None, reason="no math-verify: pip install -e .[latex]")
def test_command_on_formulas(tmp_path, capsys):
    path = write(
        tmp_path / "p.jsonl",
        {"prediction": "\\boxed{\\sqrt{8}}", "reference": "2\\sqrt{2}"},
        {"prediction": "$\\frac{1}{2}$", "reference": "0.5"},
    )
    assert json.loads(printed(capsys, path, "--kind=latex", "--json"))["table"]["ok"] == {"ok": 1, "wrong": 1}
    assert json.loads(printed(capsys, path, "--json"))["table"]["wrong"] == {"ok": 0, "wrong": 1}


def test_no_verdict_is_neither_agreement_nor_disagreement():
    case = Case("here", "x", "y", recorded=OK)
    result = tally([Judged(case, FAILED, OK), Judged(case, FAILED, WRONG), Judged(case, OK, OK)], None)
    assert (result["answers"], result["agree"], result["failed"]) == (3, 1, 2)
    assert result["table"]["failed"] == {"ok": 1, "wrong": 1}
    assert result["recorded"] == {"answers": 3, "differ": 1} and result["disagreements"] == []


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prediction": "18"}, 'p.jsonl:1: no "reference"'),
        ({"prediction": ["18"], "reference": "18"}, 'p.jsonl:1: no "prediction"'),
        ({"prediction": True, "reference": "18"}, 'p.jsonl:1: no "prediction"'),
        (record(["18"], []), 'p.jsonl:1: "verdicts" must hold'),
        (record(["18"], ["good"]), 'p.jsonl:1: "verdicts" must hold'),
        (record([18], ["ok"]), 'p.jsonl:1: "answers" must hold texts'),
    ],
)
def test_command_on_rows_that_are_wrong(tmp_path, row, part):
    outcome = command("verify", write(tmp_path / "p.jsonl", row))
    assert outcome.code == 2
    [line] = outcome.errors.splitlines()
    assert part in line


def test_command_on_no_answers(tmp_path):
    assert "no such file" in command("verify", tmp_path / "none.jsonl").errors
    assert "no answers there" in command("verify", write(tmp_path / "p.jsonl")).errors
    outcome = command("verify", write(tmp_path / "p.jsonl", {}), "--gin.STEPS=1")
    assert outcome.code == 2 and "takes no --gin_file" in outcome.errors
