"""What README and documentation show runs: a page's blocks in order, in one session, printing what it says."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from descant.lab.studies.config import parse_study

ROOT = Path(__file__).parents[1]
# A page of docs/experiments shows commands that take an hour; its numbers come from files that they wrote.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/guide").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
NOT_RUN = ("python no-run", "{ .python .no-run }")
"""What names hub models is compiled only; mkdocs knows the second form."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return kind and text of every fenced block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^``` ?(.*)\n((?:.*\n)*?)^```$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", NAMES)
def test_python_blocks_print_what_the_page_says(page: str) -> None:
    session: dict[str, object] = {}
    printed = None
    for kind, code in blocks(page):
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, page, "exec"), session)
            printed = out.getvalue()
        elif kind == "output":
            assert printed == code
        elif kind == "yaml":
            assert parse_study(yaml.safe_load(code)).methods
        elif kind in NOT_RUN:
            compile(code, page, "exec")
        else:
            assert kind in ("", "text"), f"{page} has a block of kind {kind!r}, which nothing checks"


def test_the_readme_shows_outputs() -> None:
    assert [kind for kind, _ in blocks("README.md")].count("output") >= 2


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Those of docs/ are checked where the site is built."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize(
    "line",
    [line for page in NAMES for kind, code in blocks(page) if not kind for line in code.splitlines()
     if line.startswith("descant ")],
)  # fmt: skip
def test_commands_run(line: str) -> None:
    from descant.cli import app

    arguments = shlex.split(line)[1:]
    if "qwen2.5" in arguments:  # needs a download: the bundled pair takes its place
        at = arguments.index("--pair")
        del arguments[at : at + 2]
        at = arguments.index("--system")
        del arguments[at : at + 2]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
