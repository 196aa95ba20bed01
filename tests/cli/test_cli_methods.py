"""From options to methods and models: each option reaches its part, or is refused."""

import json
import re
from typing import Any

import pytest

from descant import (
    Beam,
    ContextAware,
    Contrastive,
    ContrastiveSearch,
    DoLa,
    Epsilon,
    Eta,
    FrequencyPenalty,
    Greedy,
    Guidance,
    Likelihood,
    MinNewTokens,
    MinP,
    NoRepeatNGram,
    PresencePenalty,
    RepetitionPenalty,
    Sample,
    SettingsError,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    UsageError,
    WhenUncertain,
)
from descant.cli.collect import LIST, collect
from descant.cli.methods import choose, settings, settle_randomness, speculate
from descant.cli.models import plan_models
from descant.cli.options import MethodOptions, ModelOptions, RunOptions
from descant.demo import demo_paths
from descant.models.loading import PAIRS
from descant.presets import PRESETS, preset

LIKELIHOOD, GREEDY, SAMPLE = Likelihood(), Greedy(), Sample()


@pytest.mark.parametrize(
    ("name", "given", "amateur", "expected"),
    [
        (None, {}, True, (Contrastive(), (), GREEDY)),
        (None, {}, False, (LIKELIHOOD, (), GREEDY)),
        (None, {"temperature": 0.7}, False, (LIKELIHOOD, (Temperature(0.7),), SAMPLE)),
        (None, {"temperature": 0.0}, False, (LIKELIHOOD, (), GREEDY)),
        (None, {"top_k": 5}, True, (Contrastive(), (TopK(5),), SAMPLE)),
        (None, {"beta": 0.5, "alpha": 0.2}, True, (Contrastive(0.2, 0.5), (), GREEDY)),
        (
            "contrastive-beta",
            {"beta": 1.0, "amateur_temperature": 0.5, "candidates": 7},
            True,
            (Contrastive(0.1, 1.0, 0.5, 7), (), GREEDY),
        ),
        ("greedy", {}, True, (LIKELIHOOD, (), GREEDY)),
        ("dola-low", {"alpha": 0.2}, False, (DoLa("low", 0.2), (), GREEDY)),
        ("context-aware", {"alpha": 1.0, "top_k": 5}, True, (ContextAware(1.0), (TopK(5),), SAMPLE)),
        (
            "selective-guidance",
            {"guidance_scale": 2.0},
            True,
            (WhenUncertain(Guidance(2.0), 1.0), (), GREEDY),
        ),
        ("greedy", {"temperature": 0.0}, True, (LIKELIHOOD, (), GREEDY)),
        ("sample", {"temperature": 0.0}, True, (LIKELIHOOD, (), GREEDY)),
        ("top-p", {}, False, (LIKELIHOOD, (TopP(0.95),), SAMPLE)),
        ("top-p", {"top_p": 0.5, "top_k": 3}, False, (LIKELIHOOD, (TopK(3), TopP(0.5)), SAMPLE)),
        (
            "greedy",
            {"min_new_tokens": 2, "repetition_penalty": 1.2},
            False,
            (LIKELIHOOD, (RepetitionPenalty(1.2), MinNewTokens(2)), GREEDY),
        ),
        (None, {"beams": 3}, False, (LIKELIHOOD, (), Beam(3))),
        (None, {"length_penalty": 2.0}, False, (LIKELIHOOD, (), Beam(4, 2.0))),
        (None, {"beams": 6, "early_stopping": "true"}, True, (Contrastive(), (), Beam(6, early_stopping=True))),
        ("beam", {"beam_groups": 2}, False, (LIKELIHOOD, (), Beam(4, groups=2, diversity=0.5))),
        ("contrastive-beam", {"diversity": 1.0, "beam_groups": 5}, True,
         (Contrastive(), (), Beam(5, groups=5, diversity=1.0))),
        (None, {"beams": 3, "temperature": 2.0}, False, (LIKELIHOOD, (Temperature(2.0),), Beam(3, base=SAMPLE))),
        ("contrastive-search", {}, False, (LIKELIHOOD, (), ContrastiveSearch(4, 0.6))),
        ("contrastive-search", {"search_penalty": 0.5, "no_repeat_ngram": 3}, True,
         (LIKELIHOOD, (NoRepeatNGram(3),), ContrastiveSearch(4, 0.5))),
        (None, {"search_candidates": 6}, False, (LIKELIHOOD, (), ContrastiveSearch(6))),
        (None, {"search_candidates": 6, "alpha": 0.2}, True, (Contrastive(0.2), (), ContrastiveSearch(6))),
        ("dola-high", {"search_penalty": 0.3}, False, (DoLa("high"), (), ContrastiveSearch(4, 0.3))),
        ("beam", {"temperature": 2.0}, False, (LIKELIHOOD, (Temperature(2.0),), Beam(4, base=SAMPLE))),
        (
            "sample",
            {
                "eta": 0.01, "top_n_sigma": 2.0, "epsilon": 0.02, "typical_p": 0.9, "min_p": 0.1,
                "top_p": 0.8, "top_k": 9, "temperature": 2.0, "no_repeat_ngram": 3, "presence_penalty": -0.5,
                "frequency_penalty": 0.5,
            },
            False,
            (
                LIKELIHOOD,
                (
                    FrequencyPenalty(0.5), PresencePenalty(-0.5), NoRepeatNGram(3), Temperature(2.0), TopK(9),
                    TopP(0.8), MinP(0.1), Typical(0.9), Epsilon(0.02), Eta(0.01), TopNSigma(2.0),
                ),
                SAMPLE,
            ),
        ),
    ],
)  # fmt: skip
def test_options_become_parts(name: str | None, given: dict[str, Any], amateur: bool, expected: Any) -> None:
    method = choose(name, given, has_amateur=amateur).method
    assert (method.scoring, method.processors, method.strategy) == expected


@pytest.mark.parametrize(
    ("name", "given", "amateur", "message"),
    [
        ("greedy", {"beta": 0.5}, True, "--beta would have no effect: --method greedy"),
        ("greedy", {"top_k": 5}, True, "--top-k would have no effect: --method greedy"),
        ("greedy", {"beams": 4}, True, "--beams would have no effect: --method greedy"),
        ("speculative", {"beams": 4}, True, "--beams would have no effect: --method speculative"),
        ("contrastive-search", {"beams": 4}, True, "--beams would have no effect: --method contrastive-search"),
        ("contrastive-search", {"temperature": 0.5}, True, "--temperature would have no effect: --method"),
        ("contrastive-search", {"temperature": 0.0}, True, "--temperature would have no effect: --method"),
        ("contrastive-search", {"search_penalty": 2.0}, True, "ContrastiveSearch.penalty is 2.0"),
        ("greedy", {"search_penalty": 0.5}, True, "--search-penalty would have no effect: --method greedy"),
        ("top-p", {"search_penalty": 0.5}, True, "--search-penalty would have no effect: --method top-p"),
        ("speculative", {"search_penalty": 0.5}, True, "--search-penalty would have no effect: --method speculative"),
        (
            None,
            {"search_candidates": 4, "top_k": 5, "beams": 2},
            True,
            "--search-candidates asks for contrastive-search, beside which --top-k and --beams would have no effect",
        ),
        ("beam", {"early_stopping": "yes"}, True, "give true, false or never"),
        ("beam", {"beams": 0}, True, "Beam.width is 0"),
        ("top-k", {"alpha": 0.5, "beta": 1.0}, True, "--alpha and --beta would have no effect"),
        (None, {"alpha": 0.5}, False, "there is no amateur"),
        ("guidance", {"beta": 0.5}, True, "--beta would have no effect: --method guidance"),
        ("context-aware", {}, False, "context-aware needs an amateur"),
        ("contrastive", {}, False, "contrastive needs an amateur"),
        (None, {"temperature": 0.0, "top_k": 5}, False, "--top-k would have no effect"),
        ("top-p", {"temperature": 0.0}, False, "--method top-p samples"),
        ("contrastive", {"alpha": 0.0}, True, "alpha is 0.0"),
        ("contrastive", {"amateur_temperature": 0.0}, True, "amateur_temperature is 0.0"),
        ("sample", {"temperature": -1.0}, True, "temperature is -1.0"),
        ("nucleus", {}, True, "choose from greedy"),
        ("contrst", {}, True, "did you mean 'contrastive'"),
    ],
)
def test_what_would_be_ignored_is_refused(name: str | None, given: dict[str, Any], amateur: bool, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        choose(name, given, has_amateur=amateur)


def test_drafts_for_a_contrastive_search_are_refused() -> None:
    with pytest.raises(UsageError, match="--draft-tokens would have no effect: Speculative cannot draft"):
        speculate(choose("contrastive-search", {}, has_amateur=True), {"draft_tokens": "4"}, None)


def test_the_listed_options_are_those_that_parts_declare() -> None:
    assert json.loads(LIST.read_text("utf-8")) == collect(), "make options"


def test_every_method_option_is_known_to_some_preset() -> None:
    counts = ("candidates", "top_k", "no_repeat_ngram", "min_new_tokens")
    beams = {"beams": 4, "length_penalty": 0.5, "early_stopping": "never", "beam_groups": 2, "diversity": 0.5}
    search = {"search_candidates": 6, "search_penalty": 0.5}
    others = [name for name in MethodOptions.__dataclass_fields__ if name not in {**beams, **search}]
    given = {name: 2 if name in counts else 0.5 for name in others}
    scale = {"guidance_scale": given.pop("guidance_scale")}
    assert choose("guidance", scale, has_amateur=True).used == set(scale)
    assert choose("contrastive", given, has_amateur=True).used == set(given)
    assert choose("contrastive", beams, has_amateur=True).used == set(beams)  # beams that are drawn have no groups
    assert choose("contrastive", search, has_amateur=True).used == set(search)


@pytest.mark.parametrize("run", [RunOptions(seed=1), RunOptions()])
@pytest.mark.parametrize("rng", [None, "transformers"])
def test_randomness_is_settled(run: RunOptions, rng: str | None) -> None:
    greedy, sample = (choose(name, {}, has_amateur=False) for name in ("greedy", "sample"))
    found, seed = settle_randomness([greedy, sample], run, rng)
    assert [entry.method.strategy for entry in found] == [GREEDY, Sample(rng or "seeded")]
    assert seed == 1 if run.seed else seed is not None
    if run.seed is None and rng is None:
        assert settle_randomness([greedy], run, rng) == ([greedy], None)
    else:
        with pytest.raises(UsageError, match="nothing is drawn"):
            settle_randomness([greedy], run, rng)


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_random_mode_is_refused() -> None:
    with pytest.raises(SettingsError, match="seeded"):
        settle_randomness([choose("sample", {}, has_amateur=False)], RunOptions(), "dice")


def test_presets_have_papers_and_describe_themselves() -> None:
    for name, entry in PRESETS.items():
        assert entry is preset(name)
        assert set(entry.arguments) == {"scoring", "processors", "strategy"}
        assert entry.paper is None or re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", entry.paper)
        assert (entry.paper is None) == (name in ("greedy", "sample", "beam"))
    assert settings(PRESETS["contrastive-beta"]) == "alpha 0.1, beta 0.5"
    assert settings(PRESETS["top-p"]) == "top-p 0.95"
    assert settings(PRESETS["dola-low"]) == "layers low, alpha 0.1"
    assert settings(PRESETS["selective-guidance"]) == "threshold 1, guidance-scale 1.5"
    assert {name: PRESETS[name].cost for name in ("greedy", "dola-high", "contrastive", "speculative", "dexperts")} == {
        "greedy": "expert",
        "dola-high": "expert + head × layers",
        "contrastive": "expert + amateur",
        "speculative": "fewer of expert + amateur",
        "dexperts": "expert + positive + negative",
    }
    assert PRESETS["contrastive-search"].cost == "expert × 4 rows"
    assert settings(PRESETS["contrastive-search"]) == "search-candidates 4, search-penalty 0.6"
    assert settings(PRESETS["contrastive-beam"]) == "alpha 0.1, beams 5"
    assert settings(PRESETS["diverse-beam"]) == "beams 4, beam-groups 4, diversity 0.5"


EXPERT, AMATEUR = map(str, demo_paths())


@pytest.mark.parametrize(
    ("options", "expert", "amateur", "has_amateur"),
    [
        (ModelOptions(), EXPERT, AMATEUR, True),
        (ModelOptions(expert="x"), "x", None, False),
        (ModelOptions(expert="x", amateur="y"), "x", "y", True),
        (ModelOptions(amateur="y"), EXPERT, "y", True),
        (ModelOptions(amateur_layer=1), EXPERT, None, True),
        (ModelOptions(amateur_prompt="y"), EXPERT, None, True),
        (ModelOptions(amateur_prompt="y", pair="qwen2.5"), *PAIRS["qwen2.5"], True),
        (ModelOptions(expert="x", amateur_window=1), "x", None, True),
        (
            ModelOptions(pair="qwen2.5"),
            "Qwen/Qwen2.5-3B-Instruct",
            "Qwen/Qwen2.5-Coder-0.5B-Instruct",
            True,
        ),
    ],
)
def test_models_are_planned(options: ModelOptions, expert: str, amateur: str | None, has_amateur: bool) -> None:
    plan = plan_models(options)
    assert (plan.expert, plan.amateur, plan.has_amateur) == (expert, amateur, has_amateur)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(pair="qwen2.5", expert="x"), "--pair names expert and amateur"),
        (ModelOptions(pair="gpt"), "no pair 'gpt'"),
        (ModelOptions(amateur="y", amateur_layer=1), "so --amateur cannot"),
        (ModelOptions(amateur_window=1, amateur_layer=1), "so --amateur-window cannot"),
        (ModelOptions(bridge_tokenizers=True), "give it with --amateur NAME"),
        (ModelOptions(bridge_tokenizers=True, amateur="y", amateur_window=1), "without --amateur-window"),
        (ModelOptions(bridge_tokenizers=True, amateur="y", amateur_prompt="z"), "or --amateur-prompt"),
        (ModelOptions(amateur_window=1, amateur_prompt="y"), "in another way than --amateur-window"),
        (ModelOptions(amateur_layer=1, amateur_prompt="y"), "in another way than --amateur-layer"),
    ],
)
def test_conflicting_models_are_refused(options: ModelOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_models(options)
