"""Hugging Face tokenizers, and the bytes behind each of their tokens."""

import dataclasses
import functools
import shutil
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jax import Array

from tracelift_jax.errors import UserError

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What a Hugging Face tokenizer may consist of."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenBytes:
    """The bytes every token stands for, so that text can be read on device.

    Attributes:
        data: uint8 [V, W], each token's bytes, zero-padded on the right to the longest token's W.
        length: int32 [V], how many of them count; 0 for control tokens (pad, end of text, ...), which are no text.
    """

    data: Array | np.ndarray
    length: Array | np.ndarray


@functools.cache
def _byte_of_unicode() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE vocabularies use for the 256 bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


class Tokenizer:
    """A Hugging Face fast tokenizer whose tokens are pieces of bytes.

    `encode` never adds special tokens and reads control tokens inside `text` as ordinary text.
    """

    def __init__(self, backend, where: Path):
        self._backend = backend
        self._where = where
        if backend.pad_token_id is None:
            raise UserError(f"{where}: the tokenizer has no pad token; set pad_token in its tokenizer_config.json")
        if backend.eos_token_id is None:
            raise UserError(f"{where}: the tokenizer has no end token; set eos_token in its tokenizer_config.json")
        self.pad_id: int = backend.pad_token_id
        self.eos_id: int = backend.eos_token_id

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads a tokenizer directory.

        Raises:
            UserError: the directory is missing or unreadable, or its tokenizer lacks a pad or end token.
        """
        if not Path(path).is_dir():
            raise UserError(f"{path}: no such tokenizer directory")
        import transformers  # slow to import: only where a tokenizer is really read

        try:
            # tokenizer.json is the tokenizer. `AutoTokenizer` would look at the model's config.json beside it instead,
            # and for Qwen2 put a pre-tokenizer of its own in place of the file's.
            whole = (Path(path) / "tokenizer.json").is_file()
            reader = transformers.PreTrainedTokenizerFast if whole else transformers.AutoTokenizer
            backend = reader.from_pretrained(str(path), local_files_only=True)
        except Exception as error:  # the tokenizers library raises bare Exceptions, and TypeErrors, on damaged files
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{path}: not a Hugging Face tokenizer directory ({reason})") from error
        return cls(backend, Path(path))

    def __len__(self) -> int:
        return len(self._backend)

    def save(self, path: str | Path) -> None:
        """Copies the tokenizer's files.

        They are not written anew: beside a model's config.json, `transformers` would pick another tokenizer class for
        what `save_pretrained` writes, and cut text differently.
        """
        for name in FILES:
            if (self._where / name).is_file():
                shutil.copyfile(self._where / name, Path(path) / name)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return self._backend.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens` from the byte table; control tokens vanish, broken UTF-8 becomes U+FFFD."""
        return self.bytes_of(tokens).decode("utf-8", errors="replace")

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`; ids beyond the tokenizer's (padded embeddings) stand for nothing."""
        pieces = self._pieces
        return b"".join(pieces[int(t)] for t in tokens if int(t) < len(pieces))

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        control = set(self._backend.all_special_ids) | {
            index for index, token in self._backend.added_tokens_decoder.items() if token.special
        }
        added = {index: token.content for index, token in self._backend.added_tokens_decoder.items()}
        names = self._backend.convert_ids_to_tokens(list(range(len(self))))
        table = _byte_of_unicode()
        pieces = []
        for index, name in enumerate(names):
            if index in control or name is None:
                pieces.append(b"")
            elif index in added:
                pieces.append(added[index].encode())
            elif all(c in table for c in name):
                pieces.append(bytes(table[c] for c in name))
            else:
                raise UserError(
                    f"{self._where}: token {index} ({name!r}) is not byte-level BPE; only such are supported"
                )
        return pieces

    def token_bytes(self, vocab_size: int | None = None) -> TokenBytes:
        """The byte table with `vocab_size` rows (at least `len(self)`; models pad their embeddings).

        Raises:
            UserError: the model's vocabulary is smaller than the tokenizer's.
        """
        pieces = self._pieces
        rows = len(pieces) if vocab_size is None else vocab_size
        if rows < len(pieces):
            raise UserError(f"{self._where}: {len(pieces)} tokens do not fit the model's vocabulary of {rows}")
        width = max(map(len, pieces))
        data = np.zeros((rows, width), np.uint8)
        length = np.zeros(rows, np.int32)
        for index, piece in enumerate(pieces):
            data[index, : len(piece)] = np.frombuffer(piece, np.uint8)
            length[index] = len(piece)
        return TokenBytes(data, length)
