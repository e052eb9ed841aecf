"""The report of a tiny run, end to end: real grades, three files, the same numbers in all."""

import dataclasses
import json
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image
from tiny import GIN_DIAL, GIN_HEADER, GIN_RM, GIN_SHAPE, TOKENIZER, command, metrics, run

from benchmarks import trust as benchmark
from tracelift_jax import config, gin_config
from tracelift_jax.errors import UserError
from tracelift_jax.groups.schema import MATH_DIMENSIONS
from tracelift_jax.models import build, hf
from tracelift_jax.models.transformer import Transformer
from tracelift_jax.parallel.mesh import MeshConfig, make_mesh
from tracelift_jax.rollout.score import grade
from tracelift_jax.text.prompts import Pieces, Prompts
from tracelift_jax.text.spans import Tokens
from tracelift_jax.text.tokenizer import Tokenizer
from tracelift_jax.train import trust_report
from tracelift_jax.train.process_bench import halves, run_process_bench
from tracelift_jax.train.reward_model import make_judge
from tracelift_jax.train.trust_grade import Asked, grade_all, predict, with_answer

GIN = (
    GIN_HEADER
    + GIN_SHAPE
    + GIN_DIAL
    + GIN_RM
    + """
config.TrainRm.groups = @config.DialGroups()
config.DialGroups.task = @config.DialTask()
config.DialTask.test_size = 9
config.TrainRm.model = @config.Model()
config.TrainRm.lora = @config.LoraConfig()
config.LoraConfig.rank = 2
config.TrainRm.tokenizer = 'assets/dial/tokenizer'
config.TrainRm.prompt_tokens = 30
config.TrainRm.trace_tokens = 32
config.TrainRm.evaluation_groups = 7
config.Schedule.steps = 3
config.TrainRm.process_bench = @config.ProcessBench()
config.ProcessBench.path = '{bench}'
config.ProcessBench.between = ' ; '
"""
)
SOLUTIONS = [
    {"id": "a", "problem": "The dial shows 7. Ann turns it up 5.", "steps": ["7 + 5 = 2"], "label": -1},
    {"id": "b", "problem": "The dial shows 7. Ann turns it up 5.", "steps": ["7 + 5 = 3"], "label": 0},
    {"id": "c", "problem": "The dial shows 7.", "steps": ["7 + 5 = 2", "2 + 1 = 4", "4 + 1 = 5"], "label": 1},
    {"id": "d", "problem": "The dial shows 8.", "steps": ["8 + 5 = 3", "3 + 1 = 4"], "label": -1},
    {"id": "too long", "problem": "The dial shows 8.", "steps": ["8 + 5 = 3"] * 20, "label": -1},
    {"id": "e", "problem": "The dial shows 8. " * 20, "steps": ["8 + 5 = 3"], "label": -1},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three steps; its experiment, directory and gin file."""
    folder = tmp_path_factory.mktemp("trust")
    (folder / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SOLUTIONS))
    file = folder / "tiny.gin"
    file.write_text(GIN.replace("{bench}", str(folder / "bench.jsonl")))
    run("train-rm", f"--gin_file={file}", f"--run_dir={folder / 'run'}")
    experiment = gin_config.load(config.TrainRm, [str(file)]).value
    return SimpleNamespace(run_dir=folder / "run", gin=file, experiment=experiment)


@pytest.fixture(scope="module")
def judge(finished):
    """The written model, ready to grade."""
    shape = hf.read_config(finished.run_dir / "model")
    params, heads = hf.load_reward_model(finished.run_dir / "model", shape)
    pieces = Pieces(Prompts(), Tokenizer.load(TOKENIZER))
    mesh = make_mesh(MeshConfig())
    return make_judge(finished.experiment, pieces, mesh, Transformer(shape), {"params": params}, heads)


@pytest.fixture(scope="module")
def alone(judge):
    """The grade (logits, total, score) of one trace, padded to 64 tokens, with nothing beside it."""
    graded = jax.jit(partial(grade, judge.model))

    def one(problem: list[int], trace: list[int]):
        ids = [jnp.array([[*piece, *[0] * (64 - len(piece))]]) for piece in (problem, trace)]
        valid = [jnp.arange(64)[None] < len(piece) for piece in (problem, trace)]
        tokens = [SimpleNamespace(ids=ids[0], valid=valid[0]), SimpleNamespace(ids=ids[1][None], valid=valid[1][None])]
        found = graded(judge.variables, judge.heads, *(Tokens(t.ids, t.valid) for t in tokens))
        return np.asarray(found.logits)[0, 0], float(found.total[0, 0]), float(found.score[0, 0])

    return one


def text_ids(judge, text):
    return judge.pieces.tokenizer.encode(text)


def test_predictions_are_those_of_each_trace_alone(finished, judge, alone):
    groups = finished.experiment.groups.groups("test")
    held_out = predict(judge, groups, 7)
    p = held_out.predictions
    assert held_out.left_out == 0
    assert held_out.names == MATH_DIMENSIONS
    members = [(g, trace) for g in range(7) for trace in (groups[g].positives[0], *groups[g].negatives)]
    assert len(p) == len(members) == 35
    for i, (g, trace) in enumerate(members):
        problem = text_ids(judge, groups[g].problem + "\n")
        ids = text_ids(judge, f"<reasoning> {trace.reasoning} </reasoning>")
        logits, total, score = alone(problem, ids)
        np.testing.assert_allclose(p.logits[i], logits, atol=1e-5)
        np.testing.assert_allclose((p.total[i], p.score[i]), (total, score), atol=1e-6)
        assert tuple(p.labels[i]) == trace.rubric.dimensions
        assert (p.totals[i], p.kind[i], p.group[i], p.length[i]) == (
            trace.rubric.total,
            trace.negative_kind,
            g,
            len(ids),
        )
        answer = groups[g].reference_solution
        leaked = text_ids(judge, f"<reasoning> {trace.reasoning} Answer: {answer} </reasoning>")
        np.testing.assert_allclose(p.leaked[i], alone(problem, leaked)[2], atol=1e-6)
    assert np.abs(p.leaked - p.score).max() > 1e-3


def test_a_solution_is_leaked_as_its_answer(judge, finished):
    group = finished.experiment.groups.groups("test")[0]
    worked = dataclasses.replace(group, reference_solution="3 + 4 = 7 apples\n#### 7")
    assert with_answer(judge, worked).positives[0].reasoning == f"{group.positives[0].reasoning} Answer: 7"
    assert with_answer(judge, worked).negatives[1].reasoning == f"{group.negatives[1].reasoning} Answer: 7"


def test_more_traces_than_are_read_together(judge, alone):
    """Problems with 1, 7 and 2 traces: rows are split and filled up, and every grade comes back in its place."""
    asked = [
        Asked(text_ids(judge, f"The dial shows {n}.\n"), [judge.trace(f"{n} + {m} = {m}") for m in range(count)])
        for n, count in ((3, 1), (5, 7), (8, 2))
    ]
    expected = [alone(one.problem, trace)[2] for one in asked for trace in one.traces]
    np.testing.assert_allclose(grade_all(judge, asked).score, expected, atol=1e-6)


def test_groups_that_do_not_fit_are_counted(finished, judge):
    groups = finished.experiment.groups.groups("test")
    sizes = [len(text_ids(judge, groups[g].problem + "\n")) for g in range(7)]
    fits = [size < max(sizes) for size in sizes]
    assert 0 < sum(fits) < 7
    held_out = predict(dataclasses.replace(judge, prompt_tokens=max(sizes) - 1), groups, 7)
    assert held_out.left_out == 7 - sum(fits)
    whole = predict(judge, groups, 7).predictions
    expected = whole.where(np.array(fits)[whole.group])
    np.testing.assert_allclose(held_out.predictions.score, expected.score, atol=1e-6)
    np.testing.assert_allclose(held_out.predictions.leaked, expected.leaked, atol=1e-6)
    assert held_out.predictions.kind.tolist() == expected.kind.tolist()
    cut = predict(dataclasses.replace(judge, prompt_tokens=max(sizes) - 1, too_long="cut_problem"), groups, 7)
    assert (cut.left_out, len(cut.predictions)) == (0, 35)
    with pytest.raises(UserError, match="no held-out group fits"):
        predict(dataclasses.replace(judge, trace_tokens=3), groups, 7)


@pytest.mark.parametrize("grade_at", ["tag", "step"])
def test_every_prefix_is_graded(finished, judge, alone, grade_at):
    bench = dataclasses.replace(finished.experiment.process_bench, grade_at=grade_at)
    found = run_process_bench(judge, bench)
    assert (found["solutions"], found["left_out"]) == (4, 2)
    tail = " </reasoning>" if grade_at == "tag" else ""
    scores = [
        [
            alone(
                text_ids(judge, row["problem"] + "\n"),
                text_ids(judge, f"<reasoning> {' ; '.join(row['steps'][: k + 1])}{tail}"),
            )[2]
            for k in range(len(row["steps"]))
        ]
        for row in SOLUTIONS[:4]
    ]
    # the threshold is one of these, or just above them all
    near = [abs(found["threshold"] - score) for row in scores for score in row]
    assert min(near) < 1e-6
    predicted = [next((k for k, s in enumerate(row) if s < found["threshold"] - 1e-6), -1) for row in scores]
    labels = [row["label"] for row in SOLUTIONS[:4]]
    rest = [i for i, chosen in enumerate(halves(list("abcd"))) if not chosen]
    for name, wrong in (("wrong", True), ("right", False)):
        hits = [predicted[i] == labels[i] for i in rest if (labels[i] >= 0) == wrong]
        assert found[name]["n"] == len(hits)
        assert found[name]["value"] == (np.mean(hits) if hits else None)


def test_the_report_says_what_the_run_measured(finished):
    report = json.loads((finished.run_dir / "trust.json").read_text())
    [row] = [row for row in metrics(finished.run_dir) if row["step"] == 3 and "held_out/mae" in row]
    np.testing.assert_allclose(report["grading"]["mae"]["value"], row["held_out/mae"], rtol=1e-5)
    np.testing.assert_allclose(report["grading"]["rmse"]["value"], row["held_out/rmse"], rtol=1e-5)
    for name in ("pair_accuracy", "group_accuracy"):
        np.testing.assert_allclose(report["ranking"][name]["value"], row[f"held_out/{name}"], rtol=1e-5)
    right = np.mean([d["accuracy"] for d in report["grading"]["dimensions"].values()])
    np.testing.assert_allclose(right, row["held_out/dimension_accuracy"], rtol=1e-5)
    assert (report["groups"], report["traces"], report["process_bench"]["solutions"]) == (7, 35, 4)


def numbers(tree):
    """All numbers of a tree, as the report writes them."""
    if isinstance(tree, dict | list):
        return {x for value in (tree.values() if isinstance(tree, dict) else tree) for x in numbers(value)}
    return {f"{tree:.3f}"} if isinstance(tree, float) else set()


def test_the_text_has_the_numbers_of_the_json(finished):
    report = json.loads((finished.run_dir / "trust.json").read_text())
    text = (finished.run_dir / "trust.md").read_text()
    assert text == trust_report.markdown(report)
    written = set(re.findall(r"-?\d+\.\d{3}", text))
    assert written <= numbers(report) | {f"{-float(n):.3f}" for n in numbers(report)}
    assert len(written) > 40

    def cells(start):
        return [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith(f"| {start} |")]

    def shown(value):
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" if value["n"] else "-"

    blind = report["baselines"]
    [[_, *pair]] = cells("pair accuracy: positive above a negative")
    assert pair == [shown(report["ranking"]["pair_accuracy"]), f"{blind['pair_accuracy']['value']:.3f}"]
    [[_, *group]] = cells("group accuracy: positive above all negatives")
    assert group == [shown(report["ranking"]["group_accuracy"]), f"{blind['group_accuracy']:.3f}"]
    for name, label, floor in (
        ("mae", "mean absolute error", f"{blind['mae']['value']:.3f}"),
        ("rmse", "root mean squared error", "-"),
    ):
        [[_, *error]] = cells(f"{label} of the score")
        assert error == [shown(report["grading"][name]), floor]
    assert f"score always {blind['constant']:.3f}, the median total" in text
    assert f"the {'longer' if blind['longer_is_better'] else 'shorter'} trace being the better one" in text
    for kind, found in report["kinds"].items():
        row, accuracy, f1, ece = cells(kind or "(positive)")
        assert row[1:3] == [str(found["n"]), shown(found["pair_accuracy"])]
        assert row[3] == (f"{blind['kinds'][kind]['value']:.3f}" if kind else "-")
        assert row[4:6] == [shown(found["mae"]), shown(found["rmse"])]
        assert row[6:] == [f"{found[key]:.3f}" for key in ("mean_score", "mean_total", "highest")]
        for name, measured in (("accuracy", accuracy), ("macro_f1", f1), ("ece", ece)):
            assert measured[1:] == [f"{found['dimensions'][d][name]:.3f}" for d in MATH_DIMENSIONS]
    for name in MATH_DIMENSIONS:
        [[_, *row]] = [row for row in cells(name) if len(row) == 6]
        found = report["grading"]["dimensions"][name] | {"blind": blind["labels"][name]}
        assert row == [f"{found[key]:.3f}" for key in ("accuracy", "blind", "macro_f1", "ece", "confidence")]
    for side in ("positives", "negatives"):
        correlation, leaked = cells(side)
        found = report["length"][side]
        assert correlation[2:] == ["-" if found[key] is None else f"{found[key]:.3f}" for key in ("score", "error")]
        assert leaked[2:] == [shown(report["leak"][side]["difference"]), shown(report["leak"][side]["raised"])]


def test_the_picture_shows_something(finished):
    pixels = image.imread(finished.run_dir / "trust.png")[..., :3]
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    for half in np.array_split(pixels, 2, axis=1):
        colours = np.unique(half.reshape(-1, 3).round(1), axis=0)
        assert len(colours) > 20
        assert 0.01 < (half < 0.9).any(-1).mean() < 0.5


def test_started_again_it_writes_what_is_missing_and_leaves_what_is_there(finished):
    files = {name: (finished.run_dir / name).read_bytes() for name in ("trust.json", "trust.md")}
    (finished.run_dir / "trust.json").unlink()
    again = ["train-rm", f"--gin_file={finished.gin}", f"--run_dir={finished.run_dir}"]
    run(*again)
    assert {name: (finished.run_dir / name).read_bytes() for name in files} == files
    (finished.run_dir / "trust.md").write_text("notes of mine")
    run(*again)
    assert (finished.run_dir / "trust.md").read_text() == "notes of mine"
    (finished.run_dir / "trust.md").write_bytes(files["trust.md"])


def test_a_wrong_process_bench_file_stops_a_run_before_it_starts(finished, tmp_path):
    outcome = command(
        "train-rm",
        f"--gin_file={finished.gin}",
        f"--gin.ProcessBench.path={tmp_path / 'none.jsonl'}",
        f"--run_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 2
    assert "none.jsonl" in outcome.errors
    assert not (tmp_path / "run").exists()


def test_a_written_model_gets_the_report_of_its_run(finished, tmp_path):
    """The adapter is merged in the written model: the same function, summed in another order."""
    benchmark.main([str(finished.run_dir / "model"), f"--gin_file={finished.gin}", f"--out={tmp_path}"])
    ours, theirs = (json.loads((folder / "trust.json").read_text()) for folder in (tmp_path, finished.run_dir))
    assert sorted(ours) == sorted(theirs)
    for name in ("mae", "rmse", "bias"):
        np.testing.assert_allclose(ours["grading"][name]["value"], theirs["grading"][name]["value"], atol=1e-5)
    assert ours["ranking"] == theirs["ranking"]
    assert build.find(str(tmp_path / "trust.png")).stat().st_size > 10_000


# ---------------------------------------------------------------------------------------------------- what it concludes


def sentences(**changes):
    """`findings` on a report in which nothing stands out, but for `changes`."""
    value = {"value": 0.95, "low": 0.9, "high": 1.0, "n": 9}
    fine = {"accuracy": 0.9, "macro_f1": 0.9, "ece": 0.05, "confidence": 0.9}
    leak = {"difference": value | {"value": 0.02}, "raised": value}
    plain = {
        "groups": 100,
        "kinds": {
            "": {"pair_accuracy": value | {"value": None}, "highest": 1.0},
            "slip": {"pair_accuracy": value | {"value": 0.9}, "highest": 0.9},
        },
        "grading": {"dimensions": {"step_coherence": fine}, "total_mae": value | {"value": 0.1}},
        "length": {side: {"error": 0.3} for side in ("positives", "negatives")},
        "leak": {"positives": leak, "negatives": leak},
    }
    for path, found in changes.items():
        *steps, last = path.split("__")
        tree = plain = json.loads(json.dumps(plain))
        for step in steps:
            tree = tree[step]
        tree[last] = found
    return trust_report.findings(plain)


def test_nothing_stands_out_at_the_limits():
    assert sentences() == [
        "Nothing stands out in these numbers.",
        "Measured on flaws of these kinds alone: slip. What a trained planner comes up with may be another.",
    ]


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"groups": 99}, "Only 99 groups"),
        ({"kinds__slip__pair_accuracy__value": 0.89}, "Does not reliably see slip: the positive is above it in 0.890"),
        ({"kinds__slip__highest": 0.91}, "Some slip scores up to 0.910"),
        ({"grading__dimensions__step_coherence__ece": 0.06}, "Miscalibrated on step_coherence: both ways"),
        (
            {"grading__dimensions__step_coherence": {"accuracy": 0.8, "confidence": 0.9, "ece": 0.1}},
            "Miscalibrated on step_coherence: too sure (confidence 0.900, accuracy 0.800, ECE 0.100)",
        ),
        (
            {"grading__dimensions__step_coherence": {"accuracy": 0.9, "confidence": 0.8, "ece": 0.1}},
            "Miscalibrated on step_coherence: too unsure",
        ),
        (
            {"grading__total_mae__value": 0.11},
            "The directly predicted total, which is half of the score, is off by 0.110",
        ),
        ({"length__positives__error": 0.31}, "Longer positives get too much: error and length correlate by 0.310"),
        ({"length__negatives__error": -0.31}, "Longer negatives get too little: error and length correlate by -0.310"),
        ({"leak__negatives__difference__value": 0.03}, "A leaked answer pays: negatives gain 0.030"),
        ({"leak__positives__difference__value": -0.03}, "A leaked answer costs positives 0.030"),
    ],
)
def test_what_stands_out_is_said(changes, begins):
    found = sentences(**changes)
    assert len(found) == 2
    assert found[0].startswith(begins)
