"""A small tokenizer for a small reward model, made from the text of groups: byte-level BPE over whole words.

    python experiments/gsm8k/small/tokenizer.py GROUPS.jsonl [GROUPS.jsonl ...] --out=DIR

Each digit is a token of its own, so that arithmetic can be learnt digit by digit, and so is each tag. The vocabulary
has 4,096 tokens where Qwen2.5's has 151,665, of which a small model would be little else than the embedding.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tracelift_jax.groups.load import load_groups
from tracelift_jax.tasks.dial_tokenizer import END, PAD

SIZE = 4096
# A space goes with the word or the sign behind it, but neither with a digit nor with a tag: "48" is the same two tokens
# wherever it stands, and a tag starts on a token boundary whatever stands before it.
PIECE = r"</?reasoning>| ?[A-Za-z]+|[0-9]| ?[^\s<A-Za-z0-9]|\s"


def corpus(files: Sequence[str]) -> Iterator[str]:
    """Problems and true traces of all groups; flawed traces have the same words."""
    for file in files:
        for group in load_groups(file):
            yield f"{group.problem}\n"
            for trace in group.positives:
                yield f"<reasoning> {trace.reasoning} </reasoning>"


def train(files: Sequence[str]) -> tokenizers.Tokenizer:
    """Makes the tokenizer; the same every time for the same groups."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    splitter = pre_tokenizers.Split(tokenizers.Regex(PIECE), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(files), trainer)
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("groups", nargs="+", metavar="GROUPS.jsonl", help="what `tracelift build-groups` wrote")
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args.groups).save(str(args.out / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": END}
    (args.out / "tokenizer_config.json").write_text(
        json.dumps({**config, "clean_up_tokenization_spaces": False}, indent=2) + "\n"
    )
