"""The notebooks in docs/, executed from top to bottom."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
IN_ORDER = ("from_tree_to_report", "read_and_explain")  # the second reads with the first's bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("name", IN_ORDER)
def test_a_notebook_runs_from_top_to_bottom(name, folder):
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    if name == "from_tree_to_report":
        assert (folder / "report.html").stat().st_size > 100_000


def test_every_notebook_is_executed():
    assert {path.stem for path in DOCS.glob("*.ipynb")} == set(IN_ORDER)
