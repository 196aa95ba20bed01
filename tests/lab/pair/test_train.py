"""Training: packed batches see whole texts only, and a seed decides every weight."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from descant.demo.world import World, WorldSpec, build_world
from descant.lab.pair.corpus import batches, train_tokenizer
from descant.lab.pair.train import ModelSpec, TrainSpec, build_model, loss_of, save, train

TINY = ModelSpec(layers=1, width=32, heads=2, kv_heads=1, inner=32, steps=3, rows=2)
SPEC = TrainSpec(expert=TINY, amateur=replace(TINY, width=16), world=WorldSpec(people=30), vocabulary=400)
SPEC = replace(SPEC, row_tokens=256)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SPEC.world)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(world), 400, documents=500)


def texts(world: World, seed: int = 0) -> Iterator[str]:
    return world.documents(Random(seed))


def test_batches_hold_the_texts_in_order(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    batch = next(batches(texts(world), tokenizer, rows=4, row_tokens=200))
    assert batch.tokens.shape == (4, 200)
    source = texts(world)
    for row in range(4):
        for number in range(int(batch.text[row].max()) + 1):
            inside = batch.text[row] == number
            assert batch.position[row][inside].tolist() == list(range(int(inside.sum())))
            ids = batch.tokens[row][inside].tolist()
            assert ids[0] == tokenizer.bos_token_id
            assert ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == next(source)


def test_loss_of_a_packed_row_is_that_of_its_texts(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(TINY, tokenizer, seed=0)
    model.set_attn_implementation("eager")
    batch = next(batches(texts(world), tokenizer, rows=1, row_tokens=200))
    total, count = 0.0, 0
    for number in range(int(batch.text.max()) + 1):
        ids = batch.tokens[batch.text == number][None]
        loss = model(ids, labels=ids).loss.item()
        total, count = total + loss * (ids.shape[1] - 1), count + ids.shape[1] - 1
    assert loss_of(model, batch).item() == pytest.approx(total / count, rel=1e-4)


def test_a_seed_decides_the_weights_and_saving_keeps_them(tmp_path: Path) -> None:
    first = train(SPEC, torch.device("cpu"))
    again = train(SPEC, torch.device("cpu"), only=["expert"])
    both = zip(*(made.models["expert"].parameters() for made in (first, again)), strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    save(first, asdict(SPEC), tmp_path / "pair")
    save(again, asdict(SPEC), tmp_path / "pair")  # replaces the expert, keeps the amateur
    assert [p.name for p in tmp_path.iterdir()] == ["pair"]
    for name in ("expert", "amateur"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "pair" / name)
        assert loaded.dtype == torch.float16
        assert torch.equal(loaded.model.norm.weight, first.models[name].model.norm.weight.half())
        assert loaded.generation_config.eos_token_id == [2]
        ids = AutoTokenizer.from_pretrained(tmp_path / "pair" / name)("Where was Ada born?")["input_ids"]
        assert ids[0] == 1


def test_another_seed_makes_another_model(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (build_model(TINY, tokenizer, seed).model.embed_tokens.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
