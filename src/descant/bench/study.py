"""The whole measurement of one pair: contenders checked, the best draft length found, rounds timed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from descant.bench.clock import Decoded, passes
from descant.bench.contenders import Base, Contender, plain, speculative, theirs
from descant.bench.figures import (
    Draft,
    Figures,
    Missing,
    Settings,
    Study,
    Tokens,
    acceptance_rate,
    counterpart,
    read_bytes,
    same_share,
)
from descant.bench.measure import Spread, in_rounds, ratio
from descant.bench.weights import Reader, weight_bytes
from descant.decoder import Decoder
from descant.errors import DescantError, SettingsError

_TUNING_ROUNDS = 3
"""Rounds that find the best draft length: apart from those reported, or luck would choose."""


@dataclass(frozen=True)
class _Checked:
    """A contender after its first run, which is not timed.

    Attributes
    ----------
    contender, draft_tokens
        Who it is.
    decoded
        What it gave.
    weight_bytes
        Bytes of weights that it read after the first tokens; None if that is not known.
    same_share
        How much of its tokens is right.
    """

    contender: Contender
    decoded: Decoded
    weight_bytes: int | None
    same_share: float
    draft_tokens: Tokens | None = None

    @property
    def key(self) -> str:
        return f"{self.contender.engine} {self.contender.name} {self.draft_tokens}"


class Bench:
    """Measures one pair on some prompts.

    Parameters
    ----------
    decoder
        The models; contrast and speculation need an amateur.
    prompts
        Rows of token ids, decoded as one batch.
    settings
        How much is measured.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], settings: Settings) -> None:
        self.decoder = decoder
        self.settings = settings
        count = settings.max_new_tokens
        self._plain = plain(decoder, prompts, count)
        self._theirs = theirs(decoder, prompts, count, without_cache=settings.without_cache)
        self._drafting: list[tuple[Contender, Tokens]] = []
        if decoder.amateur is not None:
            bases: tuple[Base, ...] = ("greedy", "contrastive")
            self._drafting = [
                (speculative(decoder, prompts, count, base, tokens), tokens)
                for base in bases
                for tokens in settings.draft_tokens
            ]
        self._models = [decoder.expert]
        if isinstance(decoder.amateur, PreTrainedModel):
            self._models.append(decoder.amateur)
        self._right: dict[Base, list[list[int]]] = {}
        self._missing: list[Missing] = []

    @property
    def calls(self) -> int:
        """How often `advance` is called, at most."""
        others = len(self._plain) + len(self._theirs)
        best = len({contender.name for contender, _ in self._drafting})
        tried = len(self._drafting) * (1 + min(_TUNING_ROUNDS, self.settings.rounds))
        return others + tried + (others + best + 1) * self.settings.rounds

    def run(self, advance: Callable[[], None] = lambda: None) -> Study:
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
        ours = [self._first_run(contender, advance) for contender in self._plain]
        drafts, best = self._try_drafts(advance)
        others = [self._checked(contender, advance) for contender in self._theirs]
        checked = [entry for entry in (*ours, *best, *others) if entry is not None]
        reader = Reader(self.decoder.expert.device)
        cases: dict[str, Callable[[], Any]] = {entry.key: entry.contender.run for entry in checked}
        cases["read"] = reader
        timed = in_rounds(cases, rounds=self.settings.rounds, warm_up=0, advance=advance)
        bandwidth = Spread.of(timed.pop("read"))
        figures = tuple(self._figures(entry, checked, timed, bandwidth.median) for entry in checked)
        return Study(bandwidth, figures, tuple(drafts), tuple(self._missing))

    def _try_drafts(self, advance: Callable[[], None]) -> tuple[list[Draft], list[_Checked]]:
        """Time every draft length; return the rates, and the best of each method."""
        tried = [self._checked(contender, advance, tokens) for contender, tokens in self._drafting]
        usable = {entry.key: entry for entry in tried if entry is not None}
        rounds = min(_TUNING_ROUNDS, self.settings.rounds)
        cases = {key: entry.contender.run for key, entry in usable.items()}
        timed = in_rounds(cases, rounds=rounds, warm_up=0, advance=advance)
        drafts: list[Draft] = []
        best: dict[str, tuple[float, _Checked]] = {}
        for key, entry in usable.items():
            rate = Spread.of([decoded.tokens_per_second for decoded in timed[key]])
            name, decoded = entry.contender.name, entry.decoded
            assert entry.draft_tokens is not None
            drafts.append(Draft(name, entry.draft_tokens, rate, acceptance_rate(decoded) or 0.0))
            if name not in best or rate.median > best[name][0]:
                best[name] = rate.median, entry
        return drafts, [entry for _, entry in best.values()]

    def _checked(
        self, contender: Contender, advance: Callable[[], None], tokens: Tokens | None = None
    ) -> _Checked | None:
        """Run a contender once; None, with the reason kept, if it cannot."""
        refusals = (DescantError,) if contender.engine == "descant" else (Exception,)
        try:
            return self._first_run(contender, advance, tokens)
        except refusals as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            name = contender.name if tokens is None else f"{contender.name}, drafts of {tokens}"
            self._missing.append(Missing(contender.engine, name, reason))
            return None

    def _first_run(self, contender: Contender, advance: Callable[[], None], tokens: Tokens | None = None) -> _Checked:
        """Run a contender once: it warms up, its tokens are compared, and its passes counted."""
        with passes(*self._models) as times:
            decoded = contender.run()
        advance()
        if contender in self._plain:
            self._right[contender.base] = decoded.tokens
            if any(len(row) < self.settings.max_new_tokens for row in decoded.tokens):
                raise SettingsError(
                    f"the models' context ends rows before {self.settings.max_new_tokens} new tokens; lower "
                    "max_new_tokens, or shorten the prompts"
                )
        later = [sum(any(s.first < at <= s.end for s in decoded.spans) for at in own) for own in times]
        return _Checked(
            contender,
            decoded,
            read_bytes(later, [weight_bytes(model) for model in self._models]),
            same_share(decoded.tokens, self._right[contender.base]),
            tokens,
        )

    def _figures(
        self,
        entry: _Checked,
        all_checked: Sequence[_Checked],
        timed: Mapping[str, Sequence[Decoded]],
        bandwidth: float,
    ) -> Figures:
        contender, decoded = entry.contender, entry.decoded
        rates = {key: [one.tokens_per_second for one in values] for key, values in timed.items()}
        rate = Spread.of(rates[entry.key])
        limit = bandwidth * decoded.later_tokens / entry.weight_bytes if entry.weight_bytes else None
        same = [entry.same_share, *(same_share(one.tokens, self._right[contender.base]) for one in timed[entry.key])]
        over = partial(_over, entry, {other.contender.name: other for other in all_checked if _is_theirs(other)}, rates)
        return Figures(
            contender.engine,
            contender.name,
            contender.note,
            Spread.of([one.first_token_seconds for one in timed[entry.key]]),
            rate,
            over("greedy"),
            over(counterpart(contender.name, contender.base)),
            limit,
            rate.median / limit if limit else None,
            entry.draft_tokens,
            acceptance_rate(decoded) if entry.draft_tokens is not None else None,
            min(same) == 1,
            min(same),
        )


def _is_theirs(entry: _Checked) -> bool:
    return entry.contender.engine == "transformers"


def _over(
    entry: _Checked, theirs: Mapping[str, _Checked], rates: Mapping[str, Sequence[float]], name: str
) -> Spread | None:
    """Return a contender's rate over that of one of transformers'."""
    return ratio(rates[entry.key], rates[theirs[name].key]) if name in theirs else None
