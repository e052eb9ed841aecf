"""Hugging Face tokenizers, and the bytes behind each of their tokens."""

import dataclasses
import functools
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import jax
import numpy as np
import tokenizers
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

GENERATION = "generation_config.json"
"""Where a Hugging Face model says which tokens end its text."""

DATE = "26 Jul 2024"
"""The day that chat templates which print one are told. Some would ask the clock: a run continued tomorrow would then
go on with other prompts. This is the day that Llama 3.1's template names when nobody tells it."""


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


def _generation_ends(file: Path, added: set[int], size: int) -> tuple[int, ...]:
    """The end tokens that a model's generation_config.json names; none where there is no such file."""
    if not file.is_file():
        return ()
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a JSON file ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(config).__name__}")
    named = config.get("eos_token_id")
    ends = named if isinstance(named, list) else [] if named is None else [named]
    for end in ends:
        if type(end) is not int:
            raise UserError(f'{file}: "eos_token_id" must be a token id or a list of them, got {str(named)[:80]!r}')
        if not 0 <= end < size:
            raise UserError(f'{file}: "eos_token_id" {end} is outside the vocabulary of {size} tokens')
        if end not in added:
            raise UserError(
                f'{file}: "eos_token_id" {end} is ordinary text; remove it, and name its text in Prompts.stop'
            )
    return tuple(ends)


class Tokenizer:
    """A Hugging Face fast tokenizer whose tokens are pieces of bytes.

    Added tokens, special or not, are control tokens: `encode` never gives one, whatever stands in the text, and only
    `encode_template` does. Nothing is ever added to a text.

    Attributes:
        where: the directory, for messages.
        eos_id: the end token that answers are taught and scored with.
        ends: every token that ends what a model writes, `eos_id` among them.
        pad_id: fills slots that nothing sees.
        begin: what the tokenizer wants in front of every sequence, or nothing.
    """

    def __init__(self, backend, where: Path, models: Sequence[Path]):
        self._backend = backend
        self._generation = [model / GENERATION for model in models]
        self.where = where
        self._whole: tokenizers.Tokenizer = backend.backend_tokenizer
        self._whole.encode_special_tokens = False
        self._whole.no_truncation()
        self._whole.no_padding()
        # The same model without any added token: it cannot but read text as text. The two share their vocabulary.
        self._text = tokenizers.Tokenizer(self._whole.model)
        self._text.normalizer = self._whole.normalizer
        self._text.pre_tokenizer = self._whole.pre_tokenizer
        self._added: set[int] = set(backend.added_tokens_decoder)
        first = () if backend.eos_token_id is None else (backend.eos_token_id,)
        named = [_generation_ends(file, self._added, len(self)) for file in self._generation]
        self.ends: tuple[int, ...] = tuple(dict.fromkeys(itertools.chain(first, *named)))
        if not self.ends:
            raise UserError(f"{where}: the tokenizer has no end token; set eos_token in its tokenizer_config.json")
        self.eos_id: int = self.ends[0]
        self.pad_id: int = self.eos_id if backend.pad_token_id is None else backend.pad_token_id
        sample = self._whole.encode("x", add_special_tokens=True)
        in_front = itertools.takewhile(lambda pair: pair[1], zip(sample.ids, sample.special_tokens_mask, strict=True))
        self.begin: tuple[int, ...] = tuple(token for token, _ in in_front)

    @classmethod
    def load(cls, path: str | Path, *models: str | Path) -> "Tokenizer":
        """Reads a tokenizer directory.

        Args:
            path: the directory.
            models: directories of the models that write, whose generation_config.json may name more end tokens than the
                tokenizer does; `path` where none is given. What ends one of them ends all.

        Raises:
            UserError: the directory is missing or unreadable, there is no end token, or generation_config.json names
                one that cannot be.
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
        return cls(backend, Path(path), [Path(model) for model in models or (path,)])

    def __len__(self) -> int:
        return len(self._backend)

    @functools.cached_property
    def controls(self) -> frozenset[str]:
        """How the control tokens are written."""
        return frozenset(token.content for token in self._backend.added_tokens_decoder.values())

    def save(self, path: str | Path) -> None:
        """Copies the tokenizer's files, and the first model's generation_config.json.

        They are not written anew: beside a model's config.json, `transformers` would pick another tokenizer class for
        what `save_pretrained` writes, and cut text differently.
        """
        for file in (*(self.where / name for name in FILES), self._generation[0]):
            if file.is_file():
                shutil.copyfile(file, Path(path) / file.name)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, in which nothing is control."""
        ids = self._text.encode(text, add_special_tokens=False).ids
        if self._added.isdisjoint(ids):
            return ids
        # The model's own vocabulary may hold a control token too, and find it in text: then it is spelt in bytes.
        return [piece for token in ids for piece in (self._spelt(token) if token in self._added else (token,))]

    def _spelt(self, token: int) -> list[int]:
        """One token for each byte of a vocabulary entry."""
        name = cast(str, self._text.id_to_token(token))
        letters = [found for letter in name if (found := self._text.token_to_id(letter)) is not None]
        if len(letters) < len(name):
            raise UserError(f"{self.where}: no tokens for the bytes of {name!r}; only byte-level BPE is supported")
        return letters

    def encode_template(self, template: str, fill: Mapping[str, str] | None = None) -> list[int]:
        """Token ids of text by the experiment's author, in which control tokens are recognised.

        Args:
            template: the text.
            fill: text to put in place of words of the template. It is tokenized together with what stands around it,
                as `encode` does: nothing in it is control.
        """
        words = dict(fill or {})

        def filled(run: str) -> str:
            return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], run) if words else run

        whole = self._whole.encode(template, add_special_tokens=False)
        ids, start = [], 0
        for token, (first, last) in zip(whole.ids, whole.offsets, strict=True):
            if token in self._added:
                ids += [*self.encode(filled(template[start:first])), token]
                start = last
        return ids + self.encode(filled(template[start:]))

    def chat(self, system: str, user: str, thinking: bool) -> str:
        """A conversation in the tokenizer's chat template, up to where the model is to write.

        Args:
            system: the system message; "" leaves it to the template. user: the one turn before the model's.
            thinking: whether templates that can (Qwen3's) let the model think before it answers.

        Raises:
            UserError: there is no template, or it refuses these messages.
        """
        if not self._backend.chat_template:
            raise UserError(f"{self.where}: the tokenizer has no chat template; use Frame prompts, not Chat")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        try:
            return self._backend.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking, date_string=DATE
            )
        except Exception as error:  # a template is a program, and may fail in any way
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{self.where}: the chat template cannot be used ({reason})") from error

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens` from the byte table; control tokens vanish, broken UTF-8 becomes U+FFFD."""
        return self.bytes_of(tokens).decode("utf-8", errors="replace")

    def spell(self, tokens: Iterable[int]) -> str:
        """As `decode`, but control tokens are written by their names."""
        names = self._names
        written = (names[token] if token in names else self.bytes_of((token,)) for token in map(int, tokens))
        return b"".join(written).decode("utf-8", errors="replace")

    @functools.cached_property
    def _names(self) -> dict[int, bytes]:
        return {index: token.content.encode() for index, token in self._backend.added_tokens_decoder.items()}

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`; ids beyond the tokenizer's (padded embeddings) stand for nothing."""
        pieces = self._pieces
        return b"".join(pieces[int(t)] for t in tokens if int(t) < len(pieces))

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        control = {*self._backend.all_special_ids, *self._added}
        names = self._backend.convert_ids_to_tokens(list(range(len(self))))
        table = _byte_of_unicode()
        pieces = []
        for index, name in enumerate(names):
            if index in control or name is None:
                pieces.append(b"")
            elif all(c in table for c in name):
                pieces.append(bytes(table[c] for c in name))
            else:
                raise UserError(
                    f"{self.where}: token {index} ({name!r}) is not byte-level BPE; only such are supported"
                )
        return pieces

    def check_vocabulary(self, vocab_size: int) -> None:
        """Refuses a model's vocabulary that lacks some of the tokenizer's tokens (models may pad theirs).

        Raises:
            UserError: it is too small.
        """
        if vocab_size < len(self):
            raise UserError(f"{self.where}: {len(self)} tokens do not fit the model's vocabulary of {vocab_size}")

    def token_bytes(self, vocab_size: int | None = None) -> TokenBytes:
        """The byte table with `vocab_size` rows (at least `len(self)`; models pad their embeddings).

        Raises:
            UserError: the model's vocabulary is smaller than the tokenizer's.
        """
        rows = len(self) if vocab_size is None else vocab_size
        self.check_vocabulary(rows)
        pieces = self._pieces
        width = max(map(len, pieces))
        data = np.zeros((rows, width), np.uint8)
        length = np.zeros(rows, np.int32)
        for index, piece in enumerate(pieces):
            data[index, : len(piece)] = np.frombuffer(piece, np.uint8)
            length[index] = len(piece)
        return TokenBytes(data, length)
