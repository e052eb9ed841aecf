"""Bytes of tokens against what the tokenizer says itself; control tokens are no text."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["dial", "qwen"])
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(f"{request.param}_tokenizer")


@pytest.fixture(scope="module")
def table(tokenizer):
    return tokenizer.token_bytes()


def bytes_by_table(table, tokens) -> bytes:
    return b"".join(bytes(table.data[t, : table.length[t]]) for t in tokens)


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_text_survives(tokenizer, table, text):
    """Any Unicode: the table's bytes are the text's, and the tokenizer's own decoder agrees."""
    tokens = tokenizer.encode(text)
    own = tokenizer._backend.decode(tokens, clean_up_tokenization_spaces=False)
    if tokenizer._backend.backend_tokenizer.normalizer is None:
        assert bytes_by_table(table, tokens) == text.encode() and tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens) == own
    assert bytes_by_table(table, tokens) == own.encode()


@given(st.data())
@settings(max_examples=200)
def test_random_tokens_decode_as_the_tokenizer_says(tokenizer, table, data):
    """Any sequence of ordinary tokens, broken UTF-8 included."""
    ordinary = np.flatnonzero(table.length)
    tokens = [int(ordinary[i]) for i in data.draw(st.lists(st.integers(0, len(ordinary) - 1), max_size=12))]
    own = tokenizer._backend.decode(tokens, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(tokens) == own == bytes_by_table(table, tokens).decode("utf-8", errors="replace")


def test_every_byte_is_a_token(table):
    """So any text can be written; and every token's bytes are padded with zeros."""
    single = {int(row[0]) for row, length in zip(table.data, table.length, strict=True) if length == 1}
    assert single == set(range(256))
    assert table.data.dtype == np.uint8 and table.length.dtype == np.int32
    assert table.length.max() == table.data.shape[1]
    beyond = np.arange(table.data.shape[1]) >= table.length[:, None]
    assert (table.data[beyond] == 0).all()


def test_control_tokens_have_no_bytes(tokenizer, table):
    assert table.length[tokenizer.pad_id] == table.length[tokenizer.eos_id] == 0
    control = np.flatnonzero(table.length == 0)
    assert tokenizer.decode(control) == "" and tokenizer.bytes_of(control) == b""
    named = [tokenizer._backend.convert_ids_to_tokens(int(i)) for i in control]
    assert all(name.startswith("<|") and name.endswith("|>") for name in named), named


def test_control_tokens_of_qwen(qwen_tokenizer):
    """Ids as its tokenizer_config.json lists them; only those marked special vanish."""
    table = qwen_tokenizer.token_bytes()
    assert (qwen_tokenizer.eos_id, qwen_tokenizer.pad_id, len(qwen_tokenizer)) == (151645, 151643, 151665)
    np.testing.assert_array_equal(np.flatnonzero(table.length == 0), range(151643, 151657))
    assert bytes_by_table(table, [151657]) == b"<tool_call>"
    assert bytes_by_table(table, [220, 16, 13]) == b" 1."


@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "{0}{0}\n"])
@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|pad|>", "<|fim_middle|>"])
def test_typing_a_control_token_never_gives_one(tokenizer, table, name, around):
    text = around.format(name)
    tokens = tokenizer.encode(text)
    assert (table.length[tokens] > 0).all()
    assert tokenizer.decode(tokens) == text


def test_rows_beyond_the_tokenizer_are_empty(dial_tokenizer):
    size = len(dial_tokenizer)
    table = dial_tokenizer.token_bytes(size + 7)
    assert table.data.shape[0] == size + 7 and not table.length[size:].any()
    np.testing.assert_array_equal(table.data[:size], dial_tokenizer.token_bytes().data)
    assert dial_tokenizer.decode([size + 3, *dial_tokenizer.encode("7")]) == "7"


def test_a_vocabulary_too_small_is_refused(dial_tokenizer):
    size = len(dial_tokenizer)
    refused(lambda: dial_tokenizer.token_bytes(size - 1), str(size), str(size - 1), "vocabulary")


def test_save_and_load(tmp_path, dial_tokenizer):
    dial_tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.pad_id, again.eos_id, len(again)) == (0, 1, len(dial_tokenizer))
    text = "The dial shows 7. Zoë <reasoning>7 + 5 = 2</reasoning>\n"
    assert again.encode(text) == dial_tokenizer.encode(text)


# ------------------------------------------------------------------------------------------------------------ errors


def refused(call, *message: str):
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in message), line


@pytest.fixture
def copy(tmp_path, request):
    """The dial tokenizer's files in a folder of their own, and its two parsed files."""
    source = request.config.rootpath / "tracelift_jax" / "assets" / "dial" / "tokenizer"
    shutil.copytree(source, tmp_path / "t")
    return tmp_path / "t"


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(("key", "kind"), [("pad_token", "pad token"), ("eos_token", "end token")])
def test_a_missing_control_token_is_refused(copy, key, kind):
    edit(copy / "tokenizer_config.json", lambda data: data.pop(key))
    refused(lambda: Tokenizer.load(copy), str(copy), f"no {kind}", key)


def test_a_missing_directory_is_refused(tmp_path):
    refused(lambda: Tokenizer.load(tmp_path / "nowhere"), str(tmp_path / "nowhere"), "no such tokenizer directory")


def test_an_empty_directory_is_refused(tmp_path):
    refused(lambda: Tokenizer.load(tmp_path), str(tmp_path), "not a Hugging Face tokenizer directory")


WHOLE = '{"version": "1.0", "added_tokens": [], "model": %s}'


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"version": "1.0"}', "[]", WHOLE % "7"],
)
def test_a_damaged_file_is_refused(copy, text):
    (copy / "tokenizer.json").write_text(text)
    refused(lambda: Tokenizer.load(copy), str(copy), "not a Hugging Face tokenizer directory")


def test_tokens_that_are_not_bytes_are_refused(copy):
    """A SentencePiece-like piece: "▁the" is not in the table of byte stand-ins."""
    edit(copy / "tokenizer.json", lambda data: data["model"]["vocab"].update({"▁the": len(data["model"]["vocab"])}))
    refused(lambda: Tokenizer.load(copy).token_bytes(), str(copy), "▁the", "byte-level")
