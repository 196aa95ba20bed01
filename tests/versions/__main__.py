"""Run the tests that touch torch and transformers at each corner of the versions that pyproject.toml allows.

    python -m tests.versions [CORNER ...]

Each corner gets an environment of its own under `.versions/`, which later runs use again; a table of what was
installed, and of what passed, is written to `tests/versions/results/DATE.md`. Exits with 1 if anything failed.
"""

import datetime
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
ENVIRONMENTS = ROOT / ".versions"
TESTS = (
    "tests/numerics", "tests/tokens", "tests/models", "tests/scoring", "tests/processors", "tests/strategies",
    "tests/sources", "tests/engine", "tests/integrations", "tests/cli",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_*.py"))),
)  # fmt: skip
"""All but what measures, evaluates, trains or documents."""

SHOWN = ("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "numpy")


@dataclass(frozen=True)
class Result:
    """What a corner's tests came to, and on which versions."""

    corner: str
    versions: Mapping[str, str]
    summary: str
    passed: bool


def lowest() -> dict[str, str]:
    """Return the lower bound of every requirement of an ordinary installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement) for requirement in project["dependencies"]]
    return {match[1]: match[2] for match in found if match is not None}


def locked(name: str) -> str:
    """Return the version of a package that the lock has."""
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{name}==(\S+)", lock, flags=re.MULTILINE)
    assert found is not None, f"constraints.txt has no {name}: run make lock"
    return found[1]


def corners() -> dict[str, dict[str, str]]:
    """Return what each corner pins; all else is the newest that goes with it."""
    low, torch, transformers = lowest(), locked("torch"), locked("transformers")
    return {
        "lowest of everything": low,
        "lowest transformers": {"torch": torch, "transformers": low["transformers"]},
        "transformers before cache was renamed": {"torch": torch, "transformers": "5.23.0"},
        "lowest torch": {"torch": low["torch"], "transformers": transformers},
        "newest of everything": {},
    }


def run(corner: str, pins: Mapping[str, str]) -> Result:
    """Make or update a corner's environment and run the tests in it."""
    folder = ENVIRONMENTS / corner.replace(" ", "-")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*pip, "-c", constraints, "-e", f"{ROOT}[dev]"], check=True)
    command = [python, "-m", "pytest", "-n", "logical", "--maxprocesses", "4", "--dist", "worksteal", *TESTS]
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    last = done.stdout.strip().rpartition("\n")[2].strip("= ") or "no test ran"
    return Result(corner, _versions(python), last, not done.returncode)


def _versions(python: Path) -> dict[str, str]:
    code = f"from importlib.metadata import version\nfor name in {SHOWN}: print(version(name))"
    printed = subprocess.check_output([python, "-c", code], text=True)
    return dict(zip(SHOWN, printed.split(), strict=True))


def table(results: Sequence[Result]) -> str:
    """Return the results as a page."""
    rows = [
        f"| {result.corner} | {' | '.join(result.versions[name] for name in SHOWN)} | {result.summary} |"
        for result in results
    ]
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return "\n".join(
        [
            "# The corners of the supported versions", "", f"`make test-versions`; {machine}, {commit}.", "",
            f"| corner | {' | '.join(SHOWN)} | tests |", f"|---{'|---' * (len(SHOWN) + 1)}|", *rows, "",
        ]
    )  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Run the corners named, or all; write the page after each, so that nothing is lost; return the exit code."""
    known = corners()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no corner is called {unknown[0]!r}; give one of: {', '.join(known)}", file=sys.stderr)
        return 2
    results = []
    RESULTS.mkdir(exist_ok=True)
    page = RESULTS / f"{datetime.date.today()}.md"
    for name in names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        results.append(run(name, known[name]))
        print(f"  {results[-1].summary}", file=sys.stderr, flush=True)
        page.write_text(table(results), encoding="utf-8")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
