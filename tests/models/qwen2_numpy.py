"""Qwen2 written a second time: float64 numpy, one sequence and one head at a time, `transformers` names."""

import numpy as np


def _norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return np.stack([row / np.sqrt((row * row).sum() / len(row) + eps) for row in x]) * scale


def _turn(x: np.ndarray, theta: float) -> np.ndarray:
    """Rotary positions as complex numbers: entry i is the real part and entry i + Q/2 the imaginary part."""
    half = x.shape[-1] // 2
    out = np.empty_like(x)
    for position, row in enumerate(x):
        wave = np.array([theta ** (-2 * i / x.shape[-1]) for i in range(half)])
        turned = (row[:half] + 1j * row[half:]) * np.exp(1j * position * wave)
        out[position] = np.concatenate([turned.real, turned.imag])
    return out


def forward(weights: dict, tokens, heads: int, kv_heads: int, theta: float, eps: float):
    """Final hidden states [T, D] and logits [T, V] of one sequence; y = x @ W.T + b throughout."""
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    embedding = weights["model.embed_tokens.weight"]
    x = embedding[np.asarray(tokens)]
    layer = 0
    while f"model.layers.{layer}.input_layernorm.weight" in weights:
        w = {name.removeprefix(f"model.layers.{layer}."): value for name, value in weights.items()}

        def linear(name: str, x: np.ndarray, w=w) -> np.ndarray:
            return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

        seen = _norm(x, w["input_layernorm.weight"], eps)
        queries = np.split(linear("self_attn.q_proj", seen), heads, axis=-1)
        keys = np.split(linear("self_attn.k_proj", seen), kv_heads, axis=-1)
        values = np.split(linear("self_attn.v_proj", seen), kv_heads, axis=-1)
        mixed = []
        for head, query in enumerate(queries):
            shared = head // (heads // kv_heads)
            query, key, value = _turn(query, theta), _turn(keys[shared], theta), values[shared]
            rows = []
            for t in range(len(x)):
                weight = np.exp(key[: t + 1] @ query[t] / np.sqrt(len(query[t])))
                rows.append(weight / weight.sum() @ value[: t + 1])
            mixed.append(np.stack(rows))
        x = x + linear("self_attn.o_proj", np.concatenate(mixed, axis=-1))
        seen = _norm(x, w["post_attention_layernorm.weight"], eps)
        gate = linear("mlp.gate_proj", seen)
        x = x + linear("mlp.down_proj", gate / (1 + np.exp(-gate)) * linear("mlp.up_proj", seen))
        layer += 1
    hidden = _norm(x, weights["model.norm.weight"], eps)
    return hidden, hidden @ weights.get("lm_head.weight", embedding).T
