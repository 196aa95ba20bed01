"""The documentation builds strictly, asks no other server for anything, and lists what descant offers."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import descant

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_it_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    for file in [*pages, *tmp_path.rglob("*.css")]:
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s>]+""", text)
        loaded += re.findall(r"""<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//[^\s>]+""", text)
        loaded += re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^\s)]+""", text)
        assert loaded == [], file


def test_the_reference_lists_the_public_face() -> None:
    listed = re.findall(r"^::: descant\.(\w+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(descant.__all__)


def test_the_figures_are_drawn_from_decodes(tmp_path: Path) -> None:
    from docs.figures.__main__ import draw_all

    draw_all(tmp_path)
    drawn = sorted(file.name for file in tmp_path.iterdir())
    assert drawn == sorted(file.name for file in (DOCS / "guide").glob("*.svg"))
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "guide").glob("*.md"))
    for name in drawn:
        assert ET.parse(tmp_path / name).getroot().tag.endswith("svg")
        assert re.search(rf"!\[[^\]]{{20,}}\]\({re.escape(name)}\)", text), f"no page shows {name} with a description"
