r"""A model with another tokenizer: what it says of the expert's tokens, byte by byte.

After a text t, a token x of the expert with bytes b(x) is judged by the probability that the text goes on with them,

    P(b(x) | t) = P(r · b(x) | c) / P(r | c),       P(y | c) = Σ_{s ∈ C(y)} P(s | c),

where the model reads the text with its own tokenizer, c are the tokens of that but the last ones, which are reopened,
and r their bytes (with an unfinished character, if there is one): the text's last token may be the beginning of a
longer one, and the covers C (see `models.covers`, with the papers) go over that border. An end-of-sequence token is
judged by the probability that the text ends: Σ over the spellings of r, each followed by any of the model's
end-of-sequence ids.

*Exact*, up to `tolerance`: the sums, over every tokenization of r and b(x). *Approximate*: the tokens before them are
the tokenizer's own; other tokenizations of the text before would be exponentially many, and are improbable to a model
that never met them. Reopening more tokens comes nearer to the sum over all. Where `budget` cuts a sum, it is a lower
bound.

A token by itself is at most as probable as its bytes, which longer tokens cover as well. So with one and the same
tokenizer this is not the model's distribution over tokens: there descant compares token with token, and no bytes.

Cost: for each position one pass over the new tokens, and a few over the paths (see `models.covers`), all rows together.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from descant.errors import DecodingError, PromptError
from descant.models import LanguageModel
from descant.models.base import ByteSource
from descant.sources.other_tokenizer.covers import Covering, Path, Target
from descant.sources.other_tokenizer.prefixes import PrefixIndex
from descant.sources.sources import read_model
from descant.tokens import Respelled, Respeller, common_prefix
from descant.types import Candidates, Logits

_PASS_ROWS = 64
"""Paths read in one pass: bounds its logits and its copies of keys and values."""


class Tables:
    """What a bridge looks up; made once for a pair of tokenizers.

    Parameters
    ----------
    respeller
        From the expert's tokens to the model's.
    own_width, width
        Of the expert's logits and of the model's: tokens beyond are none.
    device
        Where the model's logits are.
    """

    def __init__(
        self,
        respeller: Respeller,
        own_width: int,
        width: int,
        device: torch.device,
    ) -> None:
        self.respeller = respeller
        self.own_width = own_width
        self.index = PrefixIndex(respeller.other.spelled[:width], device)

    @cached_property
    def own_index(self) -> PrefixIndex:
        """The expert's vocabulary."""
        return PrefixIndex(self.respeller.own.spelled[: self.own_width], torch.device("cpu"))


class Bridge(ByteSource):
    """Rows of text as a model with another tokenizer has read them.

    When a text's last tokens change as it grows, the row is rolled back to where they are still the same.

    Parameters
    ----------
    model
        The model, without rows; it can be rolled back.
    tables
        Of the two tokenizers.
    ends
        For tokens of the expert that are no text, what they are to the model: end-of-sequence ids, a special token.
    reopen, tolerance, budget
        As `OtherTokenizer` has them.
    """

    def __init__(
        self,
        model: LanguageModel,
        tables: Tables,
        ends: Mapping[int, tuple[int, ...]],
        *,
        reopen: int,
        tolerance: float,
        budget: int | None,
    ) -> None:
        self.model = model
        self._tables = tables
        self._ends = ends
        self._respeller = tables.respeller
        self._reopen = reopen
        self._tolerance = tolerance
        self._budget = budget
        self._rows: list[list[int]] = []

    def add_rows(self, count: int) -> None:
        self._rows.extend([] for _ in range(count))
        self.model.add_rows(count)

    def keep_rows(self, rows: Sequence[int]) -> None:
        self._rows = [list(self._rows[row]) for row in rows]
        self.model.keep_rows(rows)

    def reserve(self, rows: int, length: int, beside: Sequence[LanguageModel] = ()) -> None:
        self.model.reserve(rows, length, beside)

    def judge(
        self,
        texts: Sequence[Sequence[int]],
        asked: Sequence[int],
        expert: Logits,
        candidates: Candidates,
    ) -> Logits:
        judged = expert.log_softmax(-1)
        if not bool(candidates.any()):
            return judged
        read = [self._respell(text) for text in texts]
        reopened = [self._reopened(text.tokens) for text in read]
        after = self._read([text.tokens for text in read], reopened)
        walks: list[tuple[int, Covering]] = []
        wanted: list[tuple[int, dict[int, Target]]] = []
        for place, row in enumerate(asked):
            ids = candidates[place].nonzero()[:, 0].tolist()
            if not ids:
                continue
            last = tuple(read[row].tokens[len(read[row].tokens) - reopened[row] :])
            targets = self._targets(read[row], last, ids)
            covering = Covering(self._tables.index, list(targets.values()), self._tolerance, self._budget)
            for length in range(len(last) + 1):
                covering.learn(last[:length], after[row, after.shape[1] - 1 - len(last) + length])
            walks.append((row, covering))
            wanted.append((place, targets))
        self._walk(walks, [len(text.tokens) - count for text, count in zip(read, reopened, strict=True)])
        for place, targets in wanted:
            for token_id, logprob in _given_context(targets).items():
                judged[place, token_id] = logprob
        return judged

    def draft(self, texts: Sequence[Sequence[int]], most: Sequence[int], confidence: float) -> list[list[int]]:
        read = [self._respeller.respell(text) for text in texts]
        fits = [len(text.tokens) > 0 and self._fits(len(text.tokens)) and self._knows(text.tokens) for text in read]
        # A text that the model cannot read is none to it, and gets no draft.
        tokens = [text.tokens if fit else [0] for text, fit in zip(read, fits, strict=True)]
        logprobs = self._read(tokens, [0] * len(read))[:, -1]
        drafts: list[list[int]] = [[] for _ in texts]
        going = {row for row, text in enumerate(read) if most[row] and fits[row] and not text.partial}
        ends = {token_id for ids in self._ends.values() for token_id in ids}
        for _ in range(max(most)):
            best = logprobs.max(-1)
            for row, (logprob, token_id) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                if row not in going:
                    continue
                if token_id in ends or not self._respeller.other[token_id]:
                    going.discard(row)
                    continue
                drafts[row].append(token_id)
                if len(drafts[row]) == most[row] or not math.exp(logprob) >= confidence:
                    going.discard(row)
            if not going or not all(self._fits(length + 1) for length in self.model.lengths):
                break
            # All rows go on, whether they draft or not: what they should not have read is forgotten at the next text.
            new = best.indices[:, None].tolist()
            self._rows = [[*row, *added] for row, added in zip(self._rows, new, strict=True)]
            logprobs = _log_softmax(self.model.forward(new))[:, -1]
        return [
            self._respell_draft(text, there, draft)[:limit] if draft else []
            for text, there, draft, limit in zip(texts, read, drafts, most, strict=True)
        ]

    def _respell(self, text: Sequence[int]) -> Respelled:
        read = self._respeller.respell(text)
        if not read.tokens:
            raise PromptError(
                "a prompt has no text for the model with the other tokenizer, and that has no special token to begin "
                "with; give some text"
            )
        if not self._fits(len(read.tokens)):
            raise DecodingError(
                f"a text is {len(read.tokens)} tokens long to the model with the other tokenizer, whose context is "
                f"{self.model.context}; lower max_new_tokens, or choose a model with a longer context"
            )
        if not self._knows(read.tokens):
            raise DecodingError(
                f"a text has token {max(read.tokens)} to the model with the other tokenizer, which knows "
                f"{self.model.width}; call model.resize_token_embeddings(len(tokenizer)) on it, or leave that token out"
            )
        return read

    def _knows(self, tokens: Sequence[int]) -> bool:
        """Tell whether the model has all these tokens: its tokenizer may have had more added."""
        return max(tokens) < self.model.width

    def _fits(self, length: int) -> bool:
        return self.model.context is None or length <= self.model.context

    def _reopened(self, tokens: Sequence[int]) -> int:
        """Return how many last tokens of a text are reopened: those that are text, but never the first."""
        most = min(self._reopen, len(tokens) - 1)
        other = self._respeller.other
        return next((count for count in range(most) if not other[tokens[-1 - count]]), most)

    def _read(self, texts: list[list[int]], reopened: Sequence[int]) -> Float[Tensor, "rows last vocab"]:
        """Bring all rows to the ends of texts; return log-probabilities before and after each reopened token."""
        pairs = zip(self._rows, texts, reopened, strict=True)
        starts = [min(common_prefix(held, text), len(text) - count - 1) for held, text, count in pairs]
        self.model.truncate(starts)
        self._rows = [list(text) for text in texts]
        return _log_softmax(read_model(self.model, texts, max(reopened) + 1))

    def _targets(self, text: Respelled, last: Sequence[int], ids: Sequence[int]) -> dict[int, Target]:
        """Return what is asked about tokens, after the bytes of the last tokens of a text, and about those bytes."""
        tail = self._respeller.other.join(last) + text.pending
        targets = {_CONTEXT: Target(tail)}
        for token_id in ids:
            if token_id in self._ends:
                targets[token_id] = Target(tail, self._ends[token_id])
                continue
            data = self._respeller.following(text, token_id)
            if data is not None:
                targets[token_id] = Target(tail + data)
        return targets

    def _walk(self, walks: Sequence[tuple[int, Covering]], starts: Sequence[int]) -> None:
        """Read what walks ask for, until they end; row i's paths go on from its first `starts[i]` tokens."""
        while True:
            asked = [(row, walk, path, known) for row, walk in walks for path, known in walk.wanted()]
            if not asked:
                return
            for first in range(0, len(asked), _PASS_ROWS):
                part = asked[first : first + _PASS_ROWS]
                after = self._read_paths([(row, path) for row, _, path, _ in part], starts)
                for (_, walk, path, known), logprobs in zip(part, after, strict=True):
                    for length in range(known, len(path) + 1):
                        walk.learn(path[:length], logprobs[len(logprobs) - 1 - len(path) + length])

    def _read_paths(
        self, paths: Sequence[tuple[int, Path]], starts: Sequence[int]
    ) -> Float[Tensor, "paths longest vocab"]:
        """Return the log-probabilities after each token of paths that branch off from rows; the last at the end."""
        if not all(self._fits(starts[row] + len(path)) for row, path in paths):
            raise DecodingError(
                f"a text reached the context of {self.model.context} tokens of the model with the other tokenizer; "
                "lower max_new_tokens, or choose a model with a longer context"
            )
        rows, lengths = range(len(self._rows)), list(self.model.lengths)
        self.model.keep_rows([*rows, *(row for row, _ in paths)])
        self.model.truncate([*lengths, *(starts[row] for row, _ in paths)])
        longest = max(len(path) for _, path in paths)
        logits = self.model.forward([list(path) for _, path in paths], keep=longest, first_row=len(rows))
        self.model.keep_rows(rows)
        return _log_softmax(logits)

    def _respell_draft(self, text: Sequence[int], read: Respelled, drafted: Sequence[int]) -> list[int]:
        """Return what a model drafted in the expert's tokens."""
        data = self._respeller.other.join(drafted)
        if read.pending:  # a space that is there already
            data = data.removeprefix(b" ")
        ids = self._respeller.back(text, data)
        if ids is not None and max(ids, default=0) < self._tables.own_width:
            return ids
        ids = []
        while data and (match := self._tables.own_index.longest_match(data)) is not None:
            ids.append(match[0])
            data = data[len(match[1]) :]
        return ids


_CONTEXT = -1
"""Stands among the expert's tokens for the end of the text by itself."""


def _given_context(targets: Mapping[int, Target]) -> dict[int, float]:
    """Return the conditional log-probability of each token; none for those that the model cannot spell."""
    context = targets[_CONTEXT].found
    return {
        token_id: target.found - context
        for token_id, target in targets.items()
        if token_id != _CONTEXT and -math.inf not in (target.found, context)
    }


def _log_softmax(logits: Float[Tensor, "*positions vocab"]) -> Float[Tensor, "*positions vocab"]:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
