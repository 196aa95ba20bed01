"""From given timings to figures, by hand."""

import pytest

from descant.errors import SettingsError
from descant.lab.bench.clock import Decoded, Span, follow
from descant.lab.bench.figures import Settings, acceptance_rate, counterpart, limits, read_bytes, same_share
from descant.lab.bench.measure import Spread, in_rounds, interleaved, ratio
from descant.lab.bench.prompts import fill
from descant.results import Output, Piece, Speculation, Timing


def decoded(start: float, first: float, end: float, *, first_tokens: int = 1, tokens: int = 11) -> Decoded:
    return Decoded([[7] * tokens], (Span(start, first, first_tokens, end),))


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert str(Spread.of([1.0, 2.0])) == "1.5 (1.25–1.75)"


def test_ratios_are_taken_round_by_round() -> None:
    # The second round is ten times as slow for both: the ratio does not see it.
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="longer"):
        ratio([1.0], [1.0, 2.0])


def test_rounds_are_interleaved_and_warm_ups_left_out() -> None:
    calls: list[tuple[str, int]] = []

    def case(name: str) -> object:
        return lambda number: calls.append((name, number)) or (name, number)

    advanced: list[int] = []
    found = in_rounds(
        {"a": case("a"), "b": case("b")},  # type: ignore[dict-item]
        rounds=2,
        advance=lambda: advanced.append(len(calls)),
    )
    assert calls == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert advanced == [1, 2, 3, 4, 5, 6]
    assert found == {"a": [("a", 0), ("a", 1)], "b": [("b", 0), ("b", 1)]}
    assert [len(seconds) for seconds in interleaved({"a": lambda: 0}, rounds=3).values()] == [3]


def test_the_first_tokens_are_not_in_the_rate() -> None:
    one = decoded(10.0, 14.0, 19.0)
    assert one.first_token_seconds == 4
    assert one.tokens_per_second == 10 / 5
    # A first round of speculation gives four tokens at once; the other seven take five seconds.
    assert decoded(10.0, 14.0, 19.0, first_tokens=4).tokens_per_second == 7 / 5
    # Where all come at once, the whole call counts.
    assert decoded(10.0, 14.0, 14.5, first_tokens=11).tokens_per_second == 11 / 4.5


def test_calls_one_after_another_add_up() -> None:
    rows = Decoded([[1] * 5, [1] * 7], (Span(0.0, 1.0, 1, 3.0), Span(3.0, 5.0, 2, 6.0)))
    assert rows.first_token_seconds == 1 + 2
    assert (rows.later_tokens, rows.later_seconds) == (4 + 5, 2 + 1)


def test_a_stream_is_followed() -> None:
    method = {"strategy": "…"}
    row = Output("", [1, 2, 3], "length", [0.0] * 3, method, Timing(1.0, 2.0, 1.0), [9])
    speculative = Output(
        "", [1, 2], "length", [0.0] * 2, method, Timing(1.0, 2.0, 1.0), [9], speculation=Speculation(6, 4, 2)
    )
    pieces = [Piece(0, "", [1, 2]), Piece(1, "", [1]), Piece(0, "", [3], row), Piece(1, "", [2], speculative)]
    found = follow(2, lambda: pieces)
    assert found.tokens == [[1, 2, 3], [1, 2]]
    assert found.spans[0].first_tokens == 3
    assert found.spans[0].start <= found.spans[0].first <= found.spans[0].end
    assert acceptance_rate([found]) == 4 / 6


def test_acceptance_is_over_all_rounds() -> None:
    rounds = [Decoded([[1]], (), drafted=10, accepted=1), Decoded([[1]], (), drafted=2, accepted=2)]
    assert acceptance_rate(rounds) == 3 / 12
    assert acceptance_rate([Decoded([[1]], ())]) is None


def test_the_limit_is_what_the_weights_allow() -> None:
    # 10 passes of an expert of 100 bytes and 20 of an amateur of 10, for 10 tokens, at 600 bytes a second.
    read = read_bytes([10, 20], [100, 10])
    assert read == 1200
    assert limits([decoded(0.0, 1.0, 2.0)], [read], [600.0]) == [10 / 2]
    assert limits([decoded(0.0, 1.0, 2.0)], [None], [600.0]) is None
    assert read_bytes([10], [None]) is None
    assert read_bytes([0, 0], [100, 10]) is None  # no pass was seen, so the figure is not known
    assert read_bytes([10, 0], [100, None]) == 1000


def test_how_much_is_the_same() -> None:
    right = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert same_share(right, right) == 1
    assert same_share([[1, 2, 0, 4], [5, 6, 7, 8]], right) == (2 / 4 + 1) / 2
    assert same_share([[1, 2], [5, 0]], right) == (1 + 1 / 2) / 2  # a smaller budget is compared as far as it goes


def test_whom_each_is_compared_with() -> None:
    pairs = [("greedy", "greedy"), ("speculative", "greedy"), ("speculative contrastive", "contrastive")]
    assert [counterpart(*pair) for pair in pairs] == ["greedy", "assisted", "contrastive"]


def test_prompts_fill_the_batches() -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    assert fill(rows, 4, None) == [[1, 2, 3], [4], [5, 6], [1, 2, 3]]
    # Every row ends as its own prompt does; the ones before it stand before it.
    assert fill(rows, 3, 4) == [[6, 1, 2, 3][-4:], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert fill(rows, 1, 2) == [[2, 3]]
    assert fill([[1]], 2, 3) == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 1}, "at least 2 new tokens"),
        ({"rounds": 1}, "at least 2 rounds"),
        ({"draft_tokens": ()}, "no draft length"),
        ({"draft_tokens": (0,)}, "a draft of 0 tokens"),
        ({"draft_tokens": ("auto", 64)}, "a draft of 64 tokens"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(**settings)  # type: ignore[arg-type]
