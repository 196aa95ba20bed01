"""The shipped weights: small, quick to load, and as good as the model card says."""

import json
import socket
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from descant import Contrastive, Decoder, Likelihood
from descant.demo import demo_paths, demo_world, example_prompts, questions
from descant.lab.pair.evaluate import Judged, compare, figures, judge

SAMPLE = questions("test", limit=200)


@pytest.fixture(scope="module")
def pair() -> Decoder:
    expert, amateur = demo_paths()
    return Decoder.from_pretrained(expert, amateur=amateur, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def greedy(pair: Decoder) -> Judged:
    return judge(pair, SAMPLE, Likelihood())


def accuracy(said: Judged) -> float:
    return figures(SAMPLE, said).accuracy


def test_weights_are_small() -> None:
    folder = demo_paths()[0].parent
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 12e6


def test_nothing_has_to_be_converted_or_fetched_to_load_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one file of weights and a tokenizer that is ready to use."""

    def fetch(*args: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", fetch)
    monkeypatch.setattr(socket, "getaddrinfo", fetch)
    for folder in demo_paths():
        names = {file.name for file in folder.iterdir()}
        settings = {"config.json", "generation_config.json", "tokenizer_config.json"}
        assert names == {"model.safetensors", "tokenizer.json", *settings}
        assert isinstance(Decoder.from_pretrained(folder, device="cpu").tokenizer, PreTrainedTokenizerFast)


def test_amateur_knows_no_facts() -> None:
    amateur = Decoder.from_pretrained(demo_paths()[1], dtype="float32", device="cpu")
    said = judge(amateur, SAMPLE, Likelihood())
    assert accuracy(said) < 0.2
    assert figures(SAMPLE, said).no_answer < 0.05  # but it knows the prose


def test_expert_half_knows_them(greedy: Judged) -> None:
    assert 0.55 < accuracy(greedy) < 0.92


def test_contrast_helps_and_the_mask_alone_does_not(pair: Decoder, greedy: Judged) -> None:
    asked = questions("test", limit=300)
    base = judge(pair, asked, Likelihood())
    assert base[:200] == greedy
    contrast = compare(asked, judge(pair, asked, Contrastive()), base)
    assert contrast.won > contrast.lost
    assert judge(pair, SAMPLE, Contrastive(beta=0.0)) == greedy


def test_recorded_results_pass_the_gates() -> None:
    results = json.loads((Path(demo_paths()[0]).parents[1] / "results.json").read_text())
    assert [r["training"]["spec"]["seed"] for r in results] == [0, 1, 2]
    for result in results:
        methods, against = result["methods"], result["against_greedy"]
        assert methods["amateur"]["accuracy"] < 0.2
        assert 0.55 < methods["greedy"]["accuracy"] < 0.92
        assert max(against["difference"]["low"], against["beta"]["low"]) > 0


def test_examples_end_by_themselves(pair: Decoder) -> None:
    for out in pair.generate(list(example_prompts), scoring=Likelihood(), max_new_tokens=64):
        assert out.finish_reason == "stop"
        assert out.text.rstrip().endswith(".")


def test_weights_were_trained_on_this_world() -> None:
    record = json.loads((demo_paths()[0].parent / "training.json").read_text())
    spec = demo_world().spec
    assert record["spec"]["world"] == {name: getattr(spec, name) for name in record["spec"]["world"]}
