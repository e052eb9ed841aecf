"""What servers are asked: to write flawed versions of a reasoning, and to grade one."""

from collections.abc import Mapping, Sequence

from tracelift_jax.groups.schema import RubricName
from tracelift_jax.groups.seeds import Seed

OVERALL = "overall"
MAX_GRADE = 10

KINDS: Mapping[RubricName, Mapping[str, str]] = {
    "math": {
        "wrong_calculation": "one calculation shows a wrong result; the steps after it go on from the right one",
        "wrong_calculation_carried": "one calculation shows a wrong result, and all that follows is found from it",
        "wrong_operation": "one step uses the wrong operation (adds instead of subtracting, say), and all that follows "
        "is calculated from its result",
        "wrong_quantity": "one step takes another number of the problem in place of the right one, and all that "
        "follows is calculated from its result",
        "swapped_quantities": "one subtraction or division has its two numbers the wrong way round; the result stays",
        "dropped_step": "one step that later steps need is left out, without a word about it",
        "contradictory_step": "one step uses a value that contradicts what an earlier step found, and goes on from it",
        "unsupported_conclusion": "the last calculation is left out, and a wrong result is stated in its place",
        "answer_without_steps": "one sentence that states an answer, right or wrong, without any step",
        "answer_leaked": "the final answer is announced before the first step; the steps follow as they were",
    },
    "code": {
        "wrong_algorithm": "the plan rests on an algorithm that does not solve this problem",
        "missed_constraint": "a condition or limit that the problem states is overlooked",
        "missed_edge_case": "an edge case that the reasoning takes care of is left out or handled wrongly",
        "wrong_complexity": "what is said about time or memory is wrong, or the approach is too slow for the limits",
        "wrong_data_structure_step": "one step uses a data structure in a way that does not do what it is meant to",
        "contradictory_step": "one step contradicts an earlier one",
        "code_dumped": "a program, or a good part of it, stands in place of the reasoning",
    },
}
"""What each kind of flaw means."""

DIMENSIONS: Mapping[RubricName, Mapping[str, str]] = {
    "math": {
        "problem_understanding": "it reads the quantities, the conditions and the question as the problem means them",
        "solution_strategy": "its plan and its choice of operations lead to what is asked",
        "step_coherence": "each step follows from what stands before it; nothing is missing or contradicted",
        "calculation_correctness": "every calculation that it shows is right",
        "answer_support": "its steps, and nothing else, establish the right answer",
    },
    "code": {
        "task_understanding": "it reads the task, its conditions and its limits as they are meant",
        "plan_quality": "its algorithm and data structures solve the task within the limits",
        "step_coherence": "each step follows from what stands before it; nothing is missing or contradicted",
        "action_support": "a programmer could write a right program from it, edge cases included",
        "non_leakage": "it is reasoning in words, not the program or pieces of it",
    },
}
"""What each dimension of a rubric asks."""


def _problem(seed: Seed) -> str:
    tests = f"\n\n## Tests\n\n{seed.tests}" if seed.tests else ""
    return f"## Problem\n\n{seed.problem}{tests}"


def _again(attempt: int, faults: Sequence[str]) -> str:
    if attempt == 1:
        return ""
    told = "".join(f"\n- {fault}" for fault in faults)
    return f"\n\nThis is attempt {attempt}. The answer before could not be used:\n{told}\n\nAnswer in the form above."


def writing_prompt(seed: Seed, positive: str, kinds: Sequence[str], attempt: int, faults: Sequence[str]) -> str:
    """Asks for a flawed version of `positive` of each kind; from attempt 2 on, with the faults of the answer before."""
    meant = "\n".join(f"- `{kind}`: {KINDS[seed.rubric_name][kind]}" for kind in kinds)
    shape = '{"traces": [{"kind": "<one of the kinds>", "reasoning": "<the whole flawed reasoning>"}, ...]}'
    return (
        "Below are a problem and a correct reasoning. Write flawed versions of the reasoning, to teach a grader what "
        "flaws are: one version for each kind of flaw in the list, with that one flaw and no other.\n\n"
        "- Each version is a whole reasoning, in the words, style and layout of the correct one; only the flaw, and "
        "what must change with it, differs.\n"
        "- Nothing points at the flaw: no comment, no name of its kind, no hint that anything is wrong.\n"
        "- Nothing is abbreviated; no tags and no headings are added.\n\n"
        f"{_problem(seed)}\n\n## Correct reasoning\n\n{positive}\n\n## Kinds of flaws\n\n{meant}\n\n## Your answer\n\n"
        f"One JSON object and nothing else:\n\n{shape}{_again(attempt, faults)}"
    )


def grading_prompt(seed: Seed, reasoning: str, attempt: int, faults: Sequence[str]) -> str:
    """Asks for the grades of a reasoning; from attempt 2 on, with the faults of the answer before."""
    rubric = DIMENSIONS[seed.rubric_name]
    meant = "\n".join(f"- `{name}`: {asks}" for name, asks in rubric.items())
    title = "A correct program" if seed.rubric_name == "code" else "The right answer"
    known = f"\n\n## {title}\n\n{seed.reference}" if seed.reference else ""
    shape = "{" + ", ".join(f'"{name}": <number>' for name in (*rubric, OVERALL)) + "}"
    return (
        "Below are a problem and a reasoning that may be correct or flawed. Grade the reasoning, not its style: a "
        f"number from 0 (useless) to {MAX_GRADE} (without fault) for each dimension, and one for the whole. Check "
        "every step before you grade.\n\n"
        f"{_problem(seed)}{known}\n\n## Reasoning\n\n{reasoning}\n\n## Dimensions\n\n{meant}\n"
        f"- `{OVERALL}`: the reasoning as a whole, as help for solving the problem\n\n## Your answer\n\n"
        f"One JSON object and nothing else:\n\n{shape}{_again(attempt, faults)}"
    )


def writing_schema(kinds: Sequence[str]) -> dict[str, object]:
    """The JSON schema of an answer to `writing_prompt`."""
    trace = _object({"kind": {"type": "string", "enum": list(kinds)}, "reasoning": {"type": "string"}})
    return _object({"traces": {"type": "array", "items": trace}})


def grading_schema(rubric_name: RubricName) -> dict[str, object]:
    """The JSON schema of an answer to `grading_prompt`; without the range, which not all servers can read."""
    return _object({name: {"type": "number"} for name in (*DIMENSIONS[rubric_name], OVERALL)})


def _object(fields: Mapping[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}
