"""`tracelift <command>`: reads gin files, runs an experiment, and turns bad input into one line and exit code 2."""

import logging
import os
import sys
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence

from tracelift_jax.commands import COMMANDS, Given
from tracelift_jax.errors import Interrupted, UserError
from tracelift_jax.parallel.join import ALONE, several_told

GIN_FILE = """\
  --gin_file=F        experiment file, repeatable; export has the run directory's
"""
BINDINGS = """\
  --gin.NAME=VALUE    a macro or binding on top of the files, repeatable: --gin.STEPS=20, --gin.Train.batch_size=8
"""
USAGE = f"Every command but verify and report takes\n{GIN_FILE}{BINDINGS}"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="tracelift",
        description="Train reasoning planners with executor-grounded rewards.",
        epilog=USAGE,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        example = f"example:\n  {command.example}"
        sub = commands.add_parser(
            name,
            help=command.what,
            description=command.what[0].upper() + command.what[1:] + ".",
            epilog=example if command.gin == "none" else f"{USAGE}\n{example}",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(sub)
    return parser


def _start(name: str, given: Given) -> None:
    """Runs one command."""
    command = COMMANDS[name]
    if command.gin == "none" and (given.files or given.bindings):
        raise UserError(f"tracelift {name}: takes no --gin_file and no --gin.NAME; see its --help")
    if command.gin == "needed" and not given.files:
        raise UserError(f"tracelift {name}: give --gin_file=F, for example: {command.example}")
    if command.processes == "one" and several_told():
        raise UserError(f"tracelift {name}: one process does this; {ALONE}")
    command.run(given)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Exits with 0 only when the work was done, 2 on bad input, 75 where it is to go on later."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that there is no torch; there need not be
    # orbax tells every detail of every save, and what is wrong with a damaged checkpoint besides raising it
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        from tracelift_jax.gin_config import parse_flags

        files, bindings, rest = parse_flags(arguments)
        args = _parser().parse_args(rest)
        _start(args.command, Given(files, bindings, args))
    except UserError as error:
        print(f"tracelift: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f"tracelift: {stop}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
