"""The dial world's tokenizer: every word of the world is one token, every other text still has its bytes.

`python -m tracelift_jax.tasks.dial_tokenizer OUT_DIR` writes it in Hugging Face format. The copy that ships is in
`tracelift_jax/assets/dial/tokenizer`.

Merges learned by byte-pair encoding would spend most of so small a vocabulary on halves of words. So the vocabulary
is the 256 bytes and the whole pieces that the pre-tokenizer finds in text of the world; the model looks a piece
up whole (`ignore_merges`) and otherwise spells it in bytes.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tracelift_jax.errors import UserError
from tracelift_jax.tasks.dial import DialTask

ASSETS = Path(__file__).parent.parent / "assets" / "dial" / "tokenizer"

PAD, END = "<|pad|>", "<|endoftext|>"
MAX_VOCAB = 448

# A digit or an operator takes its leading space along, so that one step of reasoning is five tokens. A tag never does:
# it then starts on a token boundary whatever stands before it, and splicing tags gives the tokens that encoding gives.
_PIECE = r"</?reasoning>| ?[A-Za-z]+| ?[0-9]| ?[-+*=;]|\n|[^A-Za-z0-9\s]"


def corpus(problems: int = 4000) -> Iterator[str]:
    """Text of every kind that the roles read and write."""
    for problem in DialTask().problems("train")[:problems]:
        yield f"{problem.text}\n<reasoning> {problem.reasoning} </reasoning>\nAnswer: {problem.answer}"
    yield "".join(f" {digit}" for digit in range(10))


def train_tokenizer() -> tokenizers.Tokenizer:
    """Makes the tokenizer; the same every time."""
    splitter = pre_tokenizers.Split(tokenizers.Regex(_PIECE), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pre_tokenizer = pre_tokenizers.Sequence([splitter, to_bytes])
    pieces = {piece for text in corpus() for piece, _ in pre_tokenizer.pre_tokenize_str(text) if len(piece) > 1}
    tokens = [PAD, END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(pieces)]
    if len(tokens) > MAX_VOCAB:
        raise ValueError(f"the dial world has grown to {len(tokens)} tokens; its models expect at most {MAX_VOCAB}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, END])
    return tokenizer


def build(path: str | Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into the directory `path`, which is made if it is missing."""
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        train_tokenizer().save(str(directory / "tokenizer.json"))
        # Written here, not by `save_pretrained`: version 5 of transformers names a class that version 4 does not know.
        config: dict[str, str | bool] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": END,
        }
        config["clean_up_tokenization_spaces"] = False  # decoding must give back every space
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot write the tokenizer ({error.strerror})") from error


def main(arguments: list[str]) -> int:
    """The command line."""
    if len(arguments) != 1:
        print("usage: python -m tracelift_jax.tasks.dial_tokenizer OUT_DIR", file=sys.stderr)
        return 2
    try:
        build(arguments[0])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
