"""A reward model in the published layout: torch and METHOD's text on one side, `score` and `/score` on the other.

The torch side is written from METHOD alone: it puts the text together line by line, tokenizes it as a whole, cuts it on
the right, pads it, takes the last token that is not padding, and combines the heads.
"""

import importlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from chat_tokenizers import TURNS, write_tokenizer
from safetensors.numpy import load_file
from tiny import ROOT, start

torch = pytest.importorskip("torch")
theirs = importlib.import_module("golden.theirs")  # torch's side; cannot be imported without it

RELEASED = ROOT / "experiments" / "reward_models" / "released.gin"
MOST = 3072
SHAPE = {"hidden_size": 32, "intermediate_size": 40, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
NAMES = {
    "math": [
        "problem_understanding",
        "solution_strategy",
        "step_coherence",
        "calculation_correctness",
        "answer_support",
    ],
    "code": ["task_understanding", "plan_quality", "step_coherence", "action_support", "non_leakage"],
}

Items = list[dict[str, str]]
Grades = dict[str, np.ndarray]

# --------------------------------------------------------------------------------------------------------- torch's side


def text_of(item: dict[str, str]) -> str:
    """METHOD's lines."""
    lines = [f"<task>{item['task_name']}</task>", f"<type>{item['task_type']}</type>"]
    lines += ["<problem>", item["problem"], "</problem>"]
    if item.get("tests"):
        lines += ["<tests>", item["tests"], "</tests>"]
    lines += ["<reasoning>", item["reasoning"], "</reasoning>"]
    return "\n".join(lines)


def stripped(item: dict[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in item.items()}


class Reference:
    """A checkpoint as torch reads it."""

    def __init__(self, path: Path):
        self.model = theirs.ReasonRewardModel.from_pretrained(path, dtype=torch.float32).eval()
        self.words = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))

    def tokens(self, item: dict[str, str]) -> list[int]:
        return self.words.encode(text_of(item), add_special_tokens=False).ids

    def grade_items(self, items: Items, most: int = MOST) -> Grades:
        """Cut on the right."""
        return self.grade([self.tokens(stripped(item))[:most] for item in items])

    @torch.no_grad()
    def grade(self, rows: list[list[int]]) -> Grades:
        """Rubric [M, 5], total [M] and score [M] of sequences, padded on the right to the longest."""
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), 7)  # whatever it is
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for row, sequence in enumerate(rows):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        states = self.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        last = states[torch.arange(len(rows)), mask.sum(1) - 1]
        labels = [head(last).softmax(-1) @ torch.arange(5.0) for head in self.model.dimension_heads]
        derived = sum(0.2 * label / 4 for label in labels)
        total = self.model.total_head(last)[:, 0].sigmoid()
        found = {"rubric": torch.stack(labels, -1), "total": total, "score": 0.5 * derived + 0.5 * total}
        return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Written by torch: random, float32, with a small tokenizer that cuts words as Qwen's does."""
    path = tmp_path_factory.mktemp("released")
    write_tokenizer(path, TURNS, eos_token=TURNS[2], pad_token=TURNS[0])
    size = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()
    config = theirs.family_config("qwen2", vocab_size=size + 5, tie_word_embeddings=False, **SHAPE)
    model = theirs.ReasonRewardModel(config)
    theirs.fill(model.named_parameters(), seed=70)
    model.save_pretrained(path)
    heads = {f"dimension_heads.{d}.{part}" for d in range(5) for part in ("weight", "bias")}
    heads |= {"total_head.weight", "total_head.bias"}
    assert heads == {name for name in load_file(path / "model.safetensors") if not name.startswith("model.")}
    return path


@pytest.fixture(scope="module")
def reference(checkpoint) -> Reference:
    return Reference(checkpoint)


# ---------------------------------------------------------------------------------------------------------------- items

SHORT = "Janet has 3 ducks that lay 16 eggs. How many eggs does she sell?"
LONG = "Read n, then n lines of the form `a b`; print the sum, modulo 10^9 + 7.\n\nConstraints:\n" + "\n".join(
    f"- query {i}: 0 <= a_{i} < {i * 37 + 1}, é and 日本 {'x' * (i % 5)}" for i in range(30)
)
CODE = {"task_name": "code", "task_type": "stdin"}
MATH = {"task_name": "math", "task_type": "gsm8k"}
ITEMS: Items = [
    {"problem": SHORT, "reasoning": "16 - 3 = 13 ; 13 * 2 = 26", **MATH},
    {
        "problem": f"\n {SHORT}\n",
        "reasoning": "\t(a) 16 - 3 = 12.\n\n(b) So 24. \n",
        "task_name": "math",
        "task_type": "x",
    },
    {"problem": SHORT, "reasoning": "", **MATH},
    {"problem": LONG, "reasoning": "Sum modulo p.", **CODE},
    {"problem": SHORT, "reasoning": "Sum modulo p, 2 <= p < n. " * 20, **CODE},
    {"problem": SHORT, "reasoning": "Read, then loop.\nO(n)", "tests": "", **CODE},
    {"problem": SHORT, "reasoning": "Read, then loop.\nO(n)", "tests": "\nf(3) == 6\nf(0) == 0\n", **CODE},
    {"problem": LONG, "reasoning": "Loop.\n" * 90, "tests": "in: 1\nout: 2", **CODE},
    {"problem": LONG, "reasoning": "One. Two? {tests} </problem>", "task_name": "math", "task_type": "{task_name}"},
]
"""Math and code, with tests and without, white space around, an empty reasoning, braces and tags."""
TOO_LONG: Items = [
    ITEMS[6] | {"problem": LONG * 4},  # cut on the right, all of its tests and reasoning are gone
    ITEMS[7] | {"reasoning": "So we add n to m. " * 400},
    ITEMS[7] | {"tests": "in: 1\nout: 2\n" * 500},
]
FLAGS = ("Model.dtype=float32", "Model.param_dtype=float32", "Scorer.batch_size=2")


@pytest.fixture(scope="module")
def expected(reference) -> Grades:
    lengths = [len(reference.tokens(stripped(item))) for item in ITEMS]
    assert {0, 2, 3} <= set(np.searchsorted([256, 512, 1024, 2048], lengths)) and max(lengths) <= MOST
    grades = reference.grade_items(ITEMS)
    gaps = np.abs(np.subtract.outer(grades["score"], grades["score"])) + np.eye(len(ITEMS))
    assert gaps.min() > 1e-3 and grades["rubric"].std(0).min() > 0.1  # each differs from all others
    return grades


def assert_same(results: list[dict[str, Any]], items: Items, wanted: Grades) -> None:
    assert [list(one["rubric"]) for one in results] == [NAMES[item["task_name"]] for item in items]
    got = {name: [one[name] for one in results] for name in ("score", "total")}
    got["rubric"] = [list(one["rubric"].values()) for one in results]
    for name, values in got.items():
        largest = 4 if name == "rubric" else 1
        np.testing.assert_allclose(values, wanted[name], atol=1e-5 * largest, rtol=0, err_msg=name)


# ---------------------------------------------------------------------------------------------------------- `tracelift`


def flags(checkpoint: Path, *more: str) -> list[str]:
    return [f"--gin_file={RELEASED}", f"--gin.MODEL={checkpoint}", *(f"--gin.{flag}" for flag in (*FLAGS, *more))]


def score(checkpoint: Path, folder: Path, items: Items, *more: str) -> list[dict[str, Any]]:
    """The lines that `tracelift score` writes."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    process = start("score", source, target, *flags(checkpoint, *more))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_a_file(checkpoint, expected, tmp_path):
    rows = score(checkpoint, tmp_path, ITEMS)
    assert [{name: row[name] for name in item} for row, item in zip(rows, ITEMS, strict=True)] == ITEMS
    assert_same(rows, ITEMS, expected)


@pytest.fixture(scope="module")
def address(checkpoint) -> Iterator[str]:
    """Where `tracelift serve --rm` answers, cutting as the reference does."""
    process = start("serve", "--rm", "--port=0", *flags(checkpoint, "Scorer.too_long=reference"))
    assert process.stdout
    try:
        for line in process.stdout:
            if line.startswith("serving "):
                yield line.split()[1]
                break
        else:
            raise AssertionError(process.communicate())
        process.terminate()
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n"), errors
    finally:
        process.kill()
        process.wait()


def post(address: str, items: Items, **fields: int) -> dict[str, Any]:
    body = json.dumps({"items": items, **fields}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def test_a_service(address, expected):
    found = post(address, ITEMS, max_length=MOST, batch_size=4)
    assert found["scores"] == [one["score"] for one in found["results"]]
    assert_same(found["results"], ITEMS, expected)


def test_too_long_in_the_reference_s_way(address, checkpoint, reference, tmp_path):
    """The first tokens of the whole text, in a file and in a request; and as few as a request asks for."""
    assert min(len(reference.tokens(stripped(item))) for item in TOO_LONG) > MOST
    wanted = reference.grade_items(TOO_LONG)
    assert_same(score(checkpoint, tmp_path, TOO_LONG, "Scorer.too_long=reference"), TOO_LONG, wanted)
    assert_same(post(address, TOO_LONG)["results"], TOO_LONG, wanted)
    some = ITEMS + TOO_LONG
    assert_same(post(address, some, max_length=40)["results"], some, reference.grade_items(some, 40))


def shortened(reference: Reference, item: dict[str, str]) -> dict[str, str]:
    """An item that lost the end of its tests, and then of its problem, until it fits."""
    item = stripped(item)
    assert len(reference.tokens(item)) > MOST
    for name in ("tests", "problem"):
        while item[name] and (excess := len(reference.tokens(item)) - MOST) > 0:
            item[name] = item[name][: -max(excess // 4, 1)]  # no letter takes more than four tokens
    return item


def test_too_long_in_our_way(checkpoint, reference, tmp_path):
    """The reasoning is whole."""
    items = [TOO_LONG[0], TOO_LONG[1] | {"reasoning": "So we add n to m. " * 180}, TOO_LONG[2]]
    shorter = [shortened(reference, item) for item in items]
    first, _, last = shorter
    assert not first["tests"] and 100 < len(first["problem"]) < len(items[0]["problem"])
    assert 10 < len(last["tests"]) < len(items[2]["tests"]) and last["problem"] == items[2]["problem"]
    wanted = reference.grade([reference.tokens(item) for item in shorter])
    assert_same(score(checkpoint, tmp_path, items), items, wanted)
