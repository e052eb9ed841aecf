"""Commands for reward models: score, serve."""

from argparse import ArgumentParser

from tracelift_jax.commands.command import Command, Given


def _score_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("source", metavar="IN.jsonl", help='lines of {"problem", "reasoning", ...}; may be gzip')
    sub.add_argument("target", metavar="OUT.jsonl", help='the same lines with "score", "total" and "rubric"')


def _score(given: Given) -> None:
    from tracelift_jax.config import Scorer
    from tracelift_jax.serve.files import run_score

    run_score(given.value(Scorer), given.args.source, given.args.target)


def _serve_arguments(sub: ArgumentParser) -> None:
    sub.add_argument("--rm", action="store_true", required=True, help="a reward model is what is served")
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if not given")
    sub.add_argument("--port", type=int, default=8000, help="8000 if not given; 0 takes a free one")


def _serve(given: Given) -> None:
    from tracelift_jax.config import Scorer
    from tracelift_jax.serve.server import run_serve

    run_serve(given.value(Scorer), given.args.host, given.args.port)


COMMANDS = {
    "score": Command(
        "grade problems and reasonings of a file with a reward model; started again, it continues",
        "tracelift score in.jsonl out.jsonl --gin_file=experiments/dial/score.gin",
        _score_arguments,
        _score,
    ),
    "serve": Command(
        "serve a reward model over HTTP: POST /score, GET /health, GET /metrics",
        "tracelift serve --rm --gin_file=experiments/dial/score.gin",
        _serve_arguments,
        _serve,
    ),
}
