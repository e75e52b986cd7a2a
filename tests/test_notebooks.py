"""Every notebook runs from top to bottom, at tiny size."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

# cells that need data which only a network brings: they print how to get it, and draw nothing
LEFT_OUT = {"04_discrete_and_text": [4]}
WITHOUT_OUTPUTS = {"05_pretrained_and_many_devices"}  # their models have to be downloaded
NOTEBOOKS = sorted((Path(__file__).parent.parent / "colab").glob("*.ipynb"))
# each of them takes less than a minute; the others train, or run many methods, for minutes
SOME = {"01_guidance_in_one_page", "04_discrete_and_text", "07_own_network"}
MARKED = [p if p.stem in SOME else pytest.param(p, marks=pytest.mark.release) for p in NOTEBOOKS]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    """How many pictures each code cell drew."""
    return [sum("image/png" in out.get("data", {}) for out in cell.outputs) for cell in code(notebook)]


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= SOME


@pytest.mark.slow
@pytest.mark.parametrize("path", MARKED, ids=lambda p: p.stem)
def test_notebook(monkeypatch, tmp_path, path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # no network: what would be downloaded is left out, with its reason
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NOTEBOOK_SAMPLES", "300")
    monkeypatch.setenv("NOTEBOOK_STEPS", "20")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, 4)
    stored = pictures(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert sum(pictures(notebook)) > 0
    assert stored == ([0] * len(stored) if path.stem in WITHOUT_OUTPUTS else pictures(notebook))
    assert [i for i, cell in enumerate(code(notebook)) if "run: pip download" in printed(cell)] == LEFT_OUT.get(
        path.stem, []
    )
