"""The README's blocks run, in order, in one session, and print what it says they print."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", README, flags=re.MULTILINE)


def test_python_blocks_print_what_the_readme_says() -> None:
    session: dict[str, object] = {}
    printed = None
    compared = 0
    for kind, code in BLOCKS:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "README.md", "exec"), session)
            printed = out.getvalue()
        elif kind == "output":
            assert printed == code
            compared += 1
        elif kind == "python no-run":  # names hub models: compiled, and its calls exist
            compile(code, "README.md", "exec")
    assert compared >= 2


@pytest.mark.parametrize(
    "line", [line for kind, code in BLOCKS if not kind for line in code.splitlines() if line.startswith("descant ")]
)
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
