"""Tables for people: wide where the terminal is, 80 columns in a pipe, colours only on a terminal."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from descant.cli.console import Writer

if TYPE_CHECKING:
    from descant.cli.contenders import Competitor, Decoding
    from descant.presets import Preset


def print_texts(writer: Writer, prompt: str, truth: str | None, runs: "Sequence[Decoding]") -> None:
    """Print one prompt and, below each other, what the methods made of it and, where it is known, the right answer."""
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1))
    table.add_column("method", style="cyan", no_wrap=True)
    table.add_column("text", ratio=1)
    for run in runs:
        ending = Text(" …", style="dim") if run.output.finish_reason != "stop" else Text()
        table.add_row(run.name, Text(_visible(run.output.text)) + ending)
    if truth is not None:
        table.add_row(Text("truth", style="green"), Text(_visible(truth), style="green"))
    print_parts(writer, Text(_visible(prompt), style="bold"), table)


def print_rates(writer: Writer, contenders: "Sequence[Competitor]", runs: "Sequence[Decoding]") -> None:
    """Print how fast the methods were, and whether transformers agrees."""
    from descant.cli.methods import settings

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", style="cyan", no_wrap=True)
    table.add_column("settings", ratio=1)
    table.add_column("tokens", justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("model.generate", no_wrap=True)
    for contender in contenders:
        own = [run for run in runs if run.name == contender.name]
        tokens = sum(len(run.output.token_ids) for run in own)
        rate = tokens / sum(run.seconds for run in own) if own else 0.0
        verdict = _verdict(own)
        table.add_row(contender.name, settings(contender.method) or "–", str(tokens), f"{rate:.0f}", verdict)
    print_parts(writer, table)


def print_presets(writer: Writer, presets: "Sequence[Preset]") -> None:
    """Print the methods, their defaults, their papers, and what a token costs."""
    from descant.cli.methods import settings

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", style="cyan", no_wrap=True)
    table.add_column("chooses", ratio=1)
    table.add_column("defaults")
    table.add_column("passes a token")
    table.add_column("arXiv", no_wrap=True)
    for entry in presets:
        paper = Text("–")
        if entry.paper is not None:
            paper = Text(entry.paper.rsplit("/", 1)[-1], style=f"link {entry.paper}")
        table.add_row(entry.name, entry.summary, settings(entry) or "–", entry.cost, paper)
    print_parts(writer, table)


def _verdict(runs: "Sequence[Decoding]") -> Text:
    """Say whether transformers gives the same tokens, and how fast."""
    checked = [run for run in runs if run.same is not None]
    if not checked:
        return Text("–", style="dim")
    rate = sum(run.transformers_tokens for run in checked) / sum(run.transformers_seconds for run in checked)
    same = sum(bool(run.same) for run in checked)
    if same == len(checked):
        return Text(f"same, {rate:.0f}/s", style="green")
    return Text(f"{same} of {len(checked)} same, {rate:.0f}/s", style="red")


def _visible(text: str) -> str:
    """Replace what would move the cursor."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text.strip())


def print_parts(writer: Writer, *parts: RenderableType) -> None:
    """Print parts below each other."""
    page = io.StringIO()
    Console(file=page, force_terminal=writer.is_terminal, highlight=False).print(*parts, sep="\n")
    lines = page.getvalue().split("\n")
    writer.write("\n".join(line.rstrip() for line in lines))
