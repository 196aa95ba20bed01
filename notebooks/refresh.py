"""Run the notebook, and keep its outputs: `make notebook`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TOUR = Path(__file__).with_name("tour.ipynb")


def execute(path: Path) -> NotebookNode:
    """Return a notebook as it is after a run from top to bottom; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False, coalesce_streams=True)
    executed = client.execute(cwd=str(path.parent))
    for cell in executed.cells:
        if cell.cell_type == "code":  # libraries' warnings name folders of the machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return executed


if __name__ == "__main__":
    executed = execute(TOUR)
    unfinished = TOUR.with_suffix(".tmp")
    nbformat.write(executed, unfinished)
    unfinished.rename(TOUR)
