"""The command line: `descant generate`, `compare`, `score`, `methods`, `warm-up`, and what joins it from outside.

It translates arguments; all decoding lives in the library. Packages, the laboratory first, add commands through the
entry-point group `descant.commands`: each names a function with typer's annotations that returns an exit code.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from descant.cli.compare import compare
from descant.cli.console import DONE, data_writer, report
from descant.cli.generate import generate
from descant.cli.options import Json
from descant.cli.score import score
from descant.cli.warm_up import warm_up

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    args
        The arguments; those of the process if None.

    Raises
    ------
    SystemExit
        Always. 0: done. 1: error. 2: usage. 3: some rows of a batch failed. 130: interrupted. 141: the reader
        of the output left.
    """
    try:
        code = typer.main.get_command(app).main(
            args=None if args is None else list(args), prog_name="descant", standalone_mode=False
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        code = report(error)
    sys.exit(code or DONE)


def methods(as_json: Json = False) -> int:
    """List the methods that --method takes, with their defaults, papers, and cost in forward passes a token."""
    from descant.cli.tables import print_presets
    from descant.describe import describe
    from descant.presets import PRESETS

    with data_writer() as writer:
        if not as_json:
            print_presets(writer, list(PRESETS.values()))
            return DONE
        for entry in PRESETS.values():
            record = {"name": entry.name, "summary": entry.summary, "paper": entry.paper, "cost": entry.cost}
            parts = {name: describe(part) for name, part in entry.arguments.items()}
            writer.write_json({**record, **parts})
    return DONE


def show_version(wanted: bool) -> bool:
    """Print the version and exit, if asked to."""
    if wanted:
        typer.echo(f"descant {version('descant')}")
        raise typer.Exit
    return wanted


def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Decoding by contrast: any decoding method, in any combination, over transformers' models."""


app.callback()(common)
for command in (generate, compare, score, methods):
    app.command()(command)
app.command("warm-up")(warm_up)
for entry in sorted(entry_points(group="descant.commands"), key=lambda entry: entry.name):
    app.command(entry.name)(entry.load())
