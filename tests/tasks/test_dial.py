"""The dial world: worked values, the oracle against independent ones, splits, and its tokenizer."""

import itertools
import pickle
import random
import re
import time

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelift_jax.errors import UserError
from tracelift_jax.tasks import dial, dial_tokenizer
from tracelift_jax.tasks.dial import DialProblem, DialTask, Op, check_trace, parse_problem, parse_trace
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.tokenizer import Tokenizer

TASK = DialTask()
splits = st.sampled_from(dial.SPLITS)
indices = st.integers(0, len(TASK.problems("test")) - 1)

# 7 up 5 = 12 -> 2; doubled 4; down 8 = -4 -> 6; tripled 18 -> 8.
WORKED = Problem(
    problem_id="worked",
    text="The dial shows 7. Ann turns it up 5. Bob has 4 hats. Cal doubles it. Eve takes away 8. "
    "Kim is 3 years old. Ida triples the number. Where is the dial now?",
    answer="8",
)
WORKED_TRACE = "7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 8 = 6 ; 6 * 3 = 8"


def test_values_worked_by_hand():
    assert parse_problem(WORKED.text) == (7, (Op("+", 5), Op("*", 2), Op("-", 8), Op("*", 3)))
    assert dial.write_trace(dial.true_steps(*parse_problem(WORKED.text))) == WORKED_TRACE
    assert check_trace(WORKED, WORKED_TRACE) == dial.TraceCheck(True, True, -1, 8)


@pytest.mark.parametrize(
    ("trace", "first_wrong", "final"),
    [
        ("7 + 5 = 3 ; 3 * 2 = 6 ; 6 - 8 = 8 ; 8 * 3 = 4", 0, 4),  # calculation, carried on
        ("7 + 5 = 2 ; 2 * 2 = 5 ; 4 - 8 = 6 ; 6 * 3 = 8", 1, 8),  # calculation, not carried on, right answer
        ("7 + 5 = 2 ; 2 + 2 = 4 ; 4 - 8 = 6 ; 6 * 3 = 8", 1, 8),  # 2 + 2 = 2 * 2: right by luck
        ("7 + 5 = 2 ; 2 * 3 = 6 ; 6 - 8 = 8 ; 8 * 3 = 4", 1, 4),  # operand
        ("7 + 5 = 2 ; 2 * 2 = 4 ; 4 - 8 = 6", 3, 6),  # last step missing
        ("7 + 5 = 2 ; 2 - 8 = 4 ; 4 * 3 = 2", 1, 2),  # step missing inside
        (WORKED_TRACE + " ; 8 + 1 = 9", 4, 9),  # step too many
        ("7 + 5 = 2 ; 2 * 2 = 4 ; 5 - 8 = 7 ; 7 * 3 = 1", 2, 1),  # link
        ("8 + 5 = 3 ; 3 * 2 = 6 ; 6 - 8 = 8 ; 8 * 3 = 4", 0, 4),  # start
    ],
)
def test_unfaithful_traces_worked_by_hand(trace, first_wrong, final):
    assert check_trace(WORKED, trace) == dial.TraceCheck(True, False, first_wrong, final)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "8", "= 8", "7 + 5 = 2 ;", "7 + 5 = 12", "7+5=2", "7 + 5 = 2; 2 * 2 = 4", "7  + 5 = 2", "7 / 5 = 2"),
        *("7 + 5 = 2 ; ; 2 * 2 = 4", "7 + 5 = 2 \n; 2 * 2 = 4", "so 7 + 5 = 2", "7 + 5 = 2 .", "٧ + 5 = 2"),
    ],
)
def test_ill_formed_traces(text):
    assert parse_trace(text) is None
    assert check_trace(WORKED, text) == dial.TraceCheck(False, False, -1, None)


def test_white_space_around_a_trace_is_tolerated():
    assert check_trace(WORKED, f" \n{WORKED_TRACE}\t ").faithful


# --- The oracle against independent ones ------------------------------------------------------------------------------


def simulate(text: str) -> tuple[int, list[str]]:
    """What the dial shows at the end, and each operation as "+ 5", by looking for key words."""
    first, *rest = text.split(". ")
    value, done = int(re.sub(r"\D", "", first)), []
    for sentence in rest:
        number = int(re.sub(r"\D", "", sentence) or 0)
        verb = sentence.split()[1]
        if verb in ("has", "sees", "buys", "is") or sentence.endswith("?"):
            continue
        up = verb in ("adds", "raises") or " up " in sentence or "forward" in sentence
        down = verb in ("takes", "lowers") or " down " in sentence or "back" in sentence
        factor = {"doubles": 2, "triples": 3, "multiplies": number}.get(verb, 1)
        assert up + down + (factor > 1) == 1, sentence
        value = (value + number * (up - down)) % 10 if factor == 1 else value * factor % 10
        done.append(f"* {factor}" if factor > 1 else f"{'+' if up else '-'} {number}")
    return value, done


def naive_faithful(problem: Problem, text: str) -> bool:
    """Rebuilds the only faithful text word by word."""
    value, words = int(re.findall(r"\d", problem.text)[0]), []
    for operation in simulate(problem.text)[1]:
        result = eval(f"({value} {operation}) % 10")
        words += [*f"{value} {operation} = {result}".split(), ";"]
        value = result
    return text.split() == words[:-1]


@settings(max_examples=300, deadline=None)
@given(splits, indices)
def test_problems_agree_with_the_simulation(split, index):
    problem = TASK.problems(split)[index]
    final, operations = simulate(problem.text)
    assert problem.answer == str(final)
    assert operations == [f"{op.symbol} {op.operand}" for op in problem.ops]
    assert parse_problem(problem.text) == (problem.start, problem.ops)
    assert naive_faithful(problem, problem.reasoning)
    check = check_trace(problem, problem.reasoning)
    assert check == dial.TraceCheck(True, True, -1, final)
    plain = Problem(problem.problem_id, problem.text, problem.answer)  # as read from a record
    assert check_trace(plain, problem.reasoning) == check
    assert TASK.min_ops <= len(problem.ops) <= TASK.max_ops
    assert problem.text.count(".") - 1 - len(problem.ops) in range(TASK.max_distractors + 1)


@settings(max_examples=300, deadline=None)
@given(indices, st.integers(0, 1000), st.sampled_from("0123456789+-*=; "))
def test_one_changed_character_is_always_seen(index, position, character):
    problem = TASK.problems("train")[index]
    position %= len(problem.reasoning)
    text = problem.reasoning[:position] + character + problem.reasoning[position + 1 :]
    check = check_trace(problem, text)
    assert check.faithful == naive_faithful(problem, text) == (text == problem.reasoning)
    if check.well_formed and not check.faithful:
        assert check.first_wrong_step == problem.reasoning[:position].count(";")


@given(st.text(alphabet="0123456789+-*=; ", max_size=40))
def test_parsed_traces_are_what_was_written(text):
    steps = parse_trace(text)
    assert steps is None or dial.write_trace(steps) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What does it show now?",
        "The dial shows 7.",
        "The dial shows 12. Ann doubles it. What does it show now?",
        "The dial shows 7. Zoe doubles it. What does it show now?",
        "The dial shows 7. Ann halves it. What does it show now?",
        "The dial shows 7. Ann adds 0. What does it show now?",
        "The dial shows 7. Ann multiplies it by 4. What does it show now?",
        "The dial shows 7. Ann doubles it. What does it show now? ",
    ],
)
def test_other_text_is_no_problem(text):
    with pytest.raises(UserError, match=r"not a (problem|sentence) of the dial world") as caught:
        parse_problem(text)
    assert "\n" not in str(caught.value)


# --- The task ---------------------------------------------------------------------------------------------------------


def test_splits_never_share_a_problem_even_between_seeds():
    def arithmetic(split, seed):
        task = DialTask(seed=seed, min_ops=1, max_ops=4, test_size=4000)  # short problems collide most
        problems = task.problems(split)[:4000]
        assert all(dial.split_of(p.start, p.ops) == split for p in problems)
        return {(p.start, p.ops) for p in problems}, {p.text for p in problems}

    train, test = ([arithmetic(split, seed) for seed in (0, 1)] for split in dial.SPLITS)
    for (train_keys, train_texts), (test_keys, test_texts) in itertools.product(train, test):
        assert not train_keys & test_keys
        assert not train_texts & test_texts
    assert train[0][1] != train[1][1]  # another seed, other problems


def test_about_one_in_eight_is_a_test_problem():
    rng = random.Random(0)
    drawn = [dial._draw_operations(rng, 3) for _ in range(8000)]
    share = np.mean([dial.split_of(*d) == "test" for d in drawn])
    assert abs(share - 1 / 8) < 0.015  # four standard deviations of a fair draw


def test_every_count_and_every_answer_occurs_about_equally():
    problems = TASK.problems("train")[:4000]
    counts = np.bincount([len(p.ops) for p in problems], minlength=7)[3:] / 4000
    assert np.abs(counts - 0.25).max() < 0.03
    answers = np.bincount([int(p.answer) for p in problems], minlength=10) / 4000
    # Doubling favours even digits: "write the commonest answer" must stay a poor policy.
    assert answers.max() < 0.2 and answers.min() > 0.04


def test_problem_i_is_always_the_same():
    problems = TASK.problems("train")
    assert problems[777] == DialTask().problems("train")[777] == pickle.loads(pickle.dumps(problems))[777]
    assert problems[np.int64(5)] == problems[5] == DialTask(train_size=6).problems("train")[-1]
    assert problems[2:5] == [problems[2], problems[3], problems[4]]
    # Fixed for good: published figures name problems by their index. A change here is a change of the task.
    assert problems[0].problem_id == "dial/3-6-2/train/0/0"
    assert problems[0].reasoning == "4 * 3 = 2 ; 2 + 8 = 0 ; 0 * 2 = 0 ; 0 - 6 = 4"


def test_names_are_unique_over_seeds_splits_and_values():
    tasks = [DialTask(), DialTask(seed=1), DialTask(max_ops=5), DialTask(max_distractors=0)]
    names = {t.problems(split)[i].problem_id for t in tasks for split in dial.SPLITS for i in range(10)}
    assert len(names) == len(tasks) * 2 * 10


def test_sequence_ends():
    problems = DialTask(test_size=3).problems("test")
    assert len(problems) == len(list(problems)) == 3
    with pytest.raises(IndexError):
        problems[3]


def test_grain_reads_it():
    data = grain.MapDataset.source(TASK.problems("train")).seed(1).shuffle().map(lambda p: p.answer).batch(4)
    assert len(data) == 250_000
    assert all(answer in "0123456789" for answer in data[0])
    first = grain.MapDataset.source(TASK.problems("test"))[0]
    assert isinstance(first, DialProblem)


def test_draws_five_thousand_a_second():
    start = time.process_time()
    TASK.problems("train")[:2000]
    assert time.process_time() - start < 2000 / 5000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "DialTask.seed = -1: must be at least 0"),
        ({"min_ops": 0}, "DialTask.min_ops = 0: must be at least 1"),
        ({"min_ops": 4, "max_ops": 3}, "DialTask.max_ops = 3: must be at least min_ops = 4"),
        ({"max_distractors": 1.5}, "DialTask.max_distractors = 1.5: must be a whole number"),
        ({"train_size": True}, "DialTask.train_size = True: must be a whole number"),
        ({"test_size": 0}, "DialTask.test_size = 0: must be at least 1"),
    ],
)
def test_wrong_values_are_one_line(values, message):
    with pytest.raises(UserError) as caught:
        DialTask(**values)
    assert str(caught.value) == message


def test_wrong_split_is_one_line():
    with pytest.raises(UserError, match="no split 'dev' in the dial task: use one of train, test"):
        TASK.problems("dev")
    with pytest.raises(UserError, match="no split 'dev'"):
        TASK.problem("dev", 0)


# --- The tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(dial_tokenizer.ASSETS)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


def test_rebuilding_gives_the_shipped_files(tmp_path):
    assert dial_tokenizer.main([str(tmp_path / "new")]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert made == {path.name: path.read_bytes() for path in dial_tokenizer.ASSETS.iterdir()}


def test_saving_a_loaded_tokenizer_keeps_its_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode(WORKED.text) == tokenizer.encode(WORKED.text)


def test_wrong_command_lines(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert dial_tokenizer.main([]) == 2
    assert dial_tokenizer.main([str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_vocabulary(tokenizer):
    assert len(tokenizer) <= dial_tokenizer.MAX_VOCAB
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    assert sorted(p for p in tokenizer._pieces if len(p) == 1) == [bytes([b]) for b in range(256)]


def test_every_word_of_the_world_is_one_token(tokenizer):
    slots = {"n": 7, "name": "Ann", "things": "hats"}
    deeds = [f" {deed.format(**slots)}" for wording in dial.WORDINGS for deed in wording.deeds]
    openings = [sentence.format(**slots) for sentence in dial.STARTS]
    inside = [f" {sentence.format(**slots)}" for sentence in (*dial.DISTRACTORS, *dial.QUESTIONS)]
    words = [f" {word}" for word in (*dial.NAMES, *dial.THINGS, *range(10))]
    for text in (*deeds, *openings, *inside, *words):
        assert pieces(tokenizer, text) == re.findall(r" ?\w+|[.?]", text)


def test_reasoning_is_five_tokens_a_step(tokenizer):
    text = "\n<reasoning> 7 + 5 = 2 ; 2 * 2 = 4 </reasoning>\nAnswer: 4"
    steps = [" 7", " +", " 5", " =", " 2", " ;", " 2", " *", " 2", " =", " 4"]
    assert pieces(tokenizer, text) == ["\n", "<reasoning>", *steps, " ", "</reasoning>", "\n", "Answer", ":", " 4"]


@settings(max_examples=100, deadline=None)
@given(index=indices)
def test_splicing_tags_gives_the_tokens_of_the_whole(tokenizer, index):
    problem = TASK.problems("train")[index]
    parts = [f"{problem.text}\n<reasoning>", f" {problem.reasoning} ", "</reasoning>\nAnswer:", f" {problem.answer}"]
    assert [*itertools.chain(*map(tokenizer.encode, parts))] == tokenizer.encode("".join(parts))


def test_longest_problem_fits(tokenizer):
    """The longest sentence of every kind, six operations, two distractors."""
    slots = {"n": 7, "name": "Ann", "things": "hats"}

    def longest(sentences, before=" "):
        return max(len(tokenizer.encode(before + sentence.format(**slots))) for sentence in sentences)

    deeds = longest([f"{{name}} {deed}." for wording in dial.WORDINGS for deed in wording.deeds])
    parts = longest(dial.STARTS, before=""), 6 * deeds, 2 * longest(dial.DISTRACTORS), longest(dial.QUESTIONS)
    assert parts == (7, 36, 12, 9)  # 64 in all


@settings(max_examples=500, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from([" ", "\n", "<reasoning>", " </reasoning>", "<|pad|>", " 7", "Ann", "é"])).map(
        "".join
    )
)
def test_text_of_the_world_round_trips(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not {tokenizer.pad_id, tokenizer.eos_id} & set(tokens)
