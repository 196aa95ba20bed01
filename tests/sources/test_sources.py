"""How unread text is cut into passes, and that the cut changes nothing."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import architectures
from descant import Decoder, EarlyExit, Likelihood
from descant.models import inspect_model, open_model
from descant.sources import sources
from descant.sources.early_exit import make_exit
from descant.sources.window import WindowModel

MODEL = architectures.build("qwen2 windowed")


class Held(WindowModel):
    """A model that holds rows of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(inspect_model(MODEL), 1)
        self._rows = [[0] * length for length in lengths]


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=8),
    keep=st.integers(1, 12),
    row_tokens=st.integers(1, 16),
    pass_tokens=st.integers(1, 64),
)
def test_passes_cover_every_unread_token_once(
    rows: list[tuple[int, int]], keep: int, row_tokens: int, pass_tokens: int
) -> None:
    texts = [list(range(held + new)) for held, new in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_ROW_TOKENS", row_tokens)
        patch.setattr(sources, "_PASS_TOKENS", pass_tokens)
        passes = list(sources._unread(Held([held for held, _ in rows]), texts, keep))
    read = [list(text[:held]) for text, (held, _) in zip(texts, rows, strict=True)]
    wanted = []
    for part in passes:
        widest = max(len(tokens) for tokens in part.tokens)
        assert len(part.tokens) == 1 or widest * len(part.tokens) <= pass_tokens
        assert widest <= max(row_tokens, keep) + row_tokens
        for row, tokens in enumerate(part.tokens, start=part.first_row):
            assert tokens, "a pass gives every one of its rows a token"
            read[row] += tokens
            if part.wanted:
                wanted.append(row)
                assert len(tokens) >= min(keep, rows[row][1])
    assert read == texts
    assert wanted == list(range(len(rows)))


@pytest.mark.parametrize("exit_layer", [None, 2])
@torch.inference_mode()
def test_reading_in_parts_changes_no_logits(exit_layer: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = inspect_model(MODEL)
    texts = [list(range(2, 2 + length)) for length in (30, 3, 17, 1)]

    def read(keep: int) -> dict[str, torch.Tensor]:
        amateur = make_exit(seen, exit_layer, norm=True) if exit_layer else open_model(seen)
        opened = sources.Sources(open_model(seen), {"amateur": amateur}, seen.width)
        opened.add_rows(4)
        return dict(opened.read(("expert", "amateur"), texts, keep))

    whole = {keep: read(keep) for keep in (1, 3)}
    monkeypatch.setattr(sources, "_ROW_TOKENS", 4)
    monkeypatch.setattr(sources, "_PASS_TOKENS", 8)
    for keep, expected in whole.items():
        for name, logits in read(keep).items():
            for row, text in enumerate(texts):
                real = min(keep, len(text))
                torch.testing.assert_close(logits[row, -real:], expected[name][row, -real:])


def test_threads_may_decode_with_the_same_model() -> None:
    """Prefills and early exits work through hooks on shared modules, which must not see each other's passes."""
    plain, early = Decoder(MODEL), Decoder(MODEL, amateur=EarlyExit(1))
    prompts = [[5, 6, 7], [9], list(range(20, 33))]
    expected = [
        plain.generate(prompts, Likelihood(), max_new_tokens=6), early.generate(prompts, max_new_tokens=6)
    ]  # fmt: skip
    results: dict[int, list[bool]] = {}

    def work(number: int) -> None:
        decoder = (plain, early)[number % 2]
        same = []
        for _ in range(10):
            outs = decoder.generate(prompts, Likelihood() if number % 2 == 0 else None, max_new_tokens=6)
            same.append([o.token_ids for o in outs] == [o.token_ids for o in expected[number % 2]])
        results[number] = same

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [True] * 10 for number in range(4)}
