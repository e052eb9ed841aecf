"""Reference solutions of HumanEval and MBPP, and copies with one character broken, judged as training judges programs.

    python benchmarks/broken_solutions.py --human_eval=HumanEval.jsonl.gz --mbpp=mbpp.jsonl

A solution in a fenced block stands for what an executor wrote: its program is found in that text and run in a box
against the tests of its problem. One character of each copy is deleted or replaced, chosen by the seed and the name of
the problem: of the code, never of a comment, a docstring or white space. Some copies stay right, because a name is
changed that nothing else reads, or because the tests do not see it; those count as passed.
"""

import argparse
import collections
import io
import random
import string
import tokenize
from collections.abc import Iterable, Mapping, Sequence

from tracelift_jax.tasks.code import HumanEval, Mbpp
from tracelift_jax.tasks.oracle import Tests
from tracelift_jax.tasks.outcome import Outcome, judge, no_program
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.tasks.programs import program_of
from tracelift_jax.tasks.rows import read_rows
from tracelift_jax.tasks.sandbox import Limits, Pool, SandboxConfig, open_pool

LETTERS = string.ascii_letters + string.digits + string.punctuation
CODE = (tokenize.NAME, tokenize.NUMBER, tokenize.OP, tokenize.STRING)
BEGINS_LINE = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
MBPP_SPLITS = ("prompt", "test", "validation", "train")


def code_places(source: str) -> list[int]:
    """Where the characters of a program's code stand: all but comments, docstrings and white space."""
    starts = [0]
    for line in io.StringIO(source):
        starts.append(starts[-1] + len(line))
    places, before = [], tokenize.ENCODING
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and before in BEGINS_LINE
        if token.type in CODE and not docstring:
            first, last = (starts[line - 1] + column for line, column in (token.start, token.end))
            places += [place for place in range(first, last) if not source[place].isspace()]
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            before = token.type
    return places


def broken(source: str, begin: int, chance: random.Random) -> str:
    """A program with one character of its code from `begin` on deleted or replaced."""
    place = chance.choice([place for place in code_places(source) if place >= begin])
    new = "" if chance.random() < 0.5 else chance.choice([letter for letter in LETTERS if letter != source[place]])
    return source[:place] + new + source[place + 1 :]


def human_eval(path: str) -> list[tuple[Problem, str, int]]:
    """Each problem, its reference solution, and where in that the part begins that is the executor's to write."""
    rows = {f"humaneval/{row['task_id']}": row for _, row in read_rows(path)}
    found = [(problem, rows[problem.problem_id]) for problem in HumanEval(path).problems("test")]
    return [(problem, row["prompt"] + row["canonical_solution"], len(row["prompt"])) for problem, row in found]


def mbpp(path: str) -> list[tuple[Problem, str, int]]:
    """See `human_eval`; of all splits."""
    rows: Mapping[str, str] = {f"mbpp/{row['task_id']}": row["code"] for _, row in read_rows(path)}
    problems = [problem for split in MBPP_SPLITS for problem in Mbpp(path).problems(split)]
    return [(problem, rows[problem.problem_id].replace("\r\n", "\n"), 0) for problem in problems]


def outcomes(pool: Pool, limits: Limits, answers: Iterable[tuple[Problem, str]]) -> dict[str, Outcome]:
    """What becomes of each problem's program."""
    waiting = []
    for problem, source in answers:
        tests = problem.oracle
        assert isinstance(tests, Tests)
        program = program_of(f"```python\n{source}\n```\n", tests)
        waiting.append((problem.problem_id, tests, pool.submit([program], limits)[0] if program else None))
    judged = {name: judge(ran.result(), tests) if ran else no_program(tests) for name, tests, ran in waiting}
    return {name: result.outcome for name, result in judged.items()}


def line(name: str, what: str, found: Sequence[Outcome], columns: Sequence[Outcome]) -> str:
    """A line of the table."""
    counts = collections.Counter(found)
    cells = [name, what, str(len(found)), f"{1 - counts[Outcome.PASSED] / len(found):.1%}"]
    return f"| {' | '.join([*cells, *(str(counts[column]) for column in columns)])} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--human_eval", help="HumanEval.jsonl, gzip or not")
    parser.add_argument("--mbpp", help="mbpp.jsonl or sanitized-mbpp.json, gzip or not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each run may take")
    flags = parser.parse_args()
    sets = {
        name: read(path)
        for name, read, path in (("HumanEval", human_eval, flags.human_eval), ("MBPP", mbpp, flags.mbpp))
        if path
    }
    columns = [outcome for outcome in Outcome if outcome is not Outcome.WRONG_OUTPUT]
    print(f"| data set | solutions | programs | not passed | {' | '.join(columns)} |")
    print(f"|---|---|{'---:|' * (2 + len(columns))}")
    limits = Limits(seconds=flags.seconds)
    with open_pool(SandboxConfig()) as pool:
        for name, solutions in sets.items():
            whole = outcomes(pool, limits, ((problem, source) for problem, source, _ in solutions))
            print(line(name, "reference", list(whole.values()), columns), flush=True)
            changed = (
                (problem, broken(source, begin, random.Random(f"{flags.seed} {problem.problem_id}")))
                for problem, source, begin in solutions
            )
            print(
                line(name, "one character broken", list(outcomes(pool, limits, changed).values()), columns), flush=True
            )


if __name__ == "__main__":
    main()
