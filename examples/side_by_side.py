"""A haiku and a docstring by amateur, expert, and contrastive decoding of the two, side by side."""

import argparse

from rich.console import Console
from rich.table import Table
from rich.text import Text

from descant import Contrastive, Decoder, Likelihood

HAIKU = "Write a haiku about rain. Answer with the haiku alone."
DOCSTRING = """Write the docstring of this function. Answer with the docstring alone.

def rotate(items: list[int], by: int) -> list[int]:
    by %= len(items) or 1
    return items[by:] + items[:by]
"""


def main() -> None:
    """Print one table a prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expert", default="Qwen/Qwen2.5-3B-Instruct", help="hub id or folder")
    parser.add_argument("--amateur", default="Qwen/Qwen2.5-Coder-0.5B-Instruct", help="hub id or folder")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options = parser.parse_args()

    decoder = Decoder.from_pretrained(options.expert, amateur=options.amateur)
    amateur = Decoder(decoder.amateur, decoder.tokenizer)
    for prompt in (HAIKU, DOCSTRING):
        settings = {"max_new_tokens": options.max_new_tokens, "chat": True}
        outputs = {
            "amateur": amateur.generate(prompt, **settings)[0],
            "expert": decoder.generate(prompt, Likelihood(), **settings)[0],
            "contrastive": decoder.generate(prompt, Contrastive(alpha=0.1), **settings)[0],
        }
        table = Table(*outputs, title=Text(prompt.splitlines()[0]))
        table.add_row(*(Text(output.text) for output in outputs.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
