"""Contrastive decoding of the Qwen2.5 pair: python examples/main.py "Why is the sky blue?" """

import argparse

from descant import Contrastive, Decoder


def main() -> None:
    """Stream the answer to a prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--expert", default="Qwen/Qwen2.5-3B-Instruct", help="hub id or folder")
    parser.add_argument("--amateur", default="Qwen/Qwen2.5-Coder-0.5B-Instruct", help="hub id or folder")
    parser.add_argument("--alpha", type=float, default=0.1, help="how far below its best a token may lie")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()

    decoder = Decoder.from_pretrained(options.expert, amateur=options.amateur)
    scoring = Contrastive(alpha=options.alpha)
    for piece in decoder.stream(options.prompt, scoring, max_new_tokens=options.max_new_tokens, chat=True):
        print(piece.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
