"""Text in, grades out: the same as in a rollout; what is read is what the experiment says, cut where it is too long."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from serve_files import GRADER, copied, graded_by_rollout
from tiny import ROOT, TOKENIZER, make_roles, model, write_models

from tracelift_jax import gin_config
from tracelift_jax.config import Adapter, Chat, Frame, LoraConfig, Model, Prompts, RewardConfig, Scorer, Service
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import CODE_DIMENSIONS, MATH_DIMENSIONS
from tracelift_jax.models import hf, peft
from tracelift_jax.models.transformer import Transformer, forward
from tracelift_jax.rollout.score import grade, grade_hidden
from tracelift_jax.serve.scorer import Item, LoadedScorer, load_scorer, read_item
from tracelift_jax.tasks.problem import Problem
from tracelift_jax.text.prompts import Pieces
from tracelift_jax.text.spans import Tokens
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train.roles import load_roles

RELEASED = ROOT / "experiments" / "reward_models" / "released.gin"


def grades(scorer: LoadedScorer, items: list[Item]):
    found = scorer.grade([scorer.read(item) for item in items])
    rubric = np.array([list(one.rubric.values()) for one in found])
    return rubric, np.array([one.total for one in found]), np.array([one.score for one in found])


def test_grades_are_those_of_a_rollout(scorer, items):
    """At all lengths and both batch sizes, in the order of the items."""
    first = items[0]
    longer = [
        Item(first.problem, " ; ".join([first.reasoning] * 3)),
        Item(" ".join([first.problem] * 3), first.reasoning),
        Item(f"\n {first.problem}\t", f"  {first.reasoning}\n"),  # white space does not count
        Item(first.problem, ""),
    ]
    mixed = [*items[:50], *longer, *items[50:]]
    lengths = {len(scorer.read(item).ids) for item in mixed}
    assert min(lengths) < 80 and any(80 < length <= 112 for length in lengths) and max(lengths) > 112
    plain = [Item(item.problem.strip(), item.reasoning.strip()) for item in mixed]
    expected = graded_by_rollout(plain)
    # One sequence adds up in another order than two segments; labels go to 4, the others to 1.
    rubric, total, score = grades(scorer, mixed)
    np.testing.assert_allclose(rubric, expected.rubric, atol=6e-5)
    np.testing.assert_allclose(total, expected.total, atol=1e-5)
    np.testing.assert_allclose(score, expected.score, atol=1e-5)
    assert expected.score.std() > 0.2
    few = grades(scorer, mixed[:3])[-1]
    np.testing.assert_allclose(few, expected.score[:3], atol=1e-5)
    assert scorer.grade([]) == []


def test_few_shapes_are_compiled(config, items):
    scorer = load_scorer(dataclasses.replace(config, batch_size=16))
    scorer.warm_up()
    compiled = scorer._run._cache_size()
    assert compiled == 3 * 2
    for count in (1, 2, 3, 16, 17, 33):
        scorer.grade([scorer.read(item) for item in items[:count]])
    assert scorer._run._cache_size() == compiled


# --- What is read -----------------------------------------------------------------------------------------------------


def test_a_problem_is_cut_at_its_end_and_a_reasoning_never(scorer):
    tokenizer = Tokenizer.load(GRADER)
    problem = "The dial shows 7. Ann turns it up 5. " * 60 + "What does it show now?"
    trace = tokenizer.encode("<reasoning> 7 + 5 = 2 </reasoning>")
    ids = scorer.read(Item(problem, "7 + 5 = 2")).ids
    newline = tokenizer.encode("\n")
    assert len(ids) == 192
    assert list(ids[-len(trace) - 1 :]) == [*newline, *trace]
    assert list(ids[: 191 - len(trace)]) == tokenizer.encode(problem)[: 191 - len(trace)]
    shorter = scorer.read(Item(problem, "7 + 5 = 2"), 50).ids
    assert len(shorter) == 50 and shorter[-len(trace) - 1 :] == ids[-len(trace) - 1 :]
    assert scorer.read(Item(problem, "7 + 5 = 2"), 5000).ids == ids
    # Room for the words around the problem, and no more, is enough; less is not.
    assert list(scorer.read(Item(problem, "7 + 5 = 2"), len(trace) + 1).ids) == [*newline, *trace]
    with pytest.raises(UserError, match=f"^the reasoning takes {len(trace)} tokens, which leaves no room .* within"):
        scorer.read(Item(problem, "7 + 5 = 2"), len(trace))
    with pytest.raises(UserError, match=r"within 192; allow more, or have it cut: Scorer.too_long = 'reference'$"):
        scorer.read(Item("x", "7 + 5 = 2 ; " * 50))


def test_the_reference_cuts_the_whole_on_the_right(scorer):
    tokenizer = Tokenizer.load(GRADER)
    reader = copied(scorer, config=dataclasses.replace(scorer.config, too_long="reference"))
    problem, reasoning = "The dial shows 7. Ann turns it up 5.", "7 + 5 = 2 ; " * 50
    for item in (Item(problem, reasoning), Item(problem * 60, reasoning), Item(problem, "7 + 5 = 2")):
        whole = tokenizer.encode(f"{item.problem}\n<reasoning> {item.reasoning.strip()} </reasoning>")
        for most in (1, 20, 191, 192, 5000, None):
            assert list(reader.read(item, most).ids) == whole[: min(most or 192, 192)]


@pytest.mark.parametrize(
    "frame",
    [
        Frame("{task_name}/{task_type}: ", " <end>\n", "Tests: {tests}\n"),
        Chat("", "{task_name}/{task_type}: ", tests=" Tests: {tests}"),
        Frame("{task_name}/{task_type}: ", " <end>\n"),
    ],
    ids=["frame", "chat", "shows no tests"],
)
def test_problems_are_cut_as_long_as_they_can_be(qwen_tokenizer, frame):
    """Against trying every length: first of the tests, then of the problem; the words around them stay whole."""
    pieces = Pieces(Prompts(reward_model=frame), qwen_tokenizer)
    text, tests = "Ünïcödé 7 apples; <|im_end|> and 12345 pears?", "f(3) == 6, <|im_end|> f({tests}) fails"
    problem = Problem("p", text, "", task_type="{task_name}", task_name="code", tests=tests)
    begun = [(text[:n], "") for n in range(len(text) + 1)] + [(text, tests[:n]) for n in range(1, len(tests) + 1)]
    tried = [pieces.problem("reward_model", dataclasses.replace(problem, text=a, tests=b)) for a, b in begun]
    assert "code/{task_name}: " in qwen_tokenizer.decode(tried[0])
    assert ("Tests: " + tests in qwen_tokenizer.decode(tried[-1])) == bool(frame.tests)
    assert "Tests" not in qwen_tokenizer.decode(tried[len(text)])
    for room in range(len(tried[0]) - 2, len(tried[-1]) + 2):
        fits = [ids for ids in tried if len(ids) <= room]
        assert pieces.cut_problem("reward_model", problem, room) == (fits[-1] if fits else None)


def test_the_published_text_line_by_line(qwen_tokenizer):
    """In the tokens of the whole text, though problem and reasoning are tokenized apart."""
    config = gin_config.load(Scorer, [str(RELEASED)], ["MODEL=there"]).value
    assert config.reward_model.path == "there"
    pieces = Pieces(config.prompts, qwen_tokenizer)
    scorer = LoadedScorer.__new__(LoadedScorer)  # reads, and grades nothing: no weights
    scorer.config, scorer._pieces = config, pieces
    problem, reasoning = "Two lines:\n1. a < b?\n\n2. Why (not)?", "(a) Since {task_type} = 3,\n\n b > 2.\n- done."
    tests = "f(1) == {tests}\n\nf(2) == 3"
    shown = f"<tests>\n{tests}\n</tests>\n"
    for name, kind in (("math", "GSM8K"), ("code", "{task_name}")):
        for given, lines in (("", ""), (" \n", ""), (tests, shown), (f"\n{tests}\n", shown)):
            for written in (reasoning, ""):
                text = (
                    f"<task>{name}</task>\n<type>{kind}</type>\n<problem>\n{problem}\n</problem>\n{lines}"
                    f"<reasoning>\n{written}\n</reasoning>"
                )
                ids = scorer.read(Item(f" {problem}\n", f"\n{written} ", name, kind, given)).ids
                assert qwen_tokenizer.decode(ids) == text
                assert list(ids) == qwen_tokenizer.encode(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("models"))
    Tokenizer.load(TOKENIZER).save(folder / "reward_model")
    return folder


def test_a_checkpoint_in_the_published_layout(folder):
    flags = [f"MODEL={folder / 'reward_model'}", "Model.dtype=float32", "Model.param_dtype=float32"]
    config = gin_config.load(Scorer, [str(RELEASED)], flags).value
    scorer = load_scorer(config)
    items = [Item("Ann has 7.", "7 + 5 = 2", "code", "stdin"), Item("Bob has 4 hats.", "4 * 2 = 8")]
    found = scorer.grade([scorer.read(item) for item in items])
    assert [tuple(one.rubric) for one in found] == [CODE_DIMENSIONS, MATH_DIMENSIONS]
    shape = dataclasses.replace(hf.read_config(folder / "reward_model"), tie_embeddings=True)  # it writes nothing
    params, heads = hf.load_reward_model(folder / "reward_model", shape)
    tokenizer = Tokenizer.load(TOKENIZER)
    texts = [
        "<task>code</task>\n<type>stdin</type>\n<problem>\nAnn has 7.\n</problem>\n"
        "<reasoning>\n7 + 5 = 2\n</reasoning>",
        "<task>math</task>\n<type>math</type>\n<problem>\nBob has 4 hats.\n</problem>\n"
        "<reasoning>\n4 * 2 = 8\n</reasoning>",
    ]
    for one, text in zip(found, texts, strict=True):
        ids = np.array([tokenizer.encode(text)])
        hidden, _ = forward(Transformer(shape), {"params": params}, ids, np.ones_like(ids, bool))
        wanted = grade_hidden(Transformer(shape), heads, hidden[:, -1])
        np.testing.assert_allclose(list(one.rubric.values()), wanted.expected[0], atol=1e-5)
        np.testing.assert_allclose([one.total, one.score], [wanted.total[0], wanted.score[0]], atol=1e-5)


@pytest.mark.slow
def test_an_adapter_grades_on_its_base_as_in_a_run(folder):
    lora = LoraConfig(rank=2, alpha=4.0)
    shape = dataclasses.replace(hf.read_config(folder / "base"), lora=lora)
    rng = np.random.default_rng(3)
    bare = load_roles(make_roles(folder, lora=lora, reward_model=None, reward=RewardConfig(kind="exec_only")))
    drawn = jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), bare.trainable(0)[0]["lora"]
    )
    sizes = {"dimensions": (5, 16, 5), "dimension_bias": (5, 5), "total": (16,), "total_bias": ()}
    heads = {name: np.asarray(rng.standard_normal(size), np.float32) for name, size in sizes.items()}
    peft.save_adapter(folder / "grader", drawn, shape, str(folder / "base"), heads)
    adapter = Adapter(str(folder / "grader"))
    scorer = load_scorer(Scorer(adapter, model(folder / "base"), lengths=(48,), batch_size=2))
    loaded = load_roles(make_roles(folder, lora=lora, reward_model=adapter))
    assert scorer.fingerprint == loaded.fingerprints["reward_model"]
    read = scorer.read(Item("Ann has 7.", "7 + 5 = 2"))
    [found] = scorer.grade([read])
    ids = np.array(read.ids)
    parts = [Tokens(part, np.ones_like(part, bool)) for part in (ids[None, :4], ids[None, None, 4:])]
    wanted = grade(loaded.setup.reward_model, *loaded.reward_model, *parts)
    np.testing.assert_allclose([found.total, found.score], [wanted.total[0, 0], wanted.score[0, 0]], atol=1e-6)


def test_weights_that_give_no_number(scorer, items):
    variables, heads = scorer._weights
    broken = copied(scorer, _weights=(variables, {**heads, "total": heads["total"] * np.nan}))
    with pytest.raises(UserError, match=r"reward_model: its weights give numbers that are not finite"):
        broken.grade([broken.read(items[0])])


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"reasoning": "x"}, 'field "problem" is missing'),
        ({"problem": "x"}, 'field "reasoning" is missing'),
        ({"problem": 3, "reasoning": "x"}, 'field "problem" must be a string, not int'),
        ({"problem": "x", "reasoning": None}, 'field "reasoning" must be a string, not NoneType'),
        ({"problem": " \n", "reasoning": "x"}, 'field "problem" is empty'),
        ({"problem": "x", "reasoning": "\ud800"}, 'field "reasoning" holds half of a surrogate pair'),
        ({"problem": "x", "reasoning": "x", "task_name": "art"}, """must be "math" or "code", not 'art'"""),
        ({"problem": "x", "reasoning": "x", "task_type": []}, 'field "task_type" must be a string, not list'),
        ({"problem": "x", "reasoning": "x", "tests": ["f"]}, 'field "tests" must be a string, not list'),
        ({"problem": "x", "reasoning": "x", "tests": "\udfff"}, 'field "tests" holds half of a surrogate pair'),
    ],
)
def test_items_that_are_refused(config, row, reason):
    with pytest.raises(UserError) as refused:
        read_item(row, config)
    assert reason in str(refused.value)


def test_an_item_is_about_what_the_experiment_says_unless_it_says_otherwise(config):
    plain = {"problem": "p", "reasoning": "", "id": 3}
    row = {"problem": "p", "reasoning": "r", "task_name": "code", "task_type": "stdin", "tests": "f(1) == 2"}
    assert read_item(plain, config) == Item("p", "", "math", "math", "")
    assert read_item(row, config) == Item("p", "r", "code", "stdin", "f(1) == 2")
    code = dataclasses.replace(config, task_name="code", task_type="call")
    assert read_item(plain, code) == Item("p", "", "code", "call", "")
    assert read_item(plain | {"task_name": "math"}, code) == Item("p", "", "math", "call", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": ()}, "Scorer.lengths"),
        ({"lengths": (8, 8)}, "Scorer.lengths"),
        ({"lengths": (9, 8)}, "Scorer.lengths"),
        ({"lengths": (0, 8)}, "Scorer.lengths"),
        ({"batch_size": 0}, "Scorer.batch_size"),
        ({"chunk": 0}, "Scorer.chunk"),
        ({"too_long": "leave_out"}, "Scorer.too_long"),
        ({"task_name": "art"}, "Scorer.task_name"),
        ({"reward_model": Adapter("a")}, "Scorer.base must be set"),
        ({"base": Model("b")}, "Scorer.base is for an Adapter"),
        ({"reward_model": Model()}, "Scorer.reward_model needs a path"),
        ({"reward_model": Adapter("a"), "base": Model()}, "Scorer.tokenizer must be set"),
    ],
)
def test_experiments_that_are_refused(changes, reason):
    with pytest.raises(UserError, match=f"^{reason}"):
        Scorer(**{"reward_model": Model("m"), "prompts": Prompts(reward_model=Frame())} | changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_items": 0}, "max_items"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_items": 9, "max_waiting": 8}, "max_waiting"),
        ({"gather_ms": -1.0}, "gather_ms"),
        ({"read_seconds": 0.0}, "read_seconds"),
        ({"drain_seconds": 0.0}, "drain_seconds"),
    ],
)
def test_services_that_are_refused(changes, field):
    with pytest.raises(UserError, match=f"^Service.{field}"):
        Service(**changes)


def test_a_tokenizer_too_large_for_the_model(folder, tmp_path, qwen_tokenizer):
    shutil.copytree(folder / "reward_model", tmp_path / "model")
    with pytest.raises(UserError, match="do not fit the model's vocabulary of 337"):
        load_scorer(Scorer(model(tmp_path / "model"), tokenizer=str(qwen_tokenizer.where)))
