"""Reward records: every reward written down with its parts and the tokens it came from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracelift_jax.rollout.elsewhere import Heard
from tracelift_jax.rollout.judging import outcome_fields
from tracelift_jax.rollout.rollout import Rollout
from tracelift_jax.tasks.problem import Oracle, Problem, Task
from tracelift_jax.text.prompts import Prompts
from tracelift_jax.text.spans import Tokens
from tracelift_jax.text.tokenizer import Tokenizer

VERDICTS = {1: "ok", 0: "wrong", -1: "failed"}


def _ids(tokens: Tokens, *index: int) -> list[int]:
    return np.asarray(tokens.ids[index])[np.asarray(tokens.valid[index])].tolist()


def body_text(text: str, close: str) -> str:
    """The reasoning of a trace as the planner wrote it, without the closing tag and what follows."""
    return text.partition(close)[0]


def trace_texts(done: Rollout, tokenizer: Tokenizer, prompts: Prompts) -> list[list[str]]:
    """[B][G] reasoning bodies of a rollout on the host."""
    rows, traces = done.reward.shape
    return [
        [body_text(tokenizer.decode(_ids(done.traces, b, g)), prompts.close) for g in range(traces)]
        for b in range(rows)
    ]


def records(
    done: Rollout,
    problems: Sequence[Problem],
    task: Task,
    tokenizer: Tokenizer,
    prompts: Prompts,
    common: dict[str, Any],
    heard: Heard | None = None,
) -> list[dict[str, Any]]:
    """One JSON object a trace.

    Args:
        done: a rollout on the host (numpy leaves).
        problems: the batch's B problems.
        common: fields that all records bear: step, fingerprints of the frozen weights, ...
        heard: what was said where the host judged it; answers of a server have no tokens.

    Returns:
        B * G objects with tokens and text of reasoning and answers, verdicts, counts, rubric scores, reward, advantage.
    """
    out = []
    bodies = trace_texts(done, tokenizer, prompts)
    gained = done.uplift
    for b, problem in enumerate(problems):
        for g, body in enumerate(bodies[b]):
            samples = range(done.verdicts.shape[2])
            asked = [k for k in samples if done.asked is None or done.asked[b, g, k]]
            said = [_ids(done.answers, b, g, k) for k in asked]
            alone = (b,) if gained.baseline_answers.ids.ndim == 3 else (b, g)
            without = [_ids(gained.baseline_answers, *alone, k) for k in range(gained.baseline_answers.ids.shape[-2])]
            tokens = _ids(done.traces, b, g)
            answers: list[str | None] = [tokenizer.decode(answer) for answer in said]
            without_answers: list[str | None] = [tokenizer.decode(answer) for answer in without if answer]
            tested: dict[str, Any] = {}
            if heard is not None:
                answers, without_answers = list(heard.answers.behind[b][g]), list(heard.answers.alone[b][g])
                if problem.answer_kind == "program":
                    tested = outcome_fields(heard.findings[b][g]) | {"examples": problem.tests}
            record = common | {
                "problem_id": problem.problem_id,
                "trace": g,
                "problem": problem.text,
                "reference": problem.answer,
                "task_name": problem.task_name,
                "task_type": problem.task_type,
                "trace_tokens": tokens,
                "reasoning": body,
                "sampler_logprobs": [round(float(x), 5) for x in np.asarray(done.logprobs[b, g])[: len(tokens)]],
                "well_formed": bool(done.well_formed[b, g]),
                "answer_tokens": said if done.answers.ids.shape[-1] else None,
                "answers": answers,
                "verdicts": [VERDICTS[int(done.verdicts[b, g, k])] for k in asked],
                **tested,
                "uplift": float(gained.value[b, g]),
                "with_counts": [int(gained.ok[b, g]), int(gained.trials[b, g])],
                "without_counts": [int(gained.baseline_ok[b, g]), int(gained.baseline_trials[b, g])],
                "without_tokens": [answer for answer in without if answer] if done.answers.ids.shape[-1] else None,
                "without_answers": without_answers,
                "likelihood": float(gained.likelihood[b, g]),
                "baseline_likelihood": float(gained.baseline_likelihood[b, g]),
                "rubric": [float(x) for x in done.rubric[b, g]],
                "total": float(done.total[b, g]),
                "score": float(done.score[b, g]),
                "reward": float(done.reward[b, g]),
                "advantage": float(done.advantage[b, g]),
                "counted": bool(done.counted[b, g]),
            }
            if isinstance(task, Oracle):
                record["faithful"] = task.faithful(problem, body)
            out.append(record)
    return out
