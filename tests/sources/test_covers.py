"""Sums over covers, against enumeration of every token string with one uncached pass each."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import architectures
import oracle
from descant.sources.other_tokenizer.covers import Covering, Target
from descant.sources.other_tokenizer.prefixes import PrefixIndex

SPELLED = [
    None,
    b"a",
    b"b",
    b"c",
    b" ",
    b"ab",
    b"bc",
    b"abc",
    b" a",
    b" ab",
    b"a",
    b"ca",
    b"\xc3",
    b"\xa9",
    b"\xc3\xa9",
]
"""Tokens; 1 and 10 are the same bytes, 0 is none."""

MODEL = architectures.build("llama", seed=3, vocab_size=len(SPELLED), num_hidden_layers=1)


def walk(
    context: list[int], targets: list[Target], tolerance: float = 0.0, budget: int | None = None
) -> tuple[Covering, list[float]]:
    covering = Covering(PrefixIndex(SPELLED, torch.device("cpu")), targets, tolerance, budget)
    covering.learn((), oracle.last_logits(MODEL, context).log_softmax(-1))
    while paths := covering.wanted():
        for path, known in paths:
            for length in range(known, len(path) + 1):
                logprobs = oracle.last_logits(MODEL, [*context, *path[:length]]).log_softmax(-1)
                covering.learn(path[:length], logprobs)
    return covering, [target.found for target in targets]


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", b" ab", b"abcab c", b"\xc3", b"\xc3\xa9a", b"cab ab"])
def test_covers_sum_to_what_enumeration_finds(data: bytes) -> None:
    _, [found] = walk([1, 4, 2], [Target(data)])
    assert math.exp(found) == pytest.approx(oracle.covers(MODEL, [1, 4, 2], data, SPELLED), rel=1e-9)


@pytest.mark.parametrize("data", [b"", b"a", b"abc", b" ab"])
def test_ends_sum_over_every_spelling(data: bytes) -> None:
    _, [found] = walk([2], [Target(data, (0, 3))])
    assert math.exp(found) == pytest.approx(oracle.ends_after(MODEL, [2], data, (0, 3), SPELLED), rel=1e-9)


@given(
    datas=st.lists(st.text("abc ", max_size=6).map(str.encode), min_size=1, max_size=4),
    context=st.lists(st.integers(0, len(SPELLED) - 1), min_size=1, max_size=3),
    tolerance=st.sampled_from([0.0, 0.01, 0.5]),
)
@settings(max_examples=25)
def test_targets_together_are_within_the_tolerance(datas: list[bytes], context: list[int], tolerance: float) -> None:
    _, found = walk(context, [Target(data) for data in datas], tolerance)
    for data, logprob in zip(datas, found, strict=True):
        exact = math.log(oracle.covers(MODEL, context, data, SPELLED))
        assert exact - math.log1p(tolerance) - 1e-9 <= logprob <= exact + 1e-9


@given(data=st.text("abc ", min_size=3, max_size=8).map(str.encode), budget=st.integers(0, 6))
@settings(max_examples=25)
def test_a_budget_bounds_the_paths_and_still_finds_something(data: bytes, budget: int) -> None:
    exact, [whole] = walk([1], [Target(data)])
    covering, [found] = walk([1], [Target(data)], budget=budget)
    assert -math.inf < found <= whole + 1e-9
    assert covering.asked <= budget + len(data)
    if exact.asked <= budget:
        assert found == pytest.approx(whole)


def test_next_bytes_and_the_end_share_the_whole_probability() -> None:
    data = b"ab"
    following = [data + bytes([byte]) for byte in sorted({token[0] for token in SPELLED if token})]
    _, [whole, ended, *parts] = walk([3], [Target(data), Target(data, (0,)), *map(Target, following)])
    assert sum(map(math.exp, [ended, *parts])) == pytest.approx(math.exp(whole))


def test_bytes_that_no_token_spells_have_no_probability() -> None:
    assert walk([1], [Target(b"ax")])[1] == [-math.inf]


def test_broken_logits_show() -> None:
    covering = Covering(PrefixIndex(SPELLED, torch.device("cpu")), [target := Target(b"ab")], 0.01, 8)
    covering.learn((), torch.full((len(SPELLED),), math.nan))
    assert covering.wanted() == []
    assert math.isnan(target.found)


def test_prefix_index_finds_what_a_scan_finds() -> None:
    source = random.Random(0)
    spelled = [bytes(source.choices([0, 97, 254, 255], k=source.randrange(4))) for _ in range(60)]
    index = PrefixIndex(spelled, torch.device("cpu"))
    logprobs = torch.randn(60, dtype=torch.float64)
    for length in range(1, 4):
        for _ in range(50):
            data = bytes(source.choices([0, 97, 254, 255], k=length))
            ids = [token_id for token_id, token in enumerate(spelled) if token.startswith(data)]
            expected = float(logprobs[ids].logsumexp(0))
            assert index.log_mass(logprobs, data) == pytest.approx(expected)
            assert sorted(index.ids(data)) == [token_id for token_id, token in enumerate(spelled) if token == data]
