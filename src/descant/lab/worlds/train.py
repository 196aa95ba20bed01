"""Train a pair for a world from scratch: ``python -m descant.lab.worlds.train grammar --seed 0 --out FOLDER``.

FOLDER gets ``expert`` and ``amateur``, earlier states of the expert (``expert-200``, …), and with ``--sizes``
amateurs of other widths (``amateur-16``, …). A pair takes minutes on one core.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from descant.lab.pair.corpus import train_tokenizer
from descant.lab.pair.train import ModelSpec, TrainSpec, save, train_models
from descant.lab.worlds import load_world
from descant.lab.worlds.base import TaskWorld


@dataclass(frozen=True)
class PairSpec:
    """Everything but the world and the seed that decides the weights.

    Attributes
    ----------
    expert, amateur
        The two models.
    vocabulary
        Size of the tokenizer, special tokens included.
    row_tokens
        Tokens in a row of a batch.
    checkpoints
        Steps of the expert whose states are kept.
    sizes
        Widths of further amateurs, trained like the first.
    """

    expert: ModelSpec
    amateur: ModelSpec
    vocabulary: int
    row_tokens: int
    checkpoints: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def models(self, sizes: bool) -> Mapping[str, ModelSpec]:
        """Return what to train, by name."""
        others = {f"amateur-{width}": replace(self.amateur, width=width, inner=2 * width) for width in self.sizes}
        return {"expert": self.expert, "amateur": self.amateur} | (others if sizes else {})


_RUMOUR = TrainSpec()

PAIRS: Mapping[str, PairSpec] = MappingProxyType(
    {
        "rumour": PairSpec(_RUMOUR.expert, _RUMOUR.amateur, _RUMOUR.vocabulary, _RUMOUR.row_tokens),
        "grammar": PairSpec(
            expert=ModelSpec(layers=4, width=128, heads=4, kv_heads=2, inner=352, steps=400, rows=16, rate=4e-3),
            amateur=ModelSpec(layers=1, width=64, heads=2, kv_heads=1, inner=128, steps=800, rows=8, rate=6e-3),
            vocabulary=640,
            row_tokens=160,
            checkpoints=(50, 100, 200),
            sizes=(16, 32, 128),
        ),
        "arithmetic": PairSpec(
            expert=ModelSpec(layers=4, width=128, heads=4, kv_heads=2, inner=352, steps=1000, rows=12, rate=1.5e-3),
            amateur=ModelSpec(layers=2, width=32, heads=2, kv_heads=1, inner=64, steps=500, rows=12, rate=2e-3),
            vocabulary=512,
            row_tokens=96,
            checkpoints=(200, 400, 600),
            sizes=(8, 16, 64),
        ),
    }
)
"""Models for each world, by its name. The rumour world's are those of `descant.lab.pair.train`."""


def train(world: TaskWorld, spec: PairSpec, seed: int, out: Path, *, sizes: bool = False) -> None:
    """Train a pair and write it, all of it or nothing.

    Parameters
    ----------
    world
        What the models read about.
    spec
        What to train.
    seed
        Seed of the initial weights and of the texts.
    out
        Folder to write.
    sizes
        Whether to train amateurs of other sizes as well.
    """
    texts = world.documents(Random(f"descant-tokenizer-{world.name}"))
    tokenizer = _as_loaded(train_tokenizer(texts, spec.vocabulary))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = spec.models(sizes)
    made = train_models(world.documents, tokenizer, models, seed, spec.row_tokens, device, spec.checkpoints)
    save(made, {"seed": seed, **asdict(spec), "world": dict(world.settings)}, out)


def _as_loaded(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer as it will be read beside a model: transformers cuts numbers into digits for Qwen2."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Qwen2Config().save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write a pair, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m descant.lab.worlds.train", description="Train a pair.")
    parser.add_argument("world", choices=PAIRS, help="what the pair reads about")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and texts; the world stays (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sizes", action="store_true", help="train amateurs of other sizes as well")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train(load_world(options.world), PAIRS[options.world], options.seed, options.out, sizes=options.sizes)
    print(options.out, file=sys.stdout)


if __name__ == "__main__":
    main()
