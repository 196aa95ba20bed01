"""The whole measurement of one pair: contenders checked, the best draft length found, rounds timed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.errors import DescantError, SettingsError
from descant.lab.bench.clock import Decoded, passes
from descant.lab.bench.contenders import Base, Contender, Rows, plain, speculative, theirs
from descant.lab.bench.figures import (
    Draft,
    Figures,
    Measurements,
    Missing,
    Settings,
    Tokens,
    acceptance_rate,
    counterpart,
    limits,
    read_bytes,
    same_share,
)
from descant.lab.bench.measure import Spread, in_rounds, ratio
from descant.lab.bench.weights import Reader, weight_bytes
from descant.sources.amateur import Amateur

_TUNING_ROUNDS = 3
"""Rounds that find the best draft length: apart from those reported, or luck would choose."""


@dataclass(frozen=True)
class _Entry:
    """A contender that can run, and its draft length if it speculates."""

    contender: Contender
    draft_tokens: Tokens | None = None

    @property
    def key(self) -> str:
        return f"{self.contender.engine} {self.contender.name} {self.draft_tokens}"


@dataclass(frozen=True)
class _Timed:
    """One round of a contender: its decode, and the bytes of weights read after the first tokens, if known."""

    decoded: Decoded
    read: int | None


class Bench:
    """Measures one pair on some prompts.

    Parameters
    ----------
    decoder
        The models; contrast and speculation need an amateur.
    batches
        For every round rows of token ids, decoded together.
    settings
        How much is measured.
    """

    def __init__(self, decoder: Decoder, batches: Sequence[Rows], settings: Settings) -> None:
        self.settings = settings
        self._batches = batches
        self._device = decoder.expert.device
        count = settings.max_new_tokens
        self._plain = [_Entry(contender) for contender in plain(decoder, count)]
        self._theirs = [_Entry(contender) for contender in theirs(decoder, count, without_cache=settings.without_cache)]
        bases: tuple[Base, ...] = ("greedy", "contrastive") if decoder.amateur is not None else ()
        self._drafting = [
            _Entry(speculative(decoder, count, base, tokens), tokens)
            for base in bases
            for tokens in settings.draft_tokens
        ]
        other = decoder.amateur.reads if isinstance(decoder.amateur, Amateur) else decoder.amateur
        self._models = [decoder.expert]
        if isinstance(other, PreTrainedModel) and other is not decoder.expert:
            self._models.append(other)
        self._weights = [weight_bytes(model) for model in self._models]
        self._missing: list[Missing] = []

    @property
    def calls(self) -> int:
        """How often `advance` is called, at most."""
        others = len(self._plain) + len(self._theirs)
        best = len({entry.contender.name for entry in self._drafting})
        tried = len(self._drafting) * (1 + min(_TUNING_ROUNDS, self.settings.rounds))
        return others + tried + (others + best + 1) * self.settings.rounds

    def run(self, advance: Callable[[], None] = lambda: None) -> Measurements:
        """Measure everything.

        Parameters
        ----------
        advance
            Called after every decode.

        Raises
        ------
        SettingsError
            If the models' context ends rows early.
        DescantError
            If plain decoding fails; what else fails is reported as missing.
        """
        for entry in self._plain:
            self._check_length(entry.contender.run(self._batches[0]))
            advance()
        drafts, best = self._try_drafts([entry for entry in self._drafting if self._can_run(entry, advance)], advance)
        entries = [*self._plain, *best, *(entry for entry in self._theirs if self._can_run(entry, advance))]
        cases = self._cases(entries)
        cases["read"] = Reader(self._device)
        timed = in_rounds(cases, rounds=self.settings.rounds, warm_up=0, advance=advance)
        bandwidths = timed.pop("read")
        figures = tuple(self._figures(entry, entries, timed, bandwidths) for entry in entries)
        return Measurements(Spread.of(bandwidths), figures, tuple(drafts), tuple(self._missing))

    def _check_length(self, decoded: Decoded) -> None:
        if any(len(row) < self.settings.max_new_tokens for row in decoded.tokens):
            raise SettingsError(
                f"the models' context ends rows before {self.settings.max_new_tokens} new tokens; lower "
                "max_new_tokens, or shorten the prompts"
            )

    def _can_run(self, entry: _Entry, advance: Callable[[], None]) -> bool:
        """Run a contender once, which warms it up, and keep the reason if it cannot."""
        contender = entry.contender
        refusals = (DescantError,) if contender.engine == "descant" else (Exception,)
        try:
            contender.run(self._batches[0])
        except refusals as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            missing = Missing(contender.engine, contender.name, reason)
            if missing not in self._missing:  # once for all draft lengths
                self._missing.append(missing)
            return False
        advance()
        return True

    def _try_drafts(self, entries: Sequence[_Entry], advance: Callable[[], None]) -> tuple[list[Draft], list[_Entry]]:
        """Time every draft length; return the rates, and the best of each method."""
        rounds = min(_TUNING_ROUNDS, self.settings.rounds)
        timed = in_rounds(self._cases(entries), rounds=rounds, warm_up=0, advance=advance)
        drafts: list[Draft] = []
        best: dict[str, tuple[float, _Entry]] = {}
        for entry in entries:
            decodes = [one.decoded for one in timed[entry.key]]
            rate, name = Spread.of([decoded.tokens_per_second for decoded in decodes]), entry.contender.name
            assert entry.draft_tokens is not None
            drafts.append(Draft(name, entry.draft_tokens, rate, acceptance_rate(decodes)))
            if name not in best or rate.median > best[name][0]:
                best[name] = rate.median, entry
        return drafts, [entry for _, entry in best.values()]

    def _cases(self, entries: Sequence[_Entry]) -> dict[str, Callable[[int], Any]]:
        def case(contender: Contender) -> Callable[[int], _Timed]:
            return lambda number: self._time(contender, number)

        return {entry.key: case(entry.contender) for entry in entries}

    def _time(self, contender: Contender, number: int) -> _Timed:
        with passes(*self._models) as times:
            decoded = contender.run(self._batches[number])
        later = [sum(any(span.first < at <= span.end for span in decoded.spans) for at in own) for own in times]
        return _Timed(decoded, read_bytes(later, self._weights) if contender.counted else None)

    def _figures(
        self,
        entry: _Entry,
        entries: Sequence[_Entry],
        timed: Mapping[str, Sequence[_Timed]],
        bandwidths: Sequence[float],
    ) -> Figures:
        contender, own = entry.contender, timed[entry.key]
        decodes = [one.decoded for one in own]
        rates = _rates(own)
        theirs = {other.contender.name: _rates(timed[other.key]) for other in entries if other in self._theirs}
        bound = limits(decodes, [one.read for one in own], bandwidths)
        right = next(timed[other.key] for other in self._plain if other.contender.base == contender.base)
        same = [same_share(one.decoded.tokens, plain.decoded.tokens) for one, plain in zip(own, right, strict=True)]

        def over(name: str) -> Spread | None:
            return ratio(rates, theirs[name]) if name in theirs else None

        return Figures(
            contender.engine,
            contender.name,
            contender.note,
            Spread.of([decoded.first_token_seconds for decoded in decodes]),
            Spread.of(rates),
            over("greedy"),
            over(counterpart(contender.name, contender.base)),
            Spread.of(bound) if bound else None,
            ratio(rates, bound) if bound else None,
            entry.draft_tokens,
            acceptance_rate(decodes),
            min(same) == 1,
            sum(same) / len(same),
        )


def _rates(rounds: Sequence[_Timed]) -> list[float]:
    return [one.decoded.tokens_per_second for one in rounds]
