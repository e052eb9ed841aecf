import gzip
import re

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.rows import read_jsonl, read_numbered, require


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def fails(path: str, message: str):
    """`read_jsonl(path)` raises one line that begins with the path and matches `message`."""
    with pytest.raises(UserError, match="^" + re.escape(path) + message) as caught:
        read_jsonl(path)
    assert "\n" not in str(caught.value)


def test_blank_lines_give_no_row_but_count(write):
    path = write(b'\n{"a": 1}\n \t\n\n{"a": 2}\n\n')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    assert read_numbered(path) == [(2, {"a": 1}), (5, {"a": 2})]


@pytest.mark.parametrize(
    "data",
    [
        '{"a": "é…"}\n{"a": 2}\n',
        '{"a": "é…"}\n{"a": 2}',  # no newline at the end
        '{"a": "é…"}\r\n{"a": 2}\r\n',
        '\ufeff{"a": "é…"}\n{"a": 2}\n',  # byte order mark
    ],
)
def test_variants_of_text_files_read_alike(write, data):
    assert read_jsonl(write(data.encode())) == [{"a": "é…"}, {"a": 2}]


def test_a_line_separator_inside_a_string_ends_no_line(write):
    assert read_jsonl(write('{"a": "x\u2028y\x85"}\n'.encode())) == [{"a": "x\u2028y\x85"}]


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_gzip_is_known_by_its_bytes_not_its_name(write, name):
    data = b'{"a": 1}\n{"a": 2}\n'
    assert read_jsonl(write(gzip.compress(data), name)) == read_jsonl(write(data, "plain.gz"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n\n{"a": }\n', r":3: not JSON \(Expecting value, column 7\)"),
        (b'{"a": 1} {"a": 2}\n', r":1: not JSON \(Extra data, column 10\)"),
        (b'{"a": 1}\n[1]\n', ":2: not a JSON object"),
        (b'{"a": "\xff"}\n', ":1: not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", ":1: JSON that cannot be read"),
        (b"[" * 100_000, ":1: JSON that cannot be read"),
        (b"", ": the file is empty"),
        (b"\n \n", ": the file is empty"),
    ],
)
def test_errors_name_file_and_line(write, data, message):
    fails(write(data), message)
    fails(write(gzip.compress(data), "data.gz"), message)


def test_files_that_cannot_be_read(write, tmp_path):
    fails(str(tmp_path / "absent.jsonl"), ": no such file")
    fails(str(tmp_path), r": cannot be read \(Is a directory\)")
    packed = gzip.compress(b'{"a": 1}\n' * 1000)
    fails(write(packed[:-12]), ": the gzip file is damaged")
    fails(write(packed[:10] + b"\xff" * 20), ": the gzip file is damaged")


def test_require():
    assert require({"q": " two "}, "q", "data.jsonl:3") == " two "
    for row in ({}, {"q": None}, {"q": 5}, {"q": ""}, {"q": " \n"}):
        with pytest.raises(UserError, match=r'^data\.jsonl:3: no "q"; every row needs a non-empty text field "q"$'):
            require(row, "q", "data.jsonl:3")


def test_require_refuses_text_that_has_no_bytes():
    with pytest.raises(UserError, match=r'^data\.jsonl:3: "q" holds half of a surrogate pair'):
        require({"q": "\ud800"}, "q", "data.jsonl:3")
