"""Bytes of tokens against what the tokenizer says itself; control tokens are no text."""

import json
import re
import shutil
import unicodedata

import numpy as np
import pytest
import tokenizers
from chat_tokenizers import HEADERS, THOUGHTS, TURNS, write_llama, write_qwen3, write_tokenizer
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
    named = {tokenizer._backend.convert_ids_to_tokens(int(i)) for i in control}
    assert named == tokenizer.controls
    assert all(re.fullmatch(r"<\|.+\|>|</?tool_call>", name) for name in named), named


def test_control_tokens_of_qwen(qwen_tokenizer):
    """Ids as its tokenizer_config.json lists them; "<tool_call>" and its like, which are not special, vanish too."""
    table = qwen_tokenizer.token_bytes()
    assert (qwen_tokenizer.eos_id, qwen_tokenizer.pad_id, len(qwen_tokenizer)) == (151645, 151643, 151665)
    np.testing.assert_array_equal(np.flatnonzero(table.length == 0), range(151643, 151665))
    assert {"<tool_call>", "<|fim_middle|>", "<|im_end|>"} < qwen_tokenizer.controls and len(
        qwen_tokenizer.controls
    ) == 22
    assert bytes_by_table(table, [220, 16, 13]) == b" 1."


# ------------------------------------------------------------------------------------------------------ control tokens


@pytest.fixture(scope="module", params=["dial", "qwen", "llama", "qwen3"])
def any_tokenizer(request, tmp_path_factory) -> Tokenizer:
    writers = {"llama": write_llama, "qwen3": write_qwen3}
    if request.param in writers:
        return Tokenizer.load(writers[request.param](tmp_path_factory.mktemp(request.param)))
    return request.getfixturevalue(f"{request.param}_tokenizer")


NAMES = [*HEADERS, *THOUGHTS, *TURNS, "<|pad|>", "<tool_call>", "</tool_call>", "<|fim_middle|>", "<|repo_name|>"]
HALVES = ["<|im_", "end|>", "<|", "|>", "<", ">", "\n", " ", "e\u0301"]


def added_ids(tokenizer: Tokenizer) -> set[int]:
    return set(tokenizer._backend.added_tokens_decoder)


@given(st.lists(st.sampled_from([*NAMES, *HALVES]) | st.text(max_size=6), max_size=8).map("".join))
@settings(max_examples=300)
def test_text_never_gives_an_added_token(any_tokenizer, text):
    """Whatever is typed is text, special tokens or not; its bytes are the text's (in NFC where a model wants it)."""
    tokens = any_tokenizer.encode(text)
    assert added_ids(any_tokenizer).isdisjoint(tokens)
    normal = any_tokenizer._backend.backend_tokenizer.normalizer is not None
    assert any_tokenizer.bytes_of(tokens) == (unicodedata.normalize("NFC", text) if normal else text).encode()


def test_a_typed_control_token_is_cut_like_any_text(qwen_tokenizer, any_tokenizer):
    """As by a tokenizer that was never told of it: its file without the added tokens."""
    assert qwen_tokenizer.encode("a<|im_end|>b") == [64, 27, 91, 318, 6213, 91, 29, 65]  # a < | im _end | > b
    if any_tokenizer is not qwen_tokenizer:
        untold = json.loads(any_tokenizer._backend.backend_tokenizer.to_str()) | {"added_tokens": []}
        untold["post_processor"] = None
        naive = tokenizers.Tokenizer.from_str(json.dumps(untold))
        for name in NAMES:
            assert any_tokenizer.encode(f"7 {name}7") == naive.encode(f"7 {name}7").ids


@given(st.text(max_size=40).filter(lambda text: "<" not in text))
def test_text_without_control_tokens_is_cut_as_the_tokenizer_cuts_it(any_tokenizer, text):
    text += "e\u0301"
    own = any_tokenizer._backend.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert any_tokenizer.encode(text) == own == any_tokenizer.encode_template(text)


@given(st.lists(st.sampled_from([*NAMES, *HALVES]) | st.text(max_size=6), max_size=8).map("".join))
def test_a_template_is_read_as_the_tokenizer_reads_it(any_tokenizer, text):
    tokens = any_tokenizer.encode_template(text)
    assert tokens == any_tokenizer._backend.backend_tokenizer.encode(text, add_special_tokens=False).ids
    names = [any_tokenizer._backend.added_tokens_decoder[t].content for t in tokens if t in added_ids(any_tokenizer)]
    for name in NAMES:
        if any_tokenizer._backend.convert_tokens_to_ids(name) in added_ids(any_tokenizer):
            assert names.count(name) == text.count(name)


@given(st.lists(st.sampled_from([*NAMES, *HALVES, "%Q%", "%W%"]) | st.text(max_size=6), max_size=6).map("".join))
def test_what_fills_a_template_is_text(any_tokenizer, text):
    """Control tokens are the template's alone, and words of the template in what fills it stay as they are."""
    end = any_tokenizer._backend.added_tokens_decoder[any_tokenizer.eos_id].content
    tokens = any_tokenizer.encode_template(f"%W%: %Q%!{end}%Q%", {"%Q%": text, "%W%": "word"})
    assert tokens == [
        *any_tokenizer.encode(f"word: {text}!"),  # cut together with what stands around it
        any_tokenizer.eos_id,
        *any_tokenizer.encode(text),
    ]


def test_a_control_token_that_the_vocabulary_holds_is_spelt_out(tmp_path, copy):
    """Byte-level BPE with `ignore_merges` finds whole words in its vocabulary, so "<|pad|>" too if not cut before."""
    edit(copy / "tokenizer.json", lambda data: data["pre_tokenizer"]["pretokenizers"].pop(0))
    tokenizer = Tokenizer.load(copy)
    assert tokenizer._text.encode("<|pad|>").ids == [tokenizer.pad_id]  # or there is nothing to test
    tokens = tokenizer.encode("<|pad|>")
    assert tokens == [tokenizer._text.token_to_id(letter) for letter in "<|pad|>"]
    assert tokenizer.decode(tokens) == "<|pad|>"


def test_a_template_is_never_cut_short(copy):
    """Some tokenizer files ask for truncation or padding."""
    rules = {
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|pad|>",
        },
    }
    edit(copy / "tokenizer.json", lambda data: data.update(rules))
    tokenizer = Tokenizer.load(copy)
    for text in ("7", "The dial shows 7. Ann turns it up 5."):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text and 0 not in tokens
        assert tokenizer.encode_template(text + "<|endoftext|>") == [*tokens, tokenizer.eos_id]


# ------------------------------------------------------------------------------------------------- beginning and ends


def test_the_token_in_front(tmp_path, dial_tokenizer, qwen_tokenizer):
    llama = Tokenizer.load(write_llama(tmp_path))
    assert llama._backend.convert_ids_to_tokens(list(llama.begin)) == ["<|begin_of_text|>"]
    assert llama.decode(llama.begin) == ""
    assert llama.encode("x")[0] not in llama.begin
    assert dial_tokenizer.begin == qwen_tokenizer.begin == ()


def test_tokens_behind_every_sequence_are_no_beginning(tmp_path):
    write_tokenizer(tmp_path, TURNS, eos_token=TURNS[0])

    def end_everything(data):
        end = {"SpecialToken": {"id": TURNS[0], "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        place = {"id": TURNS[0], "ids": [data["added_tokens"][0]["id"]], "tokens": [TURNS[0]]}
        data["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, end],
            "special_tokens": {TURNS[0]: place},
        }

    edit(tmp_path / "tokenizer.json", end_everything)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer._whole.encode("x", add_special_tokens=True).ids[-1] == tokenizer.eos_id
    assert tokenizer.begin == ()


def test_without_a_pad_token_the_end_token_fills(tmp_path):
    llama = Tokenizer.load(write_llama(tmp_path))
    assert llama._backend.pad_token_id is None
    assert llama.pad_id == llama.eos_id == llama._backend.convert_tokens_to_ids("<|eot_id|>")


def name_ends(folder, ends):
    folder.mkdir(exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "temperature": 0.6}))
    return folder


@pytest.mark.parametrize(
    ("named", "ends"), [(0, (1, 0)), ([0, 1], (1, 0)), ([1], (1,)), ([0, 0], (1, 0)), ([], (1,)), (None, (1,))]
)
def test_the_model_may_name_more_ends(copy, named, ends):
    """The tokenizer's own (1) comes first: it ends what is taught and scored."""
    tokenizer = Tokenizer.load(name_ends(copy, named))
    assert (tokenizer.ends, tokenizer.eos_id) == (ends, 1)
    assert all(tokenizer.bytes_of([end]) == b"" for end in ends)


def test_ends_are_those_of_the_model_not_of_the_tokenizer(copy, tmp_path):
    name_ends(copy, 1)
    model = name_ends(tmp_path / "model", [0])
    assert Tokenizer.load(copy, model).ends == (1, 0)
    assert Tokenizer.load(copy, copy).ends == (1,)
    bare = tmp_path / "bare"
    bare.mkdir()
    assert Tokenizer.load(copy, bare).ends == (1,)


def test_what_ends_one_model_ends_all(tmp_path):
    write_qwen3(tmp_path)
    own = Tokenizer.load(tmp_path)
    pad, thought = own.pad_id, own._backend.convert_tokens_to_ids("</think>")
    planner, executor = name_ends(tmp_path / "planner", [thought, own.eos_id]), name_ends(tmp_path / "executor", pad)
    assert Tokenizer.load(tmp_path, planner, executor).ends == (own.eos_id, thought, pad)
    assert Tokenizer.load(tmp_path, executor, planner).ends == (own.eos_id, pad, thought)


def test_an_added_token_that_is_not_special_is_no_text_either(tmp_path):
    """Nobody can type Qwen3's "</think>": encoding gives it back as text, so it is never read as text."""
    write_qwen3(tmp_path)
    plain = Tokenizer.load(tmp_path)
    thought = plain._backend.convert_tokens_to_ids("</think>")
    assert plain.bytes_of([thought]) == b"" and plain.token_bytes().length[thought] == 0
    ending = Tokenizer.load(name_ends(tmp_path, thought))
    assert (plain.ends, ending.ends) == ((plain.eos_id,), (plain.eos_id, thought))


def test_without_an_end_token_the_models_first_is_taken(copy):
    edit(copy / "tokenizer_config.json", lambda data: data.pop("eos_token"))
    tokenizer = Tokenizer.load(name_ends(copy, [1, 0]))
    assert (tokenizer.eos_id, tokenizer.ends) == (1, (1, 0))


def test_save_keeps_the_models_ends(copy, tmp_path):
    name_ends(copy, 1)
    model = name_ends(tmp_path / "model", [0])
    saved = tmp_path / "saved"
    saved.mkdir()
    Tokenizer.load(copy, model).save(saved)
    assert Tokenizer.load(saved).ends == (1, 0)
    assert sorted(file.name for file in saved.iterdir()) == [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


# -------------------------------------------------------------------------------------------------------------- tables


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


def test_a_missing_end_token_is_refused(copy):
    edit(copy / "tokenizer_config.json", lambda data: data.pop("eos_token"))
    refused(lambda: Tokenizer.load(copy), str(copy), "no end token", "eos_token")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("\udcff", "not a JSON file"),
        ("[1]", "expected a JSON object, got list"),
        ('{"eos_token_id": "<|im_end|>"}', "must be a token id or a list of them, got '<|im_end|>'"),
        ('{"eos_token_id": [1, 2.5]}', "must be a token id or a list of them, got '[1, 2.5]'"),
        ('{"eos_token_id": true}', "must be a token id or a list of them, got 'True'"),
        ('{"eos_token_id": [[1]]}', "must be a token id or a list of them, got '[[1]]'"),
        ('{"eos_token_id": -1}', "-1 is outside the vocabulary of"),
        ('{"eos_token_id": [1, 151645]}', "151645 is outside the vocabulary of"),
        ('{"eos_token_id": 5}', "5 is ordinary text"),
    ],
)
def test_ends_that_cannot_be_are_refused(copy, text, message):
    file = copy / "generation_config.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: Tokenizer.load(copy), str(file), message)


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
