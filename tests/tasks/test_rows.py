import gzip
import re

import pytest

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.rows import read_numbered, read_rows, require


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def fails(path: str, message: str, *reads):
    """All of `reads` raise one line that begins with the path and matches `message`."""
    for read in reads or (read_numbered, read_rows):
        with pytest.raises(UserError, match="^" + re.escape(path) + message) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def rows(path: str) -> list[dict]:
    """The rows of a JSONL file, by all readers."""
    found = [row for _, row in read_numbered(path)]
    assert [row for _, row in read_rows(path)] == found
    return found


def test_blank_lines_give_no_row_but_count(write):
    path = write(b'\n{"a": 1}\n \t\n\n{"a": 2}\n\n')
    assert read_numbered(path) == [(2, {"a": 1}), (5, {"a": 2})]
    assert read_rows(path) == [(f"{path}:2", {"a": 1}), (f"{path}:5", {"a": 2})]


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": "é"}]', '\ufeff\n [\n{"a": 1},\n{"a":\n"é"}]\n', '[{"a":1},{"a":"é"}]\r\n']
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_one_array(write, text, pack):
    path = write(pack(text.encode()))
    assert read_rows(path) == [(f"{path}:row 1", {"a": 1}), (f"{path}:row 2", {"a": "é"})]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'[{"a": 1},\n {"a": }]',
            r": not JSON \(Expecting value, line 2, column 8\); the file begins as one JSON array$",
        ),
        (b'[{"a": 1}', r": not JSON \(Expecting ',' delimiter, column 10\)"),
        (b'[{"a": 1}]\n[{"a": 2}]', r": not JSON \(Extra data, line 2, column 1\)"),
        (b'[{"a": 1}, 2]', ":row 2: not a JSON object"),
        (b"[]", ": the file is empty"),
        (b'["\xff"]', ": not UTF-8"),
        (b"[" * 100_000, ": JSON that cannot be read"),
    ],
)
def test_arrays_that_cannot_be_read(write, data, message):
    fails(write(data), message, read_rows)


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
    assert rows(write(data.encode())) == [{"a": "é…"}, {"a": 2}]


def test_a_line_separator_inside_a_string_ends_no_line(write):
    assert rows(write('{"a": "x\u2028y\x85"}\n'.encode())) == [{"a": "x\u2028y\x85"}]


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_gzip_is_known_by_its_bytes_not_its_name(write, name):
    data = b'{"a": 1}\n{"a": 2}\n'
    assert rows(write(gzip.compress(data), name)) == rows(write(data, "plain.gz"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n\n{"a": }\n', r":3: not JSON \(Expecting value, column 7\)"),
        (b'{"a": 1} {"a": 2}\n', r":1: not JSON \(Extra data, column 10\)"),
        (b'{"a": 1}\n[1]\n', ":2: not a JSON object"),
        (b'{"a": "\xff"}\n', ":1: not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", ":1: JSON that cannot be read"),
        (b'{"a": ' + b"[" * 100_000, ":1: JSON that cannot be read"),
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
