"""Rows of a JSONL file; whatever is wrong with one is said with its file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, plain or gzip (told apart by their first bytes, whatever the name).

    Raises:
        UserError: the file cannot be read, has no rows, or has a line that is not a JSON object.
    """
    return [row for _, row in read_numbered(path)]


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """As `read_jsonl`, each row with its line number: they count from 1, and blank lines count but give no row."""
    rows = list(stream_jsonl(path))
    if not rows:
        raise UserError(f"{path}: the file is empty; it should hold one JSON object a line")
    return rows


def stream_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_numbered`, one row after the other: of a file of any size, and maybe without rows."""
    return ((number, _parse(line, f"{path}:{number}")) for number, line in _lines(path) if line.strip())


def require(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text `row[field]` as it is.

    Args:
        row: one row.
        field: the key to look up.
        where: the place to name in an error, for example "data.jsonl:3".

    Raises:
        UserError: the field is missing, is not text, or is blank.
    """
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'{where}: no "{field}"; every row needs a non-empty text field "{field}"')
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no tokenizer takes
        raise UserError(f'{where}: "{field}" holds half of a surrogate pair (\\ud800 to \\udfff); remove it') from None
    return text


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, split as bytes: splitting text would also cut at U+2028 inside a JSON string."""
    number = 0
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            raw.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if compressed else raw, start=1):
                yield number, line.removeprefix(_UTF8_MARK) if number == 1 else line
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip file is damaged after line {number} ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg}, column {error.colno}); every line is one object") from None
    except (ValueError, RecursionError) as error:  # numbers of over 4300 digits; thousands of nested brackets
        raise UserError(f"{where}: JSON that cannot be read ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; every line should look like {{...}}")
    return row
