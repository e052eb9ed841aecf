"""The notebooks: thin, stored clean, and run from top to bottom without the cells that install and download."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT
from tiny import metrics, run, subprocess_environment, write_gin, write_models

FOLDER = ROOT / "experiments" / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SKIPPED = {"install", "download"}


def test_the_notebooks_there_are():
    assert [file.stem for file in NOTEBOOKS] == ["gsm8k_planner", "inspect_traces", "quickstart"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_stored_clean_and_thin(file):
    book = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(book)
    assert book.nbformat == 4 and book.metadata.kernelspec.name == "python3"
    assert file.read_text().endswith("}\n")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code[:2]] == [["install"], ["install"]]
    for cell in code[2:]:
        if cell.source.startswith("%%bash\n"):
            # A shell stops at the first failure only where it is told to.
            script = cell.source.removeprefix("%%bash\n")
            one = len(re.sub(r"\\\n", "", script).splitlines()) == 1
            assert one or script.startswith("set -e\n"), script
        else:
            assert not re.search(r"^\s*(def|class|while) ", cell.source, re.MULTILINE), cell.source
            assert len(cell.source.splitlines()) <= 9
    for target in re.findall(r"\]\(([^)#:]+)\)", "\n".join(cell.source for cell in book.cells)):
        assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_shell_cells_are_shell(file):
    """Those that install and download too, which no test runs."""
    for cell in nbformat.read(file, as_version=4).cells:
        if cell.source.startswith("%%bash\n"):
            checked = subprocess.run(
                ["bash", "-n"], input=cell.source.partition("\n")[2], capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, checked.stderr


def execute(name: str, folder: Path, **parameters: str) -> list[dict[str, Any]]:
    """Runs a notebook in a folder; what its cells printed and showed, in order."""
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    book.cells = [cell for cell in book.cells if not SKIPPED & set(cell.metadata.get("tags", []))]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client = NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=subprocess_environment(PATH=path, **parameters))
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def shown(outputs: list[dict[str, Any]], kind: str) -> list[str]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def report(outputs: list[dict[str, Any]]) -> str:
    [frame] = [page for page in shown(outputs, "text/html") if page.startswith("<iframe ")]
    return frame


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a run of four steps."""
    folder = write_models(tmp_path_factory.mktemp("inspected"))
    run("train", f"--gin_file={write_gin(folder)}", f"--run_dir={folder / 'run'}", "--gin.STEPS=4")
    return folder


def test_inspect_traces(trained):
    outputs = execute("inspect_traces", trained, RUN="run")
    records = [json.loads(line) for file in (trained / "run" / "traces").iterdir() for line in file.open()]
    said = printed(outputs)
    assert "train 4 steps\n" in said and "reward/mean\n" in said
    assert f"{len(records)} traces; the first one:" in said and len(records) == 4 * 4 * 3
    wrong = [r for r in records if r["verdicts"][0] == "ok" and not r["faithful"]]
    assert f"{len(wrong)} right for the wrong reason" in said
    assert len(shown(outputs, "image/png")) == 2
    assert "uPlot" in report(outputs)
    assert re.search(r"48 of 48|48 records", said), said[-800:]


def test_quickstart(tmp_path):
    small = "--gin.Train.batch_size=2 --gin.Evaluation.problems=16 --gin.Evaluation.batch_size=16"
    outputs = execute("quickstart", tmp_path, STEPS="2", FLAGS=small)
    for arm in ("exec_only", "tracelift"):
        assert [row["step"] for row in metrics(tmp_path / "runs" / arm)] == [0, 1, 2, 2]
    said = printed(outputs)
    assert "untrained, 6 traces at temperature 1" in said and "16 held-out problems" in said
    assert "⠋" not in said, "no moving progress bars"
    assert "exec_only" in report(outputs)


def test_gsm8k_planner(tmp_path, shared_data):
    """On tiny random weights, in place of the download."""
    folder = write_models(tmp_path)
    lines = sorted((shared_data / "gsm8k" / "test.jsonl").read_text().splitlines(), key=len)
    (folder / "few.jsonl").write_text("".join(f"{line}\n" for line in lines[2:14]))
    (folder / "test.jsonl").write_text("".join(f"{line}\n" for line in lines[:2]))
    base = f"--gin.BASE={folder}/base --gin.ACCUMULATE=1"
    sizes = "--gin.BATCH=4 --gin.planner/Sampling.max_tokens=6 --gin.executor/Sampling.max_tokens=3"
    rest = "--gin.Roles.prompt_tokens=640 --gin.Evaluation.problems=2 --gin.Evaluation.batch_size=2"
    outputs = execute(
        "gsm8k_planner",
        folder,
        TRAIN="few.jsonl",
        STEPS="2",
        FLAGS=f"{base} {sizes} {rest}",
        RM_FLAGS=f"{base} --gin.BATCH=4",
    )
    assert [row["step"] for row in metrics(folder / "runs" / "tracelift_qwen2.5_0.5b")] == [0, 1, 2, 2]
    assert (folder / "exports" / "adapter" / "adapter_config.json").exists()
    assert len(shown(outputs, "text/markdown")) == 1 and "uPlot" in report(outputs)
