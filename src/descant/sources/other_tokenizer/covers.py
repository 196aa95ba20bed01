r"""The probability under a tokenized model that text goes on with given bytes: a sum over their covers.

A token string *covers* bytes y if its own bytes begin with y, and those of its tokens but the last do not; C(y) are the
covers of y. They are disjoint, and every continuation that begins with y begins with one of them, so

    P(y | c) = Σ_{s ∈ C(y)} P(s | c)

is exact for a model that reads the context as the tokens c (Vieira et al. 2024, "From Language Models over Tokens to
Language Models over Characters", arXiv 2412.03719: the covering; Phan et al. 2024, "Exact Byte-Level Probabilities from
Tokenized Language Models", arXiv 2410.09303: cover encodings). All tokens of a cover but the last spell a proper prefix
of y; summing over the last is one sum over neighbours in the sorted vocabulary. So the sum is a walk over the *paths*:
token strings that spell proper prefixes of y, each of which takes one position of a forward pass.

There may be exponentially many paths, nearly all of them improbable. What covers lie beyond a path is at most its own
probability, so the walk ends when that of all paths left, together, is at most `tolerance` times what was found:
what is found is then between P and P / (1 + tolerance).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from descant.sources.other_tokenizer.prefixes import PrefixIndex

Path = tuple[int, ...]


@dataclass
class Target:
    """Bytes whose probability is wanted.

    Attributes
    ----------
    data
        The bytes.
    ends
        If not None, the text must end after them, with one of these tokens: no covers, but exact spellings.
    found
        Log-probability found so far.
    """

    data: bytes
    ends: tuple[int, ...] | None = None
    found: float = -math.inf

    def passes(self, spelled: bytes) -> bool:
        """Tell whether a path that spells these bytes leads on to the target."""
        most = len(self.data) + (self.ends is not None)
        return len(spelled) < most and self.data.startswith(spelled)


class Covering:
    """One context's walk over the paths of several targets.

    Parameters
    ----------
    index
        The model's vocabulary.
    targets
        What is wanted; `found` is filled in.
    tolerance
        See `OtherTokenizer`; 0 walks all paths.
    budget
        How many paths are asked for at most, beyond which a target is still pursued by one path at a time until
        something is found for it.
    """

    def __init__(self, index: PrefixIndex, targets: Sequence[Target], tolerance: float, budget: int | None) -> None:
        self.targets = targets
        self.asked = 0
        self._index = index
        self._tolerance = tolerance
        self._budget = math.inf if budget is None else budget
        self._live: dict[Path, tuple[float, bytes]] = {(): (0.0, b"")}
        self._known: dict[Path, Float[Tensor, " vocab"]] = {}
        for target in targets:
            if not target.data and target.ends is None:
                target.found = 0.0  # covered by nothing

    def learn(self, path: Path, logprobs: Float[Tensor, " vocab"]) -> None:
        """Take the log-probabilities of the token that follows a path."""
        self._known[path] = logprobs

    def wanted(self) -> list[tuple[Path, int]]:
        """Walk as far as is known, and ask for what is not.

        Returns
        -------
        Paths, each with a number n: log-probabilities are wanted after its first n tokens, n + 1 and so on to all.
        None at the end of the walk.
        """
        while ready := [path for path in self._live if path in self._known]:
            for path in ready:
                self._walk(path)
        paths: dict[Path, None] = {}
        for target in self.targets:
            paths |= dict.fromkeys(self._open(target))
        if self.asked + len(paths) > self._budget:
            room = max(0, int(self._budget) - self.asked)
            best = sorted(paths, key=lambda path: -self._live[path][0])[:room]
            paths = dict.fromkeys(best)
            for target in self.targets:
                if target.found == -math.inf and not any(target.passes(self._live[path][1]) for path in paths):
                    longest = max(self._open(target), key=lambda path: len(self._live[path][1]), default=None)
                    paths |= {} if longest is None else {longest: None}
        self.asked += len(paths)
        return [(self._extend(path), len(path)) for path in paths]

    def _walk(self, path: Path) -> None:
        """Add the covers that a path leads to, and go on to the paths that are longer by a token."""
        logprob, spelled = self._live.pop(path)
        following = self._known.pop(path)
        lengths: dict[bytes, None] = {}
        for target in self.targets:
            if not target.passes(spelled):
                continue
            left = target.data[len(spelled) :]
            if left and target.ends is None:
                mass = self._index.log_mass(following, left)
            elif not left:
                mass = float(following[list(target.ends or ())].double().logsumexp(0))
            else:
                mass = -math.inf
            target.found = _add(target.found, logprob + mass)
            longest = len(left) if target.ends is not None else len(left) - 1
            lengths |= dict.fromkeys(left[:length] for length in range(1, longest + 1))
        for data in lengths:
            for token_id in self._index.ids(data):
                self._live[(*path, token_id)] = logprob + float(following[token_id]), spelled + data

    def _open(self, target: Target) -> list[Path]:
        """Return the paths that a target still needs: the most probable, so that the rest is negligible."""
        paths = [path for path, (_, spelled) in self._live.items() if target.passes(spelled)]
        paths.sort(key=lambda path: self._live[path][0])
        left = -math.inf
        least = target.found + math.log(self._tolerance) if self._tolerance else -math.inf
        for place, path in enumerate(paths):
            left = _add(left, self._live[path][0])
            if left > least:
                return paths[place:][::-1]
        return []

    def _extend(self, path: Path) -> Path:
        """Go on with the longest tokens that lead to the longest target: they come almost free in the same pass."""
        _, spelled = self._live[path]
        goal = max((target.data for target in self.targets if target.passes(spelled)), key=len)
        while (match := self._index.longest_match(goal[len(spelled) :])) is not None:
            token_id, data = match
            spelled += data
            if len(spelled) == len(goal):
                break
            path = (*path, token_id)
        return path


def _add(first: float, second: float) -> float:
    """Return `log(exp(first) + exp(second))`."""
    if math.isnan(first) or math.isnan(second):
        return math.nan
    high, low = max(first, second), min(first, second)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
