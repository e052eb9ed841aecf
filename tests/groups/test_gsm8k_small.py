"""The parts of the small reward model of GSM8K: drills whose arithmetic is right, a tokenizer that spells numbers."""

import json
import re
import subprocess
import sys

import pytest
from apple_seeds import row, write_rows
from tiny import ROOT, run, subprocess_environment

from tracelift_jax.text.tokenizer import Tokenizer

SMALL = ROOT / "experiments" / "gsm8k" / "small"


def script(name: str, *arguments) -> None:
    command = [sys.executable, str(SMALL / f"{name}.py"), *map(str, arguments)]
    subprocess.run(command, check=True, env=subprocess_environment())


def test_drills_are_chains_of_right_calculations(tmp_path):
    for seed in (0, 1):
        script("drills", 200, f"--seed={seed}", f"--out={tmp_path / str(seed)}")
    drills, others = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in "01")
    assert len(drills) == len(others) == 200
    assert len({drill["question"] for drill in drills + others}) > 390
    used = set()
    for drill in drills:
        *steps, last = drill["answer"].split("\n")
        assert 2 <= len(steps) <= 4
        value = int(re.match(r"There are (\d+)\.", drill["question"])[1])
        for step in steps:
            first, sign, second, result = re.search(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
            assert int(first) == value and str(second) in re.findall(r"\d+", drill["question"])
            exact = {"+": value + int(second), "-": value - int(second), "*": value * int(second)}
            assert int(result) == exact.get(sign, value // int(second)) and (sign != "/" or value % int(second) == 0)
            assert 0 < int(result) < 1000 and step.endswith(f">>{result}")
            value = int(result)
            used.add(sign)
        assert last == f"#### {value}"
    assert used == set("+-*/")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_rows(folder / "apples.jsonl", [row(index) for index in range(20)])
    run("build-groups", folder / "apples.jsonl", f"--out={folder / 'groups.jsonl'}")
    script("tokenizer", folder / "groups.jsonl", f"--out={folder / 'made'}")
    return Tokenizer.load(folder / "made")


@pytest.mark.parametrize("text", ["12 - 5 = 7", "é 1,234.5 <b> \n\n x48x", "<reasoning> a </reasoning>"])
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_digit_and_every_tag_is_a_token_of_its_own(tokenizer):
    def pieces(text):
        return [tokenizer.decode([token]) for token in tokenizer.encode(text)]

    assert [piece for piece in pieces("add 1048 and48") if any(c.isdigit() for c in piece)] == list("104848")
    # The tags of a trace are found wherever they stand.
    assert pieces("<reasoning> apples </reasoning>")[0] == "<reasoning>"
    assert pieces("7</reasoning>") == ["7", "</reasoning>"]
