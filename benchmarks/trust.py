"""The report on a reward model that is already trained: what `tracelift train-rm` writes behind its last step.

    python benchmarks/trust.py MODEL_DIR --gin_file=F [--gin.NAME=VALUE ...] --out=DIR

MODEL_DIR is a reward model as `train-rm` leaves it in RUN_DIR/model; "assets/dial/reward_model" is the shipped one. The
gin file is the experiment whose held-out groups, prompts and rooms are used; its own model is not read. DIR gets
`trust.md`, `trust.png` and `trust.json`.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from tracelift_jax import config, gin_config
from tracelift_jax.errors import UserError
from tracelift_jax.models import build
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.mesh import make_mesh
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.reward_model import make_judge
from tracelift_jax.train.trust_report import write_report


def run(model_dir: str, experiment: config.TrainRm, out: Path) -> None:
    """Writes the report of the reward model in `model_dir` on the held-out groups of `experiment`."""
    model = dataclasses.replace(experiment.model, path=model_dir, grow=0)
    tokenizer = Tokenizer.load(build.find(experiment.tokenizer or model_dir), build.find(model_dir))
    mesh = make_mesh(experiment.mesh)
    shape, _ = build.without_head(build.model_config(model, len(tokenizer)), {})
    params, heads = build.load_reward_model(model, shape, mesh, experiment.mesh)
    pieces = Pieces(experiment.prompts, tokenizer)
    judge = make_judge(experiment, pieces, mesh, Transformer(shape), {"params": params}, heads)
    groups = (experiment.held_out or experiment.groups).groups("test")
    write_report(out, judge, groups, experiment.evaluation_groups, experiment.process_bench)


def main(argv: list[str]) -> None:
    """The command."""
    files, bindings, rest = gin_config.parse_flags(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("model_dir", metavar="MODEL_DIR")
    parser.add_argument("--out", required=True, help="the directory to write")
    args = parser.parse_args(rest)
    run(args.model_dir, gin_config.load(config.TrainRm, files, bindings).value, Path(args.out))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"trust: {error}")
