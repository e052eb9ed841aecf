"""Makes the golden files beside it: `python tests/golden/make.py [DIR]`, with the extra `parity` installed.

Every checkpoint is made, saved and run by `transformers` in float32 with attention spelt out, on one thread, from fixed
seeds: on one machine a second run gives the same bytes. Each directory holds the checkpoint and `expected.safetensors`.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import theirs
import torch
from safetensors.torch import save_file

SEQUENCES = (48, 11)
"""Lengths of the two sequences whose logits are kept."""
PROMPT = 20
"""With the 64 tokens behind it, beyond the 64 positions that the scaled model was first made for."""
LEAST_GAP = 5e-3
"""Between the two best logits of every greedy step: float32 noise is hundreds of times smaller."""

CHECKPOINTS = {
    # name: (family, changes, seed, dtype, how it is saved)
    "qwen2": ("qwen2", {}, 10, torch.float32, {}),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}, 19, torch.bfloat16, {}),
    "qwen3": ("qwen3", {}, 5, torch.float32, {}),
    "llama3": ("llama3", {}, 9, torch.float32, {"max_shard_size": "16KB"}),
    "llama3.1_tied": ("llama3.1", {}, 12, torch.float32, {}),
    "llama_bias": ("llama_bias", {}, 7, torch.float16, {}),
}


def make_model(path: Path, family: str, changes: dict, seed: int, dtype: torch.dtype, saving: dict) -> None:
    """A checkpoint, its logits on two sequences and its greedy tokens."""
    theirs.make_checkpoint(path, theirs.family_config(family, **changes), seed, dtype, **saving)
    model = theirs.load(path)
    prompt = theirs.random_ids(seed + 100, PROMPT)
    tokens, gap = theirs.greedy(model, prompt)
    ids = [theirs.random_ids(seed + 200 + n, length) for n, length in enumerate(SEQUENCES)]
    logits = [theirs.logits(model, sequence) for sequence in ids]
    spread, kinds = float(torch.cat(logits).std()), len(set(tokens.tolist()))
    print(f"{path.name}: logits' deviation {spread:.2f}, least gap {gap:.4f}, {kinds} kinds of greedy tokens")
    if gap < LEAST_GAP or kinds < 16 or not 1 < spread < 5:
        raise SystemExit(f"{path.name}: a poor test; take another seed")
    tensors = {"prompt": prompt, "greedy": tokens}
    tensors |= {f"ids.{n}": sequence for n, sequence in enumerate(ids)}
    save_file(tensors | {f"logits.{n}": values for n, values in enumerate(logits)}, path / "expected.safetensors")


def make_reward_model(path: Path) -> None:
    """A reward model in the released layout, what it says of three groups, its loss and the gradient of its heads."""
    model = theirs.ReasonRewardModel(theirs.family_config("qwen2"))
    theirs.fill(model.named_parameters(), 1)
    model.save_pretrained(path)
    batch = theirs.random_groups(2)
    labels, totals = model(theirs.rows_of(batch))
    expected, score = theirs.rubric(labels, totals)
    parts = theirs.loss_parts(labels, totals, batch["labels"], batch["totals"])
    loss = theirs.loss(parts)
    heads = {name: p for name, p in model.named_parameters() if "head" in name}
    gradients = torch.autograd.grad(loss, list(heads.values()))
    said = {"label_logits": labels, "total_logits": totals, "expected": expected, "score": score, "loss": loss}
    said |= {f"loss/{name}": part for name, part in parts.items()}
    said |= {f"gradient.{name}": value for name, value in zip(heads, gradients, strict=True)}
    save_file(batch | {k: v.detach().contiguous() for k, v in said.items()}, path / "expected.safetensors")


def make_adapter(path: Path, base: Path) -> None:
    """A PEFT adapter of the model in `base`, and the logits of both together."""
    adapted = theirs.add_adapter(theirs.load(base), 3)
    adapted.peft_config["default"].base_model_name_or_path = base.name
    adapted.save_pretrained(path, save_embedding_layers=False)  # or it asks the hub for the base
    (path / "README.md").unlink()  # an empty model card
    file = path / "adapter_config.json"  # peft keeps a set there, in any order
    config = json.loads(file.read_text())
    config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    ids = [theirs.random_ids(300 + n, length) for n, length in enumerate(SEQUENCES)]
    tensors = {f"ids.{n}": sequence for n, sequence in enumerate(ids)}
    tensors |= {f"logits.{n}": theirs.logits(adapted, sequence) for n, sequence in enumerate(ids)}
    save_file(tensors, path / "expected.safetensors")


def main(out: Path) -> None:
    """Makes every directory anew below `out`."""
    torch.set_num_threads(1)
    for name in (*CHECKPOINTS, "reward_model", "adapter"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name, made in CHECKPOINTS.items():
        make_model(out / name, *made)
    make_reward_model(out / "reward_model")
    make_adapter(out / "adapter", base=out / "qwen3")
    print(f"{sum(file.stat().st_size for file in out.rglob('*.*')) / 1e3:.0f} kB below {os.path.relpath(out)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
