"""The sources' logits at the positions of one step: after each row's text, and after each token drafted for it."""

from collections.abc import Sequence

from descant.drafting import Drafts
from descant.models.sources import Sources
from descant.rows import Row
from descant.types import Logits


class Reading:
    """What the sources say after a step's texts, read when it is first asked for.

    The expert reads texts and drafts in one pass, and so do other sources, but for the one that drafted: its logits
    are known up to its last draft, and it reads that when every draft has been judged.

    Parameters
    ----------
    sources
        The models. Each has at least the last token of every row left to read.
    rows
        The active rows, before the step.
    drafts
        What was drafted for them.
    """

    def __init__(self, sources: Sources, rows: Sequence[Row], drafts: Drafts) -> None:
        self._sources = sources
        self._rows = rows
        self._drafts = drafts
        self._keep = drafts.longest + 1
        pairs = zip(rows, drafts.tokens, strict=True)
        self._texts = [[*row.tokens, *draft] if draft else row.tokens for row, draft in pairs]
        self._blocks: dict[str, Logits] = {}  # [rows, keep, vocab], the last position of a row at the end

    def at_drafts(self, name: str) -> Logits:
        """Return logits `[n, vocab]` of a source where the drafted tokens stand, row by row."""
        if name == self._drafts.source:
            assert self._drafts.logits is not None
            return self._drafts.at_positions(self._drafts.logits)
        block = self._block(name)
        if len(self._rows) == 1:
            return block[0, :-1]
        rows, places = self._drafts.positions
        first = [self._keep - 1 - len(draft) for draft in self._drafts.tokens]
        return block[rows, [first[row] + place for row, place in zip(rows, places, strict=True)]]

    def at_ends(self, name: str, rows: Sequence[int]) -> Logits:
        """Return logits `[n, vocab]` of a source after all drafts of some rows, which were accepted."""
        if name == self._drafts.source and name not in self._blocks:
            # All rows read: those whose draft was rejected, the token that replaced it.
            self._sources.rewind([len(row.tokens) - 1 for row in self._rows])
            texts = [row.tokens for row in self._rows]
            self._blocks[name] = self._sources.read((name,), texts)[name]
        ends = self._block(name)[:, -1]
        return ends if len(rows) == len(ends) else ends[list(rows)]

    def _block(self, name: str) -> Logits:
        if name not in self._blocks:
            self._blocks[name] = self._sources.read((name,), self._texts, self._keep)[name]
        return self._blocks[name]
