"""`tracelift verify`: the reader that judges on the device against the exact verifier, on any file of answers."""

import dataclasses
import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tracelift_jax.errors import UserError
from tracelift_jax.rollout.records import VERDICTS
from tracelift_jax.tasks.problem import AnswerKind
from tracelift_jax.tasks.rows import stream_jsonl
from tracelift_jax.tasks.verdict import FAILED, OK, WRONG
from tracelift_jax.tasks.verify import verify
from tracelift_jax.text.numbers import Number, equal, number_of, read_number_bytes

BATCH = 256
"""Answers that are read together."""

_WIDTH = 1024  # bytes of those that are read on the device


@dataclasses.dataclass(frozen=True)
class Case:
    """One answer to judge.

    Attributes:
        where: its place, for example "step_000003.jsonl:17 answers[2]".
        answer: what the model wrote.
        reference: the right answer.
        recorded: the verdict that the file has for it, or None.
    """

    where: str
    answer: str
    reference: str
    recorded: int | None = None


@dataclasses.dataclass(frozen=True)
class Judged:
    """A case with both verdicts."""

    case: Case
    host: int
    device: int


@dataclasses.dataclass(frozen=True)
class Check:
    """What `tracelift verify` is to do; see its `--help`."""

    files: Sequence[str]
    answer: str = "prediction"
    reference: str = "reference"
    kind: AnswerKind = "number"
    json: bool = False
    show: int = 20


def cases(path: str, answer: str, reference: str) -> Iterator[Case]:
    """The answers of a JSONL file, a row each; or of reward records, which hold several.

    Args:
        path: the file, maybe gzip.
        answer, reference: the fields' names; a number in JSON is taken as it is written. Rows with a list "answers" are
            reward records whatever these say.

    Raises:
        UserError: the file cannot be read, or a row lacks a field.
    """
    for number, row in stream_jsonl(path):
        where = f"{path}:{number}"
        if isinstance(row.get("answers"), list):
            yield from _recorded(row, where)
        else:
            yield Case(where, _text(row, answer, where), _text(row, reference, where))


def _recorded(row: Mapping[str, Any], where: str) -> Iterator[Case]:
    answers, verdicts = row["answers"], row.get("verdicts")
    numbers = {name: number for number, name in VERDICTS.items()}
    if not isinstance(verdicts, list) or len(verdicts) != len(answers) or not set(verdicts) <= set(numbers):
        raise UserError(f'{where}: "verdicts" must hold "ok", "wrong" or "failed" for each of "answers"')
    # The verdicts on a malformed trace may be those of the rule for such traces, and no reader's.
    judged = row.get("well_formed") is True
    for i, (said, verdict) in enumerate(zip(answers, verdicts, strict=True)):
        if said is None:
            continue  # it never came from its server
        if not isinstance(said, str):
            raise UserError(f'{where}: "answers" must hold texts')
        recorded = numbers[verdict] if judged else None
        yield Case(f"{where} answers[{i}]", said, _text(row, "reference", where), recorded)


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f'{where}: no "{field}", or no text; name the fields by --answer=FIELD and --reference=FIELD')
    return value


def judge(some: Iterable[Case], kind: AnswerKind = "number") -> Iterator[Judged]:
    """Both verdicts on each case, in order."""
    waiting: list[Case] = []
    for case in some:
        waiting.append(case)
        if len(waiting) == BATCH:
            yield from _judge(waiting, kind)
            waiting = []
    yield from _judge(waiting, kind)


def _judge(some: Sequence[Case], kind: AnswerKind) -> Iterator[Judged]:
    read = device_verdicts([case.answer for case in some], [case.reference for case in some])
    for case, device in zip(some, read, strict=True):
        yield Judged(case, verify(case.answer, case.reference, kind), device)


def device_verdicts(answers: Sequence[str], references: Sequence[str]) -> list[int]:
    """OK or WRONG for each answer, as a rollout finds them.

    Texts of up to 1 KiB are read by a compiled function on the device; longer ones, which no rollout has, by the same
    code in NumPy: each length would have to be compiled.
    """
    verdicts = []
    for begin in range(0, len(answers), BATCH):
        said, wanted = (texts[begin : begin + BATCH] for texts in (answers, references))
        same = np.asarray(_equal(_read_batch(said), _read_batch(wanted)))[: len(said)]
        verdicts += [OK if right else WRONG for right in same.tolist()]
    return verdicts


_equal = jax.jit(equal)
_read = jax.jit(read_number_bytes)


def _read_batch(texts: Sequence[str]) -> Number:
    """Numbers [BATCH] in NumPy, of at most so many texts."""
    data, length = np.zeros((BATCH, _WIDTH), np.uint8), np.zeros(BATCH, np.int32)
    long = {}
    for i, text in enumerate(texts):
        encoded = text.encode("utf-8", errors="replace")
        if len(encoded) > _WIDTH:
            long[i] = number_of(text)
        else:
            data[i, : len(encoded)], length[i] = np.frombuffer(encoded, np.uint8), len(encoded)
    read = jax.tree.map(np.array, _read(data, length))
    for i, number in long.items():
        for rows, row in zip(jax.tree.leaves(read), jax.tree.leaves(number), strict=True):
            rows[i] = row
    return read


def tally(judged: Iterable[Judged], keep: int | None) -> dict[str, Any]:
    """Counts verdicts and lists disagreements.

    Args:
        judged: cases with their verdicts.
        keep: how many disagreements to list at most; None lists all.

    Returns:
        JSON-ready: "answers", "agree", "failed" (no verdict of the host's, in neither of the two before), "table"
        {host: {device: count}}, "recorded" {"answers", "differ"} of the device's verdict from the file's, and
        "disagreements".
    """
    table: dict[str, dict[str, int]] = {host: {"ok": 0, "wrong": 0} for host in ("ok", "wrong", "failed")}
    recorded, differ, listed = 0, 0, []
    for one in judged:
        table[VERDICTS[one.host]][VERDICTS[one.device]] += 1
        if one.case.recorded in (OK, WRONG):
            recorded += 1
            differ += one.case.recorded != one.device
        if one.host not in (one.device, FAILED) and (keep is None or len(listed) < keep):
            case = {"where": one.case.where, "answer": one.case.answer, "reference": one.case.reference}
            listed.append(case | {"host": VERDICTS[one.host], "device": VERDICTS[one.device]})
    failed = sum(table["failed"].values())
    agree = table["ok"]["ok"] + table["wrong"]["wrong"]
    answers = sum(sum(row.values()) for row in table.values())
    return {
        "answers": answers,
        "agree": agree,
        "failed": failed,
        "table": table,
        "recorded": {"answers": recorded, "differ": differ},
        "disagreements": listed,
    }


def run_verify(check: Check) -> None:
    """Judges every answer of the files twice and prints where the two verifiers agree.

    Raises:
        UserError: a file cannot be read, has no answers, or lacks a field.
    """
    paths = [path for pattern in check.files for path in (sorted(glob.glob(pattern)) or [pattern])]
    some = (case for path in paths for case in cases(path, check.answer, check.reference))
    result = tally(judge(some, check.kind), None if check.json else check.show)
    if not result["answers"]:
        raise UserError(f"{', '.join(check.files)}: no answers there; every line should hold one")
    print(json.dumps(result, ensure_ascii=False, indent=1) if check.json else _report(result))


def _report(result: Mapping[str, Any]) -> str:
    judged = result["answers"] - result["failed"]
    share = f"{100 * result['agree'] / judged:.3f} %" if judged else "none judged"
    lines = [f"{result['agree']} of {judged} verdicts agree ({share})", "", f"{'':12}{'device ok':>12}{'wrong':>12}"]
    for host, row in result["table"].items():
        if host != "failed" or result["failed"]:
            lines.append(f"{'host ' + host:12}{row['ok']:>12}{row['wrong']:>12}")
    if result["recorded"]["answers"]:
        differ, recorded = result["recorded"]["differ"], result["recorded"]["answers"]
        lines += ["", f"{differ} of {recorded} verdicts in the records differ from the device's"]
    for one in result["disagreements"]:
        answer, reference = (_short(one[name]) for name in ("answer", "reference"))
        lines += ["", f"{one['where']}  host {one['host']}, device {one['device']}"]
        lines += [f"  reference  {reference}", f"  answer     {answer}"]
    left = judged - result["agree"] - len(result["disagreements"])
    return "\n".join([*lines, *(["", f"{left} more disagree; --json lists all"] if left else [])])


def _short(text: str) -> str:
    """In one line, its end where it is long: there the answer usually stands."""
    line = json.dumps(text, ensure_ascii=False)
    return line if len(line) <= 160 else f'"... {line[-154:]}'
