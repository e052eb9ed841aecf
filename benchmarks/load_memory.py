"""How much host memory loading a checkpoint takes beyond the parameters themselves.

    python benchmarks/load_memory.py [--shape=qwen2.5-1.5b] [--dtype=bfloat16] [--generate=N] [--folder=DIR]

Writes a checkpoint of that shape with arbitrary values into a temporary folder (3.1 GB for qwen2.5-1.5b), loads it in
a process of its own with `tracelift_jax.models.hf.load`, and prints that process's peak resident memory. On the CPU
backend the parameters lie in host memory too, so what counts is the peak less what was there before and less the
parameters. On a device with memory of its own, parameters do not count. With --generate, N tokens are then drawn behind
a prompt of 64, and the peak of all of it is printed.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {"width": 896, "ff_width": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "head_width": 64},
    "qwen2.5-1.5b": {"width": 1536, "ff_width": 8960, "layers": 28, "heads": 12, "kv_heads": 2, "head_width": 128},
}


def write_checkpoint(folder: Path, shape: str, shard_bytes: int = 2 * 10**9) -> int:
    """Writes a bfloat16 checkpoint; returns the bytes of its largest tensor."""
    import ml_dtypes

    from tracelift_jax.models.hf_config import ARCHITECTURES, config_json
    from tracelift_jax.models.hf_layout import slots
    from tracelift_jax.models.tensor_files import Tensor, write_tensors
    from tracelift_jax.models.transformer import ModelConfig

    config = ModelConfig(vocab_size=151_936, rope_theta=1e6, param_dtype="bfloat16", **SHAPES[shape])
    some = (0.02 * np.random.default_rng(0).standard_normal(2**20)).astype(ml_dtypes.bfloat16)
    tensors = {
        slot.name: Tensor(slot.shape, some.dtype, lambda slot=slot: np.resize(some, slot.shape))
        for slot in slots(config)
    }
    write_tensors(folder, tensors, shard_bytes)
    (folder / "config.json").write_text(json.dumps(config_json(config, ARCHITECTURES["qwen2"])))
    return max(tensor.nbytes for tensor in tensors.values())


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Most bytes that this process ever had in memory; getrusage would begin with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def generate(config: Any, params: Any, tokens: int) -> list[int]:
    """Greedy tokens behind an arbitrary prompt."""
    import jax
    import jax.numpy as jnp

    from tracelift_jax.models.transformer import Transformer
    from tracelift_jax.rollout.execute import read
    from tracelift_jax.rollout.sample import Sampling, sample
    from tracelift_jax.text.spans import Automaton, Tokens

    model, never = Transformer(config), Automaton(np.zeros((1, config.vocab_size), np.int32), np.zeros(1, bool))
    prompt = Tokens(jnp.arange(1000, 1064)[None], jnp.ones((1, 64), bool))

    @jax.jit
    def run(params: Any) -> Any:
        variables = {"params": params}
        shown = read(model, variables, prompt)
        how = Sampling(tokens, temperature=0.0)
        return sample(model, variables, shown.end, shown.context, (1,), jax.random.key(0), never, (), how).tokens.ids

    return np.asarray(run(params))[0].tolist()


def measure(folder: Path, dtype: str, tokens: int, send: Any) -> None:
    """Loads in this process, generates, and sends what it took."""
    import jax

    from tracelift_jax.models import hf

    jax.device_put(np.zeros(1)).block_until_ready()
    before, began = resident(), time.perf_counter()
    config, params = hf.load(folder, dtype=dtype)
    jax.block_until_ready(params)
    found: dict[str, Any] = {"before": before, "peak": peak(), "seconds": time.perf_counter() - began}
    found["parameters"] = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    found["on_host"] = jax.default_backend() == "cpu"
    if tokens:
        found["generated"] = generate(config, params, tokens)
        found["peak_generating"] = peak()
    send.send(found)


def run(folder: Path, shape: str, dtype: str, tokens: int = 0) -> dict[str, Any]:
    """Writes, loads and returns the measurements; `extra` is peak - before - parameters on the host."""
    largest = write_checkpoint(folder, shape)
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=measure, args=(folder, dtype, tokens, send))
    child.start()
    send.close()
    found = receive.recv()
    child.join()
    found["largest_tensor"] = largest
    found["extra"] = found["peak"] - found["before"] - found["parameters"] * found["on_host"]
    return found


def main() -> None:
    """Prints one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-1.5b")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--generate", type=int, default=0, metavar="N")
    parser.add_argument("--folder", type=Path, help="where the checkpoint goes for the time being")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = run(Path(folder), args.shape, args.dtype, args.generate)
    for name in ("before", "peak", "parameters", "extra", "largest_tensor"):
        print(f"{name:15} {found[name] / 1e6:8.0f} MB")
    print(f"extra / largest_tensor {found['extra'] / found['largest_tensor']:.2f}   loaded in {found['seconds']:.1f} s")
    if args.generate:
        print(f"peak {found['peak_generating'] / 1e6:.0f} MB after generating {found['generated']}")


if __name__ == "__main__":
    main()
