"""The experiments that need worlds: what they compare methods by, and which amateurs they find."""

import shutil
from pathlib import Path

import pytest

from descant import Decoder
from descant.demo import demo_paths
from descant.lab.experiments import Cells, Pair
from descant.lab.experiments.amateurs import Amateurs
from descant.lab.experiments.scores import correct, distance, merit, summarise
from descant.lab.worlds import Arithmetic, Grammar, Rumour

GRAMMAR = Grammar(words=8, pool=4, branching=2)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.demo()


def pair(decoder: Decoder, asked: Grammar | Arithmetic | Rumour, limit: int | None = None) -> Pair:
    return Pair("one", decoder, asked, Cells(None, {}), limit)


def test_open_texts_are_compared_in_validity_and_diversity(decoder: Decoder) -> None:
    one = pair(decoder, GRAMMAR)
    tasks = one.tasks("test", 40)
    truth, loops = [task.reference or "" for task in tasks], [" xyz" * 10] * len(tasks)
    found = summarise(one, tasks, truth, loops)
    assert found["main"] == "valid"
    assert list(found["differences"]) == ["valid", "diversity"]
    assert found["differences"]["valid"]["value"] == 1
    assert found["differences"]["diversity"]["won"] == 40
    assert found["distance"] == distance(one, tasks, truth) == GRAMMAR.total_variation([t.prompt for t in tasks], truth)
    assert merit(one, tasks, truth) == pytest.approx(-found["distance"])
    assert summarise(one, tasks, loops, truth)["distance"] == pytest.approx(1)


def test_questions_are_compared_in_right_answers(decoder: Decoder) -> None:
    one = pair(decoder, Arithmetic())
    tasks = one.tasks("test", 40)
    truth = [task.reference or "" for task in tasks]
    found = summarise(one, tasks, truth, [*truth[:30], *[""] * 10])
    assert list(found["differences"]) == ["correct"]
    assert (found["differences"]["correct"]["won"], found["differences"]["correct"]["lost"]) == (10, 0)
    assert found["distance"] is None
    assert merit(one, tasks, truth) == 1


def test_p_values_are_corrected_for_all_methods() -> None:
    methods = {name: {"differences": {"correct": {"p": p}}} for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.5))}
    correct(methods)
    assert [entry["differences"]["correct"]["holm"] for entry in methods.values()] == pytest.approx([0.03, 0.08, 0.5])


def test_amateurs_beside_a_pair_are_found(tmp_path: Path) -> None:
    for name, path in (("expert", 0), ("amateur", 1), ("amateur-16", 1), ("expert-200", 0), ("other-1", 1)):
        shutil.copytree(demo_paths()[path], tmp_path / name)
    expert, amateur = tmp_path / "expert", tmp_path / "amateur"
    one = pair(
        Decoder.from_pretrained(expert, amateur=amateur, dtype="float32", device="cpu", runner="eager"),
        Rumour(),
        limit=8,
    )
    found = Amateurs(taus=(1.0,), windows=(64,)).run(one)["amateurs"]
    assert list(found) == ["the pair's amateur", "amateur-16", "expert-200", "amateur, last 64", "expert, last 64"]
    same = [found[name]["default"]["scores"] for name in ("the pair's amateur", "amateur-16", "amateur, last 64")]
    assert same[0] == same[1] == same[2]  # the same weights, and a window that holds the whole text
