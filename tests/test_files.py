"""A file that is written stands there whole, or is as it was."""

import threading
from pathlib import Path

import pytest

from descant.files import write_whole


def test_what_cannot_be_written_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_whole(path, "first")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "a lone surrogate: \ud800")
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def test_of_several_writers_one_text_stands_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    texts = {letter * 200_000 for letter in "abcdefgh"}
    threads = [threading.Thread(target=write_whole, args=(path, text)) for text in texts for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]
