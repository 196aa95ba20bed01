"""Beams inside `model.generate`: transformers' own search is the oracle, for all that is not contrast."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import EosTokenCriteria, MaxLengthCriteria

import descant
from architectures import build
from descant import Beam, Contrastive, Decoder, SettingsError
from integrations.test_transformers_generate import AMATEUR, IDS, MASK, PROMPTS, AfterToken, Recorder, generate
from strategies.test_beam import rank_what_is_drawn

SMALL = build("llama", vocab_size=23)
EOS = [4, 11]


def both(**settings: Any) -> tuple[Any, Any]:
    """What generate gives, and with descant's likelihood: all beams with their scores."""
    settings = {
        "model": SMALL, "input_ids": IDS, "num_beams": 4, "num_return_sequences": 4, "return_dict_in_generate": True,
        "output_scores": True, "do_sample": False, **settings,
    }  # fmt: skip
    return generate(**settings), generate(descant.likelihood, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 2, "num_return_sequences": 1},
        {"num_beams": 5, "num_return_sequences": 3, "eos_token_id": EOS},
        {"eos_token_id": 4, "length_penalty": -1.0},
        {"eos_token_id": EOS, "length_penalty": 2.0, "early_stopping": True},
        {"eos_token_id": EOS, "early_stopping": "never", "pad_token_id": 9},
        {"eos_token_id": EOS, "no_repeat_ngram_size": 2, "min_new_tokens": 5, "repetition_penalty": 1.3},
        {"eos_token_id": EOS, "do_sample": True, "temperature": 3.0, "top_k": 0},
        {"eos_token_id": EOS, "forced_eos_token_id": 4, "max_new_tokens": 5},
        {"eos_token_id": EOS, "bad_words_ids": [[7], [5, 3]], "begin_suppress_tokens": [2]},
        {"attention_mask": None, "max_new_tokens": 1},
    ],
    ids=str,
)
def test_likelihood_gives_the_beams_of_generate(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rank_what_is_drawn(monkeypatch)
    theirs, ours = both(**settings)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eos", [None, EOS])
def test_criteria_end_single_beams(eos: Any) -> None:
    for criteria in ([AfterToken(2, 9)], [AfterToken(3), MaxLengthCriteria(12), AfterToken(8)]):
        theirs, ours = both(eos_token_id=eos, stopping_criteria=criteria)
        assert torch.equal(ours.sequences, theirs.sequences)
    theirs, ours = both(eos_token_id=eos, stopping_criteria=[EosTokenCriteria(torch.tensor([2]))])
    assert torch.equal(ours.sequences, theirs.sequences)


def test_without_a_dictionary_sequences_come_alone() -> None:
    theirs, ours = both(return_dict_in_generate=False, eos_token_id=EOS)
    assert isinstance(ours, Tensor)
    assert torch.equal(ours, theirs)
    assert both(output_scores=False)[1].sequences_scores is None


@pytest.mark.parametrize("settings", [{}, {"cd_alpha": 0.5}, {"cd_beta": 0.5, "cd_alpha": 0.2}], ids=str)
def test_contrastive_beams_are_the_decoders(settings: dict[str, Any]) -> None:
    ours = generate(
        descant.contrastive, amateur=AMATEUR(), num_beams=3, num_return_sequences=3, length_penalty=0.5,
        eos_token_id=38, return_dict_in_generate=True, output_scores=True, **settings,
    )  # fmt: skip
    expert = build("qwen2")
    expert.generation_config.eos_token_id = 38
    scoring = Contrastive(**{name.removeprefix("cd_"): value for name, value in settings.items()})
    outs = Decoder(expert, amateur=AMATEUR()).generate(
        PROMPTS, scoring, strategy=Beam(3, length_penalty=0.5), max_new_tokens=12
    )
    expected = [beam for out in outs for beam in (out, *out.alternatives)]
    for row, beam in zip(ours.sequences[:, IDS.shape[1] :].tolist(), expected, strict=True):
        assert row == beam.token_ids + [38] * (len(row) - len(beam.token_ids))
    assert ours.sequences_scores.tolist() == pytest.approx([beam.score for beam in expected], rel=1e-5)


def test_sequences_that_a_scoring_does_not_allow_are_the_prompt_alone() -> None:
    ours = generate(
        descant.contrastive, amateur=AMATEUR(), cd_alpha=1.0, num_beams=3, num_return_sequences=2,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    assert ours.sequences_scores[1::2].tolist() == [-1e9] * 3
    assert (ours.sequences[1::2, IDS.shape[1] :] == -1).all()
    greedy = generate(descant.likelihood)
    assert torch.equal(ours.sequences[::2], greedy)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (descant.speculative, {"amateur": AMATEUR()}, "drafts for one sequence"),
        (descant.likelihood, {"return_dict_in_generate": True, "output_logits": True}, "output_logits would have no"),
        (descant.likelihood, {"guidance_scale": 1.5}, "beams change places"),
        (descant.likelihood, {"do_sample": True, "streamer": Recorder()}, "a streamer has nothing to show"),
    ],
)
def test_what_beams_cannot_do_is_refused(method: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        generate(method, num_beams=2, attention_mask=MASK, **settings)
