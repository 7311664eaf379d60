"""The notebooks in docs/, executed from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import hospital_tree
from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
IN_ORDER = ("from_tree_to_report", "read_and_explain")  # the second reads with the first's bundle
OWN_TABLE = "your_own_table"

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(DOCS / f"{name}.ipynb", as_version=4)


def execute(name: str, folder: Path) -> nbformat.NotebookNode:
    notebook = read(name)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(tmp_path):
    for name in IN_ORDER:
        execute(name, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.skipif(not hospital_tree.SAMPLE.is_dir(), reason=f"{hospital_tree.SAMPLE} is absent")
def test_a_hospitals_own_table_becomes_a_report_in_under_fifteen_lines(tmp_path):
    hospital_tree.make(tmp_path / "hospital", images=200)
    notebook = execute(OWN_TABLE, tmp_path)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    shown = notebook.cells[-1].outputs[0]["data"]["text/plain"]
    assert shown.count("Rib Fracture") == 3
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_every_notebook_is_executed():
    assert {path.stem for path in DOCS.glob("*.ipynb")} == {*IN_ORDER, OWN_TABLE}
