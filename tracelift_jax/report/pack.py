"""A page's data in a single text of base64: gzip of a JSON header with the texts, and columns of floats behind it.

    uint32 length of the header | header, UTF-8, padded with blanks to 8 bytes | columns, little-endian

Floats of the records are float32 written out in decimal, so that four bytes hold each of them exactly.
"""

import base64
import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Floats = Mapping[str, Sequence[float]]


class Strings:
    """Each text once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str | None) -> int:
        """Where a text stands among all; -1 for None."""
        return -1 if text is None else self._places.setdefault(text, len(self._places))

    def all(self) -> list[str]:
        """The texts in their order."""
        return list(self._places)


def pack(header: Mapping[str, Any], floats: Floats) -> str:
    """Base64 of everything; the header must not have "columns".

    Args:
        floats: columns by name; each is kept exactly, in 4 bytes a number where these do, else in 8.
    """
    columns, parts, offset = {}, [], 0
    for name, values in sorted(floats.items(), key=lambda item: _width(item[1]), reverse=True):
        kind = f"<f{_width(values)}"
        data = np.asarray(values, kind).tobytes()
        columns[name] = {"offset": offset, "length": len(values), "width": _width(values)}
        parts.append(data)
        offset += len(data)
    text = json.dumps({**header, "columns": columns}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    said = text.encode("utf-8", "surrogatepass")
    said += b" " * (-(len(said) + 4) % 8)
    whole = struct.pack("<I", len(said)) + said + b"".join(parts)
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode()


def _width(values: Sequence[float]) -> int:
    exact = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        short = exact.astype(np.float32).astype(np.float64)
    return 4 if np.array_equal(exact, short, equal_nan=True) else 8
