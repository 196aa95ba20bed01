"""Draw every figure of the guide."""

import argparse
from pathlib import Path

import torch

from descant import Contrastive, Decoder, Likelihood
from docs.figures import beams, certainty, contrast, distributions, speculation
from docs.figures.style import save, styled

GUIDE = Path(__file__).parents[1] / "guide"


def draw_all(folder: Path) -> None:
    """Write every figure to a folder."""
    decoder = Decoder.demo(device="cpu", runner="eager")
    with styled():
        save(certainty.draw(decoder), folder / "certainty.svg")
        save(distributions.draw(decoder), folder / "distributions.svg")
        save(beams.draw(decoder), folder / "beams.svg")
        save(contrast.draw(decoder), folder / "head.svg")
        save(speculation.draw(decoder, "Tell me about Greta Featherbank.", Likelihood()), folder / "speculation.svg")
        drafted = speculation.draw(decoder, contrast.PROMPT, Contrastive(alpha=0.1))
        save(drafted, folder / "speculative-contrastive.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GUIDE, help="folder of the SVG files")
    torch.set_num_threads(1)  # the order of sums, and with it the last digits, depends on threads
    draw_all(parser.parse_args().out)
