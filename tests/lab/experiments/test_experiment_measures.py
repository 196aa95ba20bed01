"""What experiments measure, against naive recomputation with transformers alone."""

import math
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from descant import Contrastive, Decoder, Likelihood
from descant.lab.experiments import Cells, Pair
from descant.lab.experiments.early_exit import follow
from descant.lab.experiments.faults import by_bin, ratio_of
from descant.lab.experiments.judged import Parting, partings, summarise, tune
from descant.lab.experiments.repetition import Repetition, common_suffix, repeated, rising, sentences_of
from descant.lab.experiments.sensitivity import count_drafts, count_steps
from descant.lab.worlds.rumour import Rumour
from descant.strategies import Speculative


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.demo()


@pytest.fixture(scope="module")
def pair(decoder: Decoder) -> Pair:
    return Pair("bundled", decoder, Rumour(), Cells(None, {}))


@torch.inference_mode()
def _distribution(model: PreTrainedModel, tokens: Sequence[int], layer: int | None = None, norm: bool = True):
    """The next token's probabilities after a number of layers, by transformers."""
    out = model(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True)
    if layer is None:
        return out.logits[0, -1].softmax(-1)
    hidden = out.hidden_states[layer][0, -1]
    return model.lm_head(model.model.norm(hidden) if norm else hidden).softmax(-1)


def _mean_of(rows: Sequence[torch.Tensor], tokens: Sequence[int]) -> float:
    return sum(float(row[token]) for row, token in zip(rows, tokens, strict=True)) / len(rows)


def test_partings_are_where_two_decodes_differ(pair: Pair) -> None:
    tasks = pair.tasks("test", 8)
    found = {parting.place: parting for parting in partings(pair, tasks, Contrastive())}
    assert found
    for place, task in enumerate(tasks):
        greedy, contrast = (
            pair.decoder.generate(task.prompt, scoring, max_new_tokens=24)[0]
            for scoring in (Likelihood(), Contrastive())
        )
        if greedy.token_ids == contrast.token_ids:
            assert place not in found
            continue
        at = next(i for i in range(24) if greedy.token_ids[i] != contrast.token_ids[i])
        prefix = greedy.prompt_token_ids + greedy.token_ids[:at]
        assert found[place] == Parting(place, prefix, greedy.token_ids[at], contrast.token_ids[at])


def test_tokens_are_followed_through_the_layers_as_transformers_has_them(pair: Pair) -> None:
    followed = partings(pair, pair.tasks("test", 8), Contrastive())[:2]
    measured = follow(pair, followed, layers=4)
    expert, amateur = pair.decoder.expert, pair.decoder.amateur
    for kind in ("greedy", "contrast"):
        tokens = [getattr(parting, kind) for parting in followed]
        for name, norm in (("norm", True), ("no norm", False)):
            for layer in range(4):
                after = None if layer == 3 else layer + 1
                own = [
                    _distribution(expert, one.prefix, after, norm)[t] for one, t in zip(followed, tokens, strict=True)
                ]
                assert measured[kind][name][layer] == pytest.approx(float(sum(own)) / 2, rel=1e-4)
        own = [_distribution(amateur, one.prefix)[t] for one, t in zip(followed, tokens, strict=True)]
        assert measured["amateur"][kind] == pytest.approx(float(sum(own)) / 2, rel=1e-4)
    best = _distribution(expert, followed[0].prefix).topk(5)
    shown = [values[-1] for values in measured["example"].values()]
    assert shown == pytest.approx(best.values.tolist(), rel=1e-4)


def test_a_sentence_is_read_after_its_copies(pair: Pair) -> None:
    experiment = Repetition(repeats=2, sentences=1)
    documents = ["Ida Applebank was born in Yewbarrow and worked as a hatter. More."]
    measured = experiment.repeat(pair, documents, "copies", "expert")
    tokenizer, expert = pair.decoder.tokenizer, pair.decoder.expert
    [text] = sentences_of(documents)
    first, later = tokenizer(text)["input_ids"], tokenizer(" " + text, add_special_tokens=False)["input_ids"]
    scored = common_suffix(first, later)
    for count in range(3):
        row = first + later * count
        steps = range(len(row) - scored, len(row))
        values = [float(_distribution(expert, row[:at])[row[at]]) for at in steps]
        assert measured["probability"][count]["value"] == pytest.approx(sum(values) / scored, rel=1e-4)


def test_other_sentences_stand_before_each_once(pair: Pair) -> None:
    experiment = Repetition(repeats=1, sentences=2)
    documents = ["Ida Applebank was born in Yewbarrow today.", "Otto Fairmore took up his trade of hatter."]
    measured = experiment.repeat(pair, documents, "other sentences", "expert")
    tokenizer, expert = pair.decoder.tokenizer, pair.decoder.expert
    means = []
    for before, text in (documents, documents[::-1]):
        later = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        row = tokenizer(before)["input_ids"] + later
        scored = common_suffix(tokenizer(text)["input_ids"], later)
        steps = range(len(row) - scored, len(row))
        means.append(sum(float(_distribution(expert, row[:at])[row[at]]) for at in steps) / scored)
    assert measured["probability"][1]["value"] == pytest.approx(sum(means) / 2, rel=1e-4)


def test_small_figures() -> None:
    assert common_suffix([1, 2, 3], [9, 2, 3]) == 2
    assert common_suffix([1], [1]) == 1
    assert repeated([1, 2, 1, 2, 1], 2) == 0.5
    assert repeated([1], 2) == 0
    assert rising([[0.2, 0.4]], [[0.1, 0.5]]) == 0.5
    assert ratio_of({"expert of contrast": 0.1, "expert of greedy": 0.4}) == 0.25


def test_the_best_setting_on_development_questions_is_chosen(pair: Pair) -> None:
    dev = pair.tasks("dev", 40)
    grid = [Contrastive(0.99), Contrastive(0.2, amateur_temperature=2), Contrastive(0.2, amateur_temperature=2.0)]
    right = [sum(pair.judge(dev, pair.answer(dev, scoring))["correct"]) for scoring in grid]
    assert right[1] > right[0]
    assert tune(pair, dev, grid) is grid[1]


def test_bins_hold_every_task_once_and_their_own_scores(pair: Pair) -> None:
    tasks = pair.tasks("test", 40)
    texts = {"greedy": pair.answer(tasks, Likelihood()), "contrast": pair.answer(tasks, Contrastive())}
    ranks = [task.facts["truth_rank"] for task in tasks]
    bins = by_bin(pair, tasks, texts, ranks, {"low": (1, 20), "high": (20, 61)})
    assert bins["low"]["count"] + bins["high"]["count"] == 40
    for name, own in texts.items():
        total = sum(bins[part]["count"] * bins[part]["right"][name] for part in bins)
        assert total == pytest.approx(sum(pair.judge(tasks, own)["correct"]))
    whole = summarise(pair, tasks, texts["contrast"], texts["greedy"])
    assert whole["won"] - whole["lost"] == pytest.approx(40 * whole["gain"]["value"])


def test_steps_with_a_one_token_head_save_passes_of_the_amateur(pair: Pair) -> None:
    prompts = [task.prompt for task in pair.tasks("dev", 4)]
    counted = count_steps(pair, prompts, 0.3)
    outputs = pair.decoder.generate(prompts, Contrastive(0.3), max_new_tokens=24)
    steps = alone = 0
    for output in outputs:
        for at in range(len(output.token_ids)):
            probabilities = _distribution(pair.decoder.expert, output.prompt_token_ids + output.token_ids[:at])
            steps += 1
            alone += int((probabilities >= 0.3 * probabilities.max()).sum()) == 1
    assert counted["steps"] == steps
    assert counted["one token"] == pytest.approx(alone / steps)
    assert counted["all"] == counted["expert"] == steps
    assert counted["passes"] <= steps - alone


def test_drafts_that_stand_are_counted(pair: Pair) -> None:
    prompts = [task.prompt for task in pair.tasks("dev", 4)]
    counted = count_drafts(pair, prompts, Contrastive(), Speculative(confidence=0), seed=0)
    assert 0 < counted["accepted"] <= counted["drafted"] <= 4 * counted["rounds"]
    assert counted["tokens"] == sum(
        len(output.token_ids) for output in pair.decoder.generate(prompts, Contrastive(), max_new_tokens=24)
    )
    assert math.isclose(counted["tokens"], counted["accepted"] + counted["rounds"], abs_tol=len(prompts))
