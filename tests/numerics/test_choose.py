import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from descant.numerics import choose, wide

INF = math.inf

# Each test by frequencies would fail by chance once in a million seeds; its seed is fixed.
FALSE_ALARM = 1e-6


def random_scores(seed: int, rows: int, vocab: int, *, ties: bool = False) -> torch.Tensor:
    scores = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    ban = torch.rand(rows, vocab, generator=torch.Generator().manual_seed(seed + 1)) < 0.3
    ban[:, seed % vocab] = False
    return (scores.round() if ties else scores).masked_fill(ban, -INF)


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), vocab=st.integers(1, 60), ties=st.booleans())
def test_argmax_is_the_lowest_of_the_best(seed: int, rows: int, vocab: int, ties: bool) -> None:
    scores = random_scores(seed, rows, vocab, ties=ties)
    assert choose.argmax(scores).tolist() == [row.index(max(row)) for row in scores.tolist()]
    assert torch.equal(choose.argmax(scores), scores.argmax(-1))


def test_argmax_of_a_wide_row_of_equals() -> None:
    scores = torch.zeros(3, 152_064)
    scores[1, 100:] = 1.0
    scores[2, 1000] = math.nan
    assert choose.argmax(scores).tolist() == [0, 100, 1000]


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), vocab=st.integers(1, 12), k=st.integers(1, 15))
def test_top_against_python(seed: int, rows: int, vocab: int, k: int) -> None:
    scores = random_scores(seed, rows, vocab, ties=seed % 2 == 0)
    ids, log_probs = choose.top(scores, k)
    assert ids.shape == log_probs.shape == (rows, min(k, vocab))
    for i, row in enumerate(scores.tolist()):
        total = math.log(math.fsum(math.exp(x) for x in row))
        expected = sorted(range(vocab), key=lambda token: (-row[token], token))[:k]
        assert ids[i].tolist() == expected
        assert log_probs[i].tolist() == pytest.approx([row[token] - total for token in expected])


def test_the_first_of_the_top_is_the_argmax() -> None:
    scores = torch.zeros(2, 50_000)
    ids, _ = choose.top(scores, 3)
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert choose.top(scores, 0)[0].shape == (2, 0)


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), vocab=st.integers(1, 12), data=st.data())
def test_categorical_inverts_the_cumulative_distribution(seed: int, rows: int, vocab: int, data: st.DataObject) -> None:
    scores = random_scores(seed, rows, vocab)
    uniforms = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=rows, max_size=rows))
    ids = choose.categorical(scores, torch.tensor(uniforms, dtype=torch.float64)).tolist()
    for row, u, chosen in zip(scores.tolist(), uniforms, ids, strict=True):
        assert row[chosen] > -INF
        total = math.fsum(math.exp(x) for x in row)
        below = math.fsum(math.exp(x) for x in row[:chosen]) / total
        above = math.fsum(math.exp(x) for x in row[: chosen + 1]) / total
        assert below - 1e-12 <= u <= above + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_categorical_at_the_ends(dtype: torch.dtype) -> None:
    """u = 0 takes the first token that has a probability; u next to 1, and 1 itself, never one that has none."""
    nearly = math.nextafter(1.0, 0.0)
    uniforms = torch.tensor([0.0, nearly, 1.0], dtype=torch.float64)
    for seed in range(300):
        scores = torch.full((3, 30), -INF, dtype=dtype)
        scores[:, 3:-4] = torch.randn(23, generator=torch.Generator().manual_seed(seed), dtype=dtype) / 4
        first, last, beyond = choose.categorical(scores, uniforms).tolist()
        assert (first, last) == (3, 25)
        assert 3 <= beyond <= 25
    single = torch.full((3, 30), -INF, dtype=dtype)
    single[:, 17] = -1234.5
    assert choose.categorical(single, uniforms).tolist() == [17, 17, 17]
    # Probabilities that underflow are zero too, though their scores are finite.
    single[:, 2] = single[:, 29] = -1e5
    assert choose.categorical(single, uniforms).tolist() == [17, 17, 17]


@given(seed=st.integers(0, 2**32), vocab=st.sampled_from([4096, 5000]), allowed=st.sampled_from([1, 5, 300, 4096]))
def test_a_draw_from_a_wide_vocabulary_is_that_from_a_narrow_one(seed: int, vocab: int, allowed: int) -> None:
    """To the last bit, alone or among others, whether few tokens are allowed or many."""
    scores = random_scores(seed, 4, vocab).float()
    generator = torch.Generator().manual_seed(seed)
    banned = torch.rand(3, vocab, generator=generator).argsort(-1)[:, allowed:]
    scores[:3] = torch.randn(3, vocab, generator=generator).scatter_(1, banned, -INF)  # the fourth allows many
    uniforms = torch.rand(4, generator=generator, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide, "_WIDE", 10**9)
        narrow = choose.categorical(scores, uniforms)
    assert torch.equal(choose.categorical(scores, uniforms), narrow)
    assert torch.equal(choose.categorical(scores[:3], uniforms[:3]), narrow[:3])
    for i in range(4):
        assert torch.equal(choose.categorical(scores[i : i + 1], uniforms[i : i + 1]), narrow[i : i + 1])
    assert choose.categorical(scores[:0], uniforms[:0]).shape == (0,)


def test_categorical_draws_by_probability() -> None:
    draws = 400_000
    scores = torch.tensor([[0.0, 1.5, -INF, -2.0, 3.0, 0.5, -INF, -5.0]])
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = choose.categorical(scores.expand(draws, -1), uniforms)
    weights = [math.exp(x) for x in scores[0].tolist()]
    expected = [draws * w / sum(weights) for w in weights if w]
    counts = torch.bincount(drawn, minlength=8).tolist()
    assert counts[2] == counts[6] == 0
    assert stats.chisquare([c for c, w in zip(counts, weights, strict=True) if w], expected).pvalue > FALSE_ALARM


def test_rows_have_streams_of_their_own() -> None:
    def first(seed: int, index: int) -> list[float]:
        return torch.rand(3, generator=choose.row_generator(seed, index), dtype=torch.float64).tolist()

    assert first(7, 3) == first(7, 3)
    assert len({tuple(first(seed, index)) for seed in range(-3, 30) for index in range(30)}) == 33 * 30
    # A seed promises the same text, so the streams must not change between versions.
    assert first(0, 0) == [0.7178587835006548, 0.8655469900241802, 0.8082307644182347]
    assert first(2**80, 0) != first(0, 0)


def test_rows_of_one_call_never_meet() -> None:
    """torch reads 32 bits of a seed: hashed alone, two of 100,000 rows would mostly share them."""
    words = {choose.row_generator(1, index).initial_seed() for index in range(100_000)}
    assert len(words) == 100_000
    assert max(words) < 2**32


@pytest.mark.parametrize("axis", ["rows", "seeds"])
def test_first_numbers_of_neighbouring_streams_are_uniform_and_independent(axis: str) -> None:
    streams = 20_000
    pairs = [(11, i) if axis == "rows" else (i, 0) for i in range(streams)]
    generators = [choose.row_generator(seed, index) for seed, index in pairs]
    first = torch.stack([torch.rand(2, generator=each, dtype=torch.float64) for each in generators])
    # Cells of (this stream's number, the next one's), and of a stream's first two numbers.
    for left, right in ((first[:-1, 0], first[1:, 0]), (first[:, 0], first[:, 1])):
        cells = (left * 10).long() * 10 + (right * 10).long()
        assert stats.chisquare(torch.bincount(cells, minlength=100).tolist()).pvalue > FALSE_ALARM


def test_multinomial_ignores_finished_rows() -> None:
    """Against one torch.multinomial over the whole batch, as transformers calls it at every step."""
    generator = torch.Generator().manual_seed(5)
    for alive in ([0, 1, 2, 3, 4], [1, 4], [3], [4, 0]):
        scores = torch.randn(5, 700, generator=generator) * 2
        torch.manual_seed(99)
        expected = [torch.multinomial(scores.softmax(-1), num_samples=1)[:, 0] for _ in range(20)]
        torch.manual_seed(99)
        for step in expected:
            drawn = choose.multinomial_like_transformers(scores[alive], alive, 5)
            assert drawn.tolist() == step[alive].tolist()


def test_multinomial_gives_the_tokens_of_generate() -> None:
    """A whole batch decoded by hand; its rows end at different steps."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_layer=2, n_embd=16, n_head=2, n_positions=64)).eval()
    prompts = torch.randint(3, 31, (4, 5))
    torch.manual_seed(1234)
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        top_k=0,
        max_new_tokens=30,
        eos_token_id=[1, 2],
        pad_token_id=0,
    )
    lengths = [int((row[5:] != 0).sum()) for row in expected]
    assert len(set(lengths)) > 1
    assert min(lengths) < 20

    texts = prompts.tolist()
    alive = [0, 1, 2, 3]
    torch.manual_seed(1234)
    with torch.no_grad():
        for _ in range(30):
            scores = model(torch.tensor([texts[i] for i in alive])).logits[:, -1]
            for i, token in zip(alive, choose.multinomial_like_transformers(scores, alive, 4).tolist(), strict=True):
                texts[i].append(token)
            alive = [i for i in alive if texts[i][-1] not in (1, 2)]
            if not alive:
                break
    width = expected.shape[1]
    assert [text + [0] * (width - len(text)) for text in texts] == expected.tolist()
