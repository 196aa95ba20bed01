"""`descant warm-up`: what it compiles lies on disk, where runs to come find it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli_runs import Run
from descant import Decoder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[int]]]:
    """What the decoder was asked to make ready, in place of compiling."""
    calls: list[tuple[str, str, list[int]]] = []

    def warm_up(self: Decoder, scoring: Any, strategy: Any, *, rows: Sequence[int]) -> bool:
        calls.append((type(scoring).__name__, type(strategy).__name__, list(rows)))
        return list(rows) != [8]

    monkeypatch.setattr(Decoder, "warm_up", warm_up)
    return calls


def test_every_method_for_every_number_of_rows(
    run: Run, models: tuple[str, ...], asked: list[tuple[str, str, list[int]]]
) -> None:
    done = run("warm-up", *models, "--methods", "contrastive, beam", "--rows", "1,8")
    assert asked == [
        ("Contrastive", "Greedy", [1]), ("Contrastive", "Greedy", [8]),
        ("Likelihood", "Beam", [1]), ("Likelihood", "Beam", [8]),
    ]  # fmt: skip
    assert done.out.splitlines() == [
        "contrastive, rows 1: compiled", "contrastive, rows 8: eager, at least in part",
        "beam, rows 1: compiled", "beam, rows 8: eager, at least in part",
    ]  # fmt: skip
    assert (done.code, done.err) == (0, "")
    asked.clear()
    assert run("warm-up", *models, "--json").objects == [{"method": "contrastive", "rows": 1, "compiled": True}]
    assert run("warm-up", *models[:2]).out == "greedy, rows 1: compiled\n"


def test_what_is_refused(run: Run, models: tuple[str, ...], asked: list[tuple[str, str, list[int]]]) -> None:
    for arguments, message in (
        (("--rows", "0"), "whole numbers from 1"),
        (("--runner", "eager"), "compiles nothing"),
        (("--methods", "nonsense"), "nonsense"),
        (("--methods", ","), "names none"),
    ):
        done = run("warm-up", *models, *arguments)
        assert done.code == 2
        assert message in done.err
        assert done.err.count("\n") == 1
    assert "amateur" in run("warm-up", *models[:2], "--methods", "contrastive").err
    assert asked == []


def test_what_is_compiled_is_on_disk(
    run: Run, models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESCANT_CACHE", str(tmp_path))
    done = run("warm-up", *models[:2])
    assert done.out == "greedy, rows 1: compiled\n"
    assert any(path.is_file() for path in tmp_path.rglob("*"))
