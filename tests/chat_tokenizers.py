"""Small byte-level tokenizers that behave like those of chat models, and the templates they chat in."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = (
    "Janet has 3 ducks that lay 16 eggs. How many eggs does she sell at the market, and for how much?\n\n"
    "<reasoning> 16 - 3 = 13 ; 13 * 2 = 26 </reasoning>\n\nThe answer is 26. {task_type} What does the dial show?\n"
)
WORDS = r"'(?:s|t|re|ve|m|ll|d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THOUGHTS = ("<think>", "</think>")

LLAMA = (  # begins the text itself, and strips what is said
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (  # answers with thoughts already closed where thinking is switched off
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def write_tokenizer(
    folder: Path,
    special: tuple[str, ...],
    plain: tuple[str, ...] = (),
    template: str | None = None,
    begin: str | None = None,
    **tokens: str,
) -> Path:
    """Writes a tokenizer directory; returns `folder`.

    Args:
        special, plain: added tokens, marked special and not.
        template: its chat template. begin: a token to put in front of every sequence.
        tokens: `eos_token`, `pad_token`, `bos_token`, ...
    """
    words = Tokenizer(models.BPE(ignore_merges=True))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        [CORPUS] * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    words.add_tokens([AddedToken(name, normalized=False, special=name in special) for name in (*special, *plain)])
    if begin:
        place = (begin, words.token_to_id(begin))
        words.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[place])
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **tokens}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": template} if template else {}))
    )
    return folder


def write_llama(folder: Path, template: str | None = LLAMA) -> Path:
    """Like Llama 3's: a token in front of every sequence, no pad token."""
    bos, eot = HEADERS[0], HEADERS[3]
    return write_tokenizer(folder, HEADERS, (), template, begin=bos, bos_token=bos, eos_token=eot)


def write_qwen3(folder: Path, template: str | None = QWEN3) -> Path:
    """Like Qwen3's: thoughts between tokens that are added but not special."""
    return write_tokenizer(folder, TURNS, THOUGHTS, template, eos_token=TURNS[2], pad_token=TURNS[0])
