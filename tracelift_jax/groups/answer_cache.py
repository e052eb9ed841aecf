"""The answers of servers, kept in a file: what was answered once is not asked again.

A row is written, and safe from a killed process, before the answer is used.
"""

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracelift_jax.errors import UserError

_TABLE = """CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, model TEXT, text TEXT, finish TEXT, prompt_tokens INTEGER, completion_tokens INTEGER
)"""


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        text: what the model wrote, "" for nothing. finish: why it stopped: "stop", "length", ...
        prompt_tokens: as the server counts them; 0 where it does not. completion_tokens: likewise.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


def answer_key(request: Mapping[str, Any], attempt: int) -> str:
    """The sha256 of all that decides an answer: model, messages, settings, the structure asked for, which attempt."""
    told = json.dumps({"request": request, "attempt": attempt}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(told.encode()).hexdigest()


class AnswerCache:
    """Answers by key, in an SQLite file that one process has at a time.

    Raises:
        UserError: from every method where the file cannot be read or written.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self._path}: cannot be opened ({error})") from None
        try:
            # Of the process alone, so that no two builds pay for the same answer.
            for line in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                self._file.execute(f"PRAGMA {line}")
            self._file.execute(_TABLE)
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            self._file.close()
            raise self._told(error) from None

    def _told(self, error: sqlite3.Error) -> UserError:
        if "locked" in str(error):
            return UserError(f"{self._path}: is in use by another build; wait for it or give another --cache")
        return UserError(f"{self._path}: cannot be used as a cache of answers ({error}); give another --cache")

    def get(self, key: str) -> Reply | None:
        """The answer kept under `key`."""
        try:
            row = self._file.execute(
                "SELECT text, finish, prompt_tokens, completion_tokens FROM answers WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error as error:
            raise self._told(error) from None
        return None if row is None else Reply(*row)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keeps an answer."""
        try:
            self._file.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", (key, model, *dataclasses.astuple(reply))
            )
        except sqlite3.Error as error:
            raise self._told(error) from None

    def close(self) -> None:
        """Leaves one whole file behind."""
        self._file.close()
