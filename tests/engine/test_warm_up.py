"""`Decoder.warm_up` prepares the shapes that the method's passes have: those that decoding asks for."""

from collections.abc import Sequence
from typing import Any

import pytest

import architectures
from descant import (
    Beam,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    EarlyExit,
    Greedy,
    Likelihood,
    NGram,
    OtherPrompt,
    PromptLookup,
    Sample,
    SettingsError,
    Speculative,
    Window,
)
from descant.models import Runner
from descant.models.passes.runner import TOKEN_BUCKETS, bucket_of
from descant.models.passes.step import Bucket
from descant.scoring import Scoring
from descant.strategies import Strategy

Shapes = set[tuple[int, Bucket | None]]


class Recorded:
    """What runners are asked to prepare, and for, by their model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prepared: Shapes = set()
        self.met: Shapes = set()

        def warm_up(
            runner: Runner, rows: Sequence[int], tokens: Sequence[int], *, every: bool, drafts: int = 0
        ) -> bool:
            for count in rows:
                for length in tokens:
                    keep = length if every and not drafts else 1
                    self.prepared.add((id(runner.architecture.model), bucket_of(count, length, keep, drafts)))
            return runner.mode != "eager"

        def find(runner: Runner, rows: int, tokens: int, keep: int, drafts: int = 0) -> None:
            if tokens <= TOKEN_BUCKETS[-1]:
                self.met.add((id(runner.architecture.model), bucket_of(rows, tokens, keep, drafts)))

        monkeypatch.setattr(Runner, "warm_up", warm_up)
        monkeypatch.setattr(Runner, "find", find)


@pytest.fixture
def expert() -> Any:
    return architectures.build("qwen2")


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    ("scoring", "strategy"),
    [
        (Likelihood(), Greedy()),
        (Contrastive(), Sample()),
        (Contrastive(), Speculative(tokens=3, confidence=0.0)),
        (Likelihood(), Speculative(Sample(), tokens=2)),
        (Contrastive(), Speculative(tokens="auto")),
        (Contrastive(), Speculative(draft=PromptLookup(1))),
        (Contrastive(), Beam(4)),
    ],
)
def test_every_shape_that_decoding_meets_was_prepared(
    scoring: Scoring, strategy: Strategy, rows: int, expert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    decoder = Decoder(expert, amateur=architectures.near(expert, 0.02))
    counts = [4] if isinstance(strategy, Beam) else [1, 2, 4][: 1 if rows == 1 else 3]
    assert decoder.warm_up(scoring, strategy, rows=counts)
    prompts = architectures.make_prompts(*[12, 30, 17, 25][: 1 if isinstance(strategy, Beam) else rows])
    decoder.generate(prompts, scoring, strategy=strategy, max_new_tokens=30, seed=0)
    assert recorded.met
    assert recorded.met <= recorded.prepared


def test_a_model_that_reads_another_prompt_is_prepared(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    decoder = Decoder(expert, amateur=OtherPrompt([5, 6, 7]))
    assert decoder.warm_up(Contrastive())
    decoder.generate(architectures.make_prompts(12), Contrastive(), max_new_tokens=20)
    assert recorded.met <= recorded.prepared


def test_what_is_not_compiled_is_said(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Decoder(expert, runner="eager").warm_up()
    recorded = Recorded(monkeypatch)
    assert not Decoder(expert, amateur=EarlyExit(1)).warm_up(Contrastive())
    assert not Decoder(expert).warm_up(Likelihood(), ContrastiveSearch(4))
    assert not Decoder(architectures.build("mamba")).warm_up()
    assert recorded.prepared == set()
    assert not Decoder(expert, amateur=Window(expert, 4)).warm_up(Contrastive())
    assert Decoder(expert, amateur=NGram(2)).warm_up(Contrastive())


def test_arguments_are_checked(expert: Any, unchecked_types: None) -> None:
    decoder = Decoder(expert, runner="eager")
    for arguments in ({"rows": [0]}, {"scoring": "greedy"}, {"strategy": "greedy"}):
        with pytest.raises(SettingsError):
            decoder.warm_up(**arguments)  # type: ignore[arg-type]
