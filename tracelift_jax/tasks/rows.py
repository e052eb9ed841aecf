"""Rows of a file of JSON Lines or of one JSON array; whatever is wrong with one is said with its file and place."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tracelift_jax.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


def read_rows(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file or of a file that is one JSON array, plain or gzip, each with its place.

    The place is FILE:LINE, or FILE:row N in an array; both count from 1.

    Raises:
        UserError: the file cannot be read, has no rows, or holds something else than JSON objects.
    """
    lines = list(_lines(path))
    first = next((line for _, line in lines if line.strip()), b"")
    if not first.lstrip().startswith(b"["):
        return [(f"{path}:{number}", row) for number, row in _some(_rows(path, lines), path)]
    array = _load(b"".join(line for _, line in lines), str(path), "the file begins as one JSON array")
    places = [(f"{path}:row {number}", row) for number, row in enumerate(array, start=1)]
    return _some(((place, _object(row, place)) for place, row in places), path)


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file with their lines; plain or gzip, told apart by their first bytes.

    Lines count from 1; blank ones count but give no row.

    Raises:
        UserError: the file cannot be read, has no rows, or has a line that is not a JSON object.
    """
    return _some(stream_jsonl(path), path)


def stream_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_numbered`, one row after the other: of a file of any size, and maybe without rows."""
    return _rows(path, _lines(path))


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
    check_text(text, field, where)
    return text


def check_text(text: str, field: str, where: str) -> None:
    """Refuses half of a surrogate pair, which JSON can spell and no tokenizer takes.

    Raises:
        UserError: `text` holds one.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f'{where}: "{field}" holds half of a surrogate pair (\\ud800 to \\udfff); remove it') from None


def _some(rows: Iterable[T], path: str | Path) -> list[T]:
    """The rows, of which there must be one."""
    found = list(rows)
    if not found:
        raise UserError(f"{path}: the file is empty; it should hold one JSON object a line")
    return found


def _rows(path: str | Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines:
        if line.strip():
            where = f"{path}:{number}"
            yield number, _object(_load(line, where, "every line is one object"), where)


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


def _load(data: bytes, where: str, expected: str) -> Any:
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not JSON ({error.msg}, {place}); {expected}") from None
    except (ValueError, RecursionError) as error:  # numbers of over 4300 digits; thousands of nested brackets
        raise UserError(f"{where}: JSON that cannot be read ({error})") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; every row should look like {{...}}")
    return row
