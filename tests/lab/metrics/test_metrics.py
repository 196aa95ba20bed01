"""Every metric against figures computed by hand, naive recomputation, or scipy."""

import builtins
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from descant import Decoder, Likelihood
from descant.errors import DecodingError, SettingsError
from descant.lab.metrics import (
    Coherence,
    CorpusMetric,
    DistinctN,
    Diversity,
    Latency,
    Length,
    Mauve,
    Passes,
    Perplexity,
    PooledHiddenState,
    RepN,
    Seconds,
    SimCTGDiversity,
    TaskVerdict,
    TextMetric,
    Zipf,
    load_metric,
)
from descant.lab.metrics.mauve import mauve
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import Task
from evaluation_cases import Toy, generation

TOY = Toy(())
TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=9).map(" ".join), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.demo(device="cpu")


def per_text(metric: TextMetric, texts: Sequence[str]) -> list[float]:
    [column] = metric.scores([generation(text) for text in texts], TOY).values()
    return list(column)


def of_corpus(metric: CorpusMetric, generations: Sequence[Generation]) -> float:
    return metric.statistic(generations)(range(len(generations)))


def naive_share(text: str, n: int) -> float | None:
    """The share of n-grams that a scan from the left has not met before."""
    items, seen, new, total = text.split(), [], 0, 0
    for start in range(len(items)):
        piece = items[start : start + n]
        if len(piece) == n:
            total += 1
            if piece not in seen:
                new += 1
                seen.append(piece)
    return new / total if total else None


def test_rep_and_diversity_by_hand() -> None:
    # 2-grams: ab ba ab ba ab (2 of 5); 3-grams: aba bab aba bab (2 of 4); 4-grams: abab baba abab (2 of 3)
    assert per_text(RepN(2), ["a b a b a b"]) == [pytest.approx(3 / 5)]
    assert per_text(RepN(3), ["a b a b a b"]) == [pytest.approx(2 / 4)]
    assert per_text(RepN(4), ["a b a b a b"]) == [pytest.approx(1 / 3)]
    assert per_text(Diversity(), ["a b a b a b"]) == [pytest.approx(2 / 5 * 2 / 4 * 2 / 3)]


def test_short_texts_divide_nothing_by_zero() -> None:
    rep = per_text(RepN(4), ["a b c", "a b c d"])
    assert math.isnan(rep[0])
    assert rep[1] == 0
    found = per_text(Diversity(), ["", "a", "a a", "a a a"])
    assert all(map(math.isnan, found[:2]))
    assert found[2:] == [1.0, 0.5]


@given(TEXTS)
def test_diversity_is_a_naive_recomputation(texts: list[str]) -> None:
    for text, found in zip(texts, per_text(Diversity(), texts), strict=True):
        shares = [share for share in (naive_share(text, n) for n in (2, 3, 4)) if share is not None]
        assert found == pytest.approx(math.prod(shares) if shares else math.nan, nan_ok=True)


def test_simctg_misses_the_last_ngram_and_rounds() -> None:
    texts = [generation("a b a b a b x"), generation("c c c c c y")]
    # The released loop ends before the last n-gram, which holds x or y. Unique of all n-grams, summed over both texts:
    # n=2: (2 + 1) of (5 + 4); n=3: (2 + 1) of (4 + 3); n=4: (2 + 1) of (3 + 2).
    expected = 1.0
    for unique, total in ((3, 9), (3, 7), (3, 5)):
        expected *= 1 - round(100 * (1 - unique / total), 2) / 100
    assert of_corpus(SimCTGDiversity(), texts) == expected
    assert math.isnan(of_corpus(SimCTGDiversity(), [generation("a b c d")]))  # it has no 4-gram but the last
    assert isinstance(load_metric("diversity", Decoder.demo(), simctg_compat=True), SimCTGDiversity)


@given(TEXTS, st.integers(1, 3))
def test_distinct_counts_over_the_corpus(texts: list[str], n: int) -> None:
    pieces = ["/".join(t.split()[i : i + n]) for t in texts for i in range(len(t.split()) - n + 1)]
    expected = len(set(pieces)) / len(pieces) if pieces else math.nan
    assert of_corpus(DistinctN(n), [generation(t) for t in texts]) == pytest.approx(expected, nan_ok=True)


def test_zipf_is_scipys_regression() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{k}" for k in rng.zipf(1.5, size=50)) for _ in range(20)]
    counts = sorted(Counter(" ".join(texts).split()).values(), reverse=True)
    for ranks in (5000, 10):
        kept = counts[:ranks]
        peer = stats.linregress(np.log(np.arange(1, len(kept) + 1)), np.log(kept)).slope
        assert of_corpus(Zipf(ranks), [generation(t) for t in texts]) == pytest.approx(-peer)
    exact = " ".join(word for rank, word in enumerate("abcd", start=1) for word in [word] * (12 // rank))
    assert of_corpus(Zipf(), [generation(exact)]) == pytest.approx(1)
    assert math.isnan(of_corpus(Zipf(), [generation("a a")]))


def test_length_latency_and_cost() -> None:
    texts = [generation("a b c", seconds=0.6, passes=2), generation("a", seconds=0.2, passes=1), generation("")]
    assert Length().scores(texts, TOY) == {"words": [3.0, 1.0, 0.0], "tokens": [3.0, 1.0, 0.0]}
    assert Latency().scores(texts, TOY) == {"latency": [1.2, 0.4, 2.0]}
    assert of_corpus(Seconds(), texts[:2]) == pytest.approx(200)
    assert of_corpus(Passes(), texts[:2]) == pytest.approx(3 / 4)
    assert math.isnan(of_corpus(Passes(), texts[2:]))


def test_the_judge_gives_the_columns() -> None:
    texts = [generation("it is blue", answer="blue"), generation("red", answer="blue")]
    assert TaskVerdict().scores(texts, TOY) == {"right": [1.0, 0.0], "short": [0.0, 1.0]}
    metric = TaskVerdict(only=["short"], lower=["short"])
    assert list(metric.scores(texts, TOY)) == ["short"]
    assert (metric.better("short"), metric.better("right")) == ("lower", "higher")

    with pytest.raises(SettingsError, match="choose from right, short"):
        TaskVerdict(only=["wrong"]).scores(texts, TOY)

    class Fickle(Toy):
        def judge(self, task: Task, text: str) -> dict[str, float]:
            return {text: 1.0}

    with pytest.raises(DecodingError, match="other scores"):
        TaskVerdict().scores(texts, Fickle(()))


def test_perplexity_is_the_mean_surprise_of_all_tokens(decoder: Decoder) -> None:
    pairs = [("Where did Linus Greenby live?", " He lived in a windmill."), ("Who?", " A heron.")]
    tokenizer, total, count = decoder.tokenizer, 0.0, 0
    for prompt, text in pairs:
        ids = tokenizer(prompt).input_ids
        both = torch.tensor([[*ids, *tokenizer(text, add_special_tokens=False).input_ids]])
        logprobs = decoder.expert(both).logits[0].double().log_softmax(-1)
        for place in range(len(ids), both.shape[1]):
            total -= logprobs[place - 1, both[0, place]].item()
            count += 1
    texts = [generation(text, prompt) for prompt, text in pairs]
    found = Perplexity(decoder).statistic([texts[0], generation("", "Who?"), texts[1]])
    assert found([0, 1, 2]) == pytest.approx(math.exp(total / count), rel=1e-4)
    assert math.isnan(found([1]))
    one = decoder.score(pairs[0][0], pairs[0][1], Likelihood())[0]
    assert found([0, 0]) == pytest.approx(math.exp(-one / len(one.token_ids)), rel=1e-4)


def test_no_text_is_read_twice(decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [generation(text, "Who?") for text in (" A heron.", " A cat.", " A heron.", "")]
    expected = Perplexity(decoder).statistic(texts)(range(4))
    read: list[str] = []
    real = decoder.score

    def count(prompts: Any, said: Any, *rest: Any) -> Any:
        read.extend(said)
        return real(prompts, said, *rest)

    monkeypatch.setattr(decoder, "score", count)
    kept = Perplexity(decoder, tmp_path)
    assert kept.statistic(texts[:1])([0]) == Perplexity(decoder).statistic(texts[:1])([0])
    assert read == [" A heron."] * 2  # once for each of the two metrics
    assert kept.statistic(texts)(range(4)) == pytest.approx(expected, rel=1e-6)
    assert read[2:] == [" A cat."]
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])  # killed in the middle of a line
    assert Perplexity(decoder, tmp_path).statistic(texts)(range(4)) == pytest.approx(expected, rel=1e-6)
    assert read[3:] == [" A cat."]
    assert kept.statistic([generation(" A heron.", "What?")])([0]) != expected
    assert read[4:] == [" A heron."]  # another prompt is another pair
    other = Decoder(decoder.amateur, decoder.tokenizer)
    assert Perplexity(other, tmp_path).statistic(texts)(range(4)) != expected
    assert len(list(tmp_path.iterdir())) == 2


def test_hidden_states_are_transformers_and_padding_plays_no_part(decoder: Decoder) -> None:
    texts = ["Who followed Lottie Dappleberry to church?", "", "A heron.", "Where did he live, and why?"]
    for pooling in ("mean", "last"):
        found = PooledHiddenState(decoder, pooling, batch_size=2)(texts)  # type: ignore[arg-type]
        assert np.isnan(found[1]).all()
        for text, vector in zip(texts, found, strict=True):
            if text:
                ids = decoder.tokenizer(text, return_tensors="pt").input_ids
                states = decoder.expert(ids, output_hidden_states=True).hidden_states[-1][0].detach().numpy()
                expected = states.mean(0) if pooling == "mean" else states[-1]
                np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_coherence_is_the_cosine() -> None:
    vectors = {"x": [1.0, 0.0], "same": [3.0, 0.0], "across": [0.0, 2.0], "between": [1.0, 1.0], "": [math.nan] * 2}

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([vectors[text] for text in texts])

    texts = [generation(text, "x") for text in ("same", "across", "between", "")]
    found = Coherence(embed).scores(texts, TOY)["coherence"]
    assert found == pytest.approx([1, 0, math.sqrt(0.5), math.nan], nan_ok=True)


def naive_mauve(p: np.ndarray, q: np.ndarray, scaling: float) -> float:
    """The area under the divergence curve, by fine trapezoids."""
    weights = np.linspace(1e-6, 1 - 1e-6, 20_001)[:, None]
    mixtures = weights * p + (1 - weights) * q
    x, y = (
        np.exp(-scaling * stats.entropy(np.broadcast_to(side, mixtures.shape), mixtures, axis=1)) for side in (q, p)
    )
    x, y = np.array([[0.0, *x, 1.0], [1.0, *y, 0.0]])
    order = np.argsort(x)
    x, y = x[order], y[order]
    return float(np.trapezoid(y, x))


def test_mauve_of_clusters_that_are_plain_to_see() -> None:
    """Two far clusters, so that quantisation is certain: 20 references half and half, 20 texts 15 to 5."""
    rng = np.random.default_rng(0)
    centres = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    def draw(first: int, second: int) -> Any:
        return np.repeat(centres, [first, second], axis=0) + rng.normal(0, 0.01, size=(first + second, 3))

    found = mauve(draw(10, 10), draw(15, 5))
    expected = naive_mauve(np.array([0.5, 0.5]), np.array([0.75, 0.25]), 5.0)
    assert found == pytest.approx(expected, abs=0.02)  # the package's curve has 25 points
    assert mauve(draw(10, 10), draw(10, 10)) > 0.99

    def embed(texts: Sequence[str]) -> np.ndarray:
        return centres[[int(text) for text in texts]] + rng.normal(0, 0.01, size=(len(texts), 3))

    texts = [generation(text, str(place), reference=str(place % 2)) for place, text in enumerate("0" * 15 + "1" * 5)]
    unknown = [generation("1", "no reference"), generation("", "empty", reference="0")]
    assert of_corpus(Mauve(embed), [*texts, *unknown]) == pytest.approx(expected, abs=0.02)
    assert math.isnan(of_corpus(Mauve(embed), unknown))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "mauve":
            raise ImportError("no such module")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"descant\[mauve\]"):
        Mauve(lambda texts: np.zeros((len(texts), 2)))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("diversty", {}, "did you mean 'diversity'"),
        ("xyz", {}, "choose from judge"),
        ("zipf", {"rank": 3}, "cannot be set so"),
        ("zipf", {"ranks": 1}, "at least 2"),
        ("rep-2", {"m": 3}, "cannot be set so"),
    ],
)
def test_bad_metrics_are_refused(decoder: Decoder, name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_metric(name, decoder, **settings)


def test_every_metric_loads_by_name(decoder: Decoder) -> None:
    kinds = {
        "judge": TaskVerdict, "diversity": Diversity, "rep-3": RepN, "distinct-2": DistinctN, "zipf": Zipf,
        "length": Length,
        "latency": Latency, "speed": Seconds, "passes": Passes, "perplexity": Perplexity, "coherence": Coherence,
        "mauve": Mauve,
    }  # fmt: skip
    found = {name: load_metric(name, decoder) for name in kinds}
    assert {name: type(metric) for name, metric in found.items()} == kinds
    shown = {**{name: name for name in kinds}, "mauve": "MAUVE", "passes": "passes/token", "speed": "ms/token"}
    assert {name: metric.name for name, metric in found.items()} == shown
