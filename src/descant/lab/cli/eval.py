"""`descant eval`: methods compared on task sets, as a study file says."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from descant.cli.console import DONE, Progress, Writer, data_writer
from descant.cli.options import OUTPUT, RUN, Json, option
from descant.lab.cli import require

if TYPE_CHECKING:
    from descant.lab.report import Report
    from descant.lab.studies.config import StudyFile
    from descant.lab.studies.prepare import PreparedStudy
    from descant.lab.studies.scores import Cells

_MODELS = "Models: in place of the study's own"


def evaluate(
    *,
    study: Annotated[Path, typer.Argument(help="The study, YAML or TOML.", show_default=False, metavar="STUDY")],
    expert: Annotated[str | None, option(_MODELS, "Hub id or folder of the expert.", of="NAME")] = None,
    amateur: Annotated[str | None, option(_MODELS, "Hub id or folder of the amateur.", of="NAME")] = None,
    dtype: Annotated[str | None, option(_MODELS, "float32, bfloat16, …", of="NAME")] = None,
    device: Annotated[str | None, option(_MODELS, "cuda, mps or cpu.", of="NAME")] = None,
    limit: Annotated[int | None, option(RUN, "Use N tasks of each set, for a quick try.", of="N", least=1)] = None,
    out: Annotated[
        Path | None,
        option(OUTPUT, "Keep texts, report.md, report.json and report.html in a folder.", of="FOLDER"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Compare decoding methods on task sets: every metric with its interval, every difference tested.

    Texts are kept as they are made, in FOLDER/texts or else in the cache, under a hash of all that decides them: an
    interrupted study goes on where it was, and one that is changed decodes only what is new.
    """
    require("descant eval", "pydantic", "yaml")
    if out is not None:
        require("--out", "matplotlib")
    with data_writer() as writer:
        from descant.lab.report import check_folder, make_report, write
        from descant.lab.studies.config import read_study
        from descant.lab.studies.prepare import prepare
        from descant.lab.studies.scores import score
        from descant.lab.studies.signature import Signer

        if out is not None:
            check_folder(out)
        file = _override(read_study(study), {"expert": expert, "amateur": amateur, "dtype": dtype, "device": device})
        texts = _texts_folder(out)
        prepared = prepare(file, study.parent, limit, texts)
        cells = _run(prepared, texts)
        scores = score(cells, prepared.metrics, prepared.baseline, file.level, Signer())
        report = make_report(file, prepared.baseline, cells, scores, shlex.join(["descant", *sys.argv[1:]]))
        if out is not None:
            write(report, out)
        if as_json:
            writer.write_json(report.record())
        else:
            _print(writer, report)
    return DONE


def _override(file: "StudyFile", given: dict[str, str | None]) -> "StudyFile":
    """Return the study with other models: an expert by another name brings neither amateur nor sources along."""
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "expert" in changes:
        changes = {"amateur": None, "revision": None, "sources": {}, **changes}
    return file.model_copy(update={"models": file.models.model_copy(update=changes)}) if changes else file


def _texts_folder(out: Path | None) -> Path:
    from descant.models.passes.artefacts import cache_folder

    return cache_folder() / "eval" if out is None else out / "texts"


def _run(prepared: "PreparedStudy", folder: Path) -> "Cells":
    """Decode what is not there yet, with a bar over all continuations."""
    cells = prepared.study.cells(folder)
    with Progress(sum(len(cell.assignment.tasks()) for cell in cells)) as progress:

        def advance(count: int) -> None:
            for _ in range(count):
                progress.advance()

        return [(cell, cell.run(advance)) for cell in cells]


def _print(writer: Writer, report: "Report") -> None:
    """Print a table for each task set, a column a line where a terminal is narrow."""
    from descant.lab.report.tables import header, legend, plain, rows

    for task_set in report.task_sets:
        names, lines = header(report, task_set), rows(report, task_set)
        writer.write(f"{task_set}\n")
        width = max(len(method) for method in report.methods)
        for place, name in enumerate(names):
            writer.write(f"  {name}\n")
            for method, entries in lines:
                best = " best" if entries[place].best else ""
                writer.write(f"    {method:<{width}}  {plain(entries[place])}{best}\n")
    for line in legend(report, "best"):
        writer.write(f"{line}\n")
