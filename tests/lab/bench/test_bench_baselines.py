"""The baselines decode what they claim to, and the weights that count are those that are read."""

import subprocess
from pathlib import Path

import pytest
import torch

from architectures import build
from descant import Decoder, EarlyExit
from descant.lab.bench import Bench, Settings, baselines
from descant.lab.bench.clock import passes
from descant.lab.bench.measure import commit, conditions
from descant.lab.bench.weights import facts, weight_bytes
from oracle import decode, full

PROMPTS = [[5, 9, 2], [31, 8, 44, 17, 3, 60], [12]]
COUNT = 12


@pytest.mark.parametrize(("name", "rows"), [("qwen2", 3), ("gpt2", 3), ("mpt", 1), ("bloom", 1)])
def test_baselines_decode_what_a_naive_loop_does(name: str, rows: int) -> None:
    """ALiBi has no positions to be told, and cannot be padded on the left in transformers."""
    prompts = PROMPTS[:rows]
    expert, amateur = build(name), build(name, seed=1)
    expert.generation_config.eos_token_id = list(range(90))  # nothing that a checkpoint says ends a row
    greedy = [decode(prompt, full(expert), count=COUNT) for prompt in prompts]
    contrast = [decode(prompt, full(expert), full(amateur), count=COUNT) for prompt in prompts]
    assert baselines.generate(expert, prompts, COUNT).tokens == greedy
    assert baselines.contrastive(expert, amateur, prompts, COUNT).tokens == contrast
    assert baselines.contrastive(expert, amateur, prompts, COUNT, use_cache=False).tokens == contrast
    assert expert.generation_config.eos_token_id == list(range(90))


def test_assisted_generation_is_timed_row_by_row() -> None:
    expert, amateur = build("qwen2"), build("qwen2", seed=1)
    found = baselines.assisted(expert, amateur, PROMPTS, COUNT)
    assert found.tokens == baselines.generate(expert, PROMPTS, COUNT).tokens
    assert len(found.spans) == len(PROMPTS)
    assert all(span.start < span.first <= span.end and 1 <= span.first_tokens <= COUNT for span in found.spans)


def test_the_cache_saves_the_amateur_tokens() -> None:
    expert, amateur = build("qwen2"), build("qwen2", seed=1)
    read: list[int] = []
    amateur.register_forward_pre_hook(lambda _m, _a, named: read.append(named["input_ids"].shape[1]), with_kwargs=True)
    baselines.contrastive(expert, amateur, PROMPTS[:1], 4)
    baselines.contrastive(expert, amateur, PROMPTS[:1], 4, use_cache=False)
    assert read == [3, 1, 1, 1, 3, 4, 5, 6]


def test_passes_are_counted_while_asked_to() -> None:
    model = build("qwen2")
    with passes(model) as [times]:
        found = baselines.generate(model, PROMPTS, COUNT)
    assert len(times) == COUNT
    assert sum(at > found.spans[0].first for at in times) == COUNT - 1
    baselines.generate(model, PROMPTS, COUNT)
    assert len(times) == COUNT


def test_weights_that_a_pass_reads() -> None:
    tied = build("qwen2", tie_word_embeddings=True)
    untied = build("qwen2", tie_word_embeddings=False)
    table = 97 * 32 * 8
    assert weight_bytes(tied) == sum(parameter.nbytes for parameter in tied.parameters())
    assert weight_bytes(untied) == weight_bytes(tied) == sum(p.nbytes for p in untied.parameters()) - table
    assert weight_bytes(build("mixtral")) is None  # which experts are read, the tokens decide
    assert facts(tied)["dtype"] == "float64"
    assert facts(tied)["parameters"] == tied.num_parameters()


def test_what_cannot_run_is_reported_and_the_rest_is_measured() -> None:
    """A state-space expert cannot forget drafts; an early exit is nothing that transformers contrasts with."""
    decoder = Decoder(build("mamba"), amateur=build("mamba", seed=1))
    settings = Settings(max_new_tokens=4, rounds=2, draft_tokens=(1, 2))
    bench = Bench(decoder, [PROMPTS[:1]] * 2, settings)
    calls: list[None] = []
    study = bench.run(lambda: calls.append(None))
    assert {(entry.engine, entry.name) for entry in study.missing} >= {
        ("descant", "speculative"),
        ("descant", "speculative contrastive"),
    }
    assert len(calls) <= bench.calls
    assert [entry.name for entry in study.figures if entry.engine == "descant"] == ["greedy", "contrastive"]
    exits = Bench(Decoder(build("qwen2"), amateur=EarlyExit(1)), [PROMPTS] * 2, settings).run()
    assert [entry.name for entry in exits.figures if entry.engine == "transformers"] == ["greedy"]
    assert all(entry.same_tokens for entry in exits.figures)


def test_conditions_name_the_commit_of_the_checkout_alone(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "src" / "thing"
    package.mkdir(parents=True)
    assert commit(package) is None
    (package / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = commit(package)
    assert head is not None
    assert head.isalnum()
    (package / "file").write_text("2")
    assert commit(package) == f"{head} with changes"
    elsewhere = tmp_path / "lib" / "python" / "thing"
    elsewhere.mkdir(parents=True)
    assert commit(elsewhere) is None
    assert conditions()["threads"] == torch.get_num_threads()
