"""The notebooks run from the first cell to the last, and are committed with outputs."""

import json
import os
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).absolute().parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def outputs(notebook) -> list[set[str]]:
    """Returns the kinds of what each cell of code has put out."""
    kinds = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found = {kind for output in cell.outputs for kind in output.get("data", ())}
            streams = {output.get("name") for output in cell.outputs}
            kinds.append(found | (streams & {"stdout"}))
    return kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_is_committed_with(path, tmp_path):
    committed = nbformat.read(path, as_version=4)
    again = nbformat.read(path, as_version=4)
    # An epoch shows all that more of them would.
    setting = [cell for cell in again.cells if "EPOCHS, BATCH = 4, 64" in cell.source]
    assert len(setting) == 1
    setting[0].source = setting[0].source.replace("= 4, 64", "= 1, 64")
    # Jupyter's own: no message of it about the address of a debugger.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    nbclient.NotebookClient(
        again,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    ).execute(env=environment)
    assert outputs(again) == outputs(committed)
    # A curve and Grad-CAM.
    assert sum("image/png" in kinds for kinds in outputs(committed)) == 2
    for cell in again.cells:
        assert not [o for o in cell.get("outputs", ()) if o.output_type == "error"]


def test_notebooks_are_committed_clean():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        text = path.read_text()
        assert str(ROOT) not in text
        assert "/root/" not in text
        for cell in json.loads(text)["cells"]:
            for output in cell.get("outputs", ()):
                assert output.get("name") != "stderr", path
