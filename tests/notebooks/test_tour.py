"""The notebook runs from top to bottom, and prints what is committed."""

import nbformat
from nbformat import NotebookNode

from notebooks.refresh import TOUR, execute


def printed(notebook: NotebookNode) -> list[str]:
    """Return what each cell printed, pictures left out."""
    return [
        "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_tour_runs_and_prints_what_is_committed() -> None:
    committed = nbformat.read(TOUR, as_version=4)
    assert printed(execute(TOUR)) == printed(committed)
    pictures = [output for cell in committed.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/png" in output.data for output in pictures)
