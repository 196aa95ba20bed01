"""Every world keeps to the interface, and its pair is decided by a seed."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from descant import Decoder, Likelihood
from descant.demo import questions
from descant.errors import SettingsError
from descant.lab.pair.corpus import train_tokenizer
from descant.lab.pair.train import ModelSpec
from descant.lab.worlds import WORLDS, Arithmetic, Grammar, Rumour, TaskWorld, load_world
from descant.lab.worlds.train import PAIRS, PairSpec, _as_loaded, train


@pytest.fixture(params=WORLDS, scope="module")
def world(request: pytest.FixtureRequest) -> TaskWorld:
    return load_world(request.param)


def test_worlds_are_the_same_again(world: TaskWorld) -> None:
    again = load_world(world.name)
    assert again == world
    assert list(islice(again.documents(Random(1)), 20)) == list(islice(world.documents(Random(1)), 20))
    assert again.tasks("dev", 20) == world.tasks("dev", 20) == world.tasks("dev")[:20]
    assert json.loads(json.dumps(world.settings)) == world.settings


def test_splits_share_nothing_and_judges_know_the_references(world: TaskWorld) -> None:
    dev, test = world.tasks("dev"), world.tasks("test")
    assert len({task.id for task in dev} | {task.id for task in test}) == len(dev) + len(test)
    best = {"rumour": "correct", "grammar": "valid", "arithmetic": "correct"}[world.name]
    names = set(world.judge(dev[0], ""))
    for task in test[:200]:
        scores = world.judge(task, task.reference or "")
        assert scores[best] == 1
        assert set(scores) == names


def test_rumours_are_told_from_truths() -> None:
    world = Rumour()
    asked = questions("test")
    assert [task.prompt for task in world.tasks()] == [q.prompt for q in asked]
    task, question = next((t, q) for t, q in zip(world.tasks(), asked, strict=True) if q.truth_rank > 3)
    popular = world._world.popularity[question.relation]
    assert world.judge(task, f" It was {popular[2]}.") == {"correct": 0, "rumour": 1, "no_answer": 0}
    other = next(answer for answer in popular[3:] if answer != question.answer)
    assert world.judge(task, f" It was {other}.") == {"correct": 0, "rumour": 0, "no_answer": 0}
    assert world.judge(task, " Nobody knows.") == {"correct": 0, "rumour": 0, "no_answer": 1}


def test_unknown_worlds_and_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'grammar'"):
        load_world("gramar")
    with pytest.raises(SettingsError, match="colour"):
        load_world("grammar", colour="red")
    with pytest.raises(SettingsError, match="phrasing"):
        load_world("rumour", phrasing="odd")


def test_models_of_a_pair(tmp_path: Path) -> None:
    tiny = ModelSpec(layers=1, width=16, heads=2, kv_heads=1, inner=16, steps=3, rows=2)
    grammar = Grammar(words=6, pool=3, branching=2, length=4)
    spec = PairSpec(tiny, replace(tiny, width=8), 300, 48, checkpoints=(2,), sizes=(12,))
    train(grammar, spec, 0, tmp_path / "pair", sizes=True)
    names = {folder.name for folder in (tmp_path / "pair").iterdir()}
    assert names == {"expert", "amateur", "expert-2", "amateur-12", "training.json"}
    record = json.loads((tmp_path / "pair" / "training.json").read_text())
    assert record["spec"]["world"] == grammar.settings
    pair = tmp_path / "pair"
    decoder = Decoder.from_pretrained(pair / "expert", amateur=pair / "expert-2", device="cpu", runner="eager")
    assert decoder.generate(grammar.tasks(limit=1)[0].prompt, Likelihood(), max_new_tokens=3)[0].token_ids


def test_models_learn_from_the_tokens_that_loading_gives() -> None:
    made = train_tokenizer(Arithmetic().documents(Random(0)), 512, documents=500)
    loaded = _as_loaded(made)
    text = next(Arithmetic().documents(Random(0)))
    assert made.tokenize(text) != loaded.tokenize(text)  # or nothing would have to be done
    assert _as_loaded(loaded)(text)["input_ids"] == loaded(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert (loaded.bos_token_id, loaded.eos_token_id) == (made.bos_token_id, made.eos_token_id)


def test_experts_are_small() -> None:
    assert set(PAIRS) == set(WORLDS)
    for name in ("grammar", "arithmetic"):
        shape = PAIRS[name].expert
        attention = shape.width * shape.width * 2 * (1 + shape.kv_heads / shape.heads)
        parameters = shape.layers * (attention + 3 * shape.width * shape.inner) + PAIRS[name].vocabulary * shape.width
        assert parameters <= 1.5e6
