"""A model without a smaller sibling: each of its layers as its amateur, and as what drafts for it."""

import argparse

from descant import Contrastive, Decoder, EarlyExit, Likelihood, Speculative


def main() -> None:
    """Print the plain answer, and for each layer the contrastive one with the share of its drafts that stood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", nargs="?", default="Who was the first to climb Mount Everest?")
    parser.add_argument("--expert", default="Qwen/Qwen2.5-3B-Instruct", help="hub id or folder")
    parser.add_argument("--every", type=int, default=4, help="try every so many layers")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    if options.every < 1:
        parser.error("--every is below 1; try every layer or fewer")

    decoder = Decoder.from_pretrained(options.expert)
    settings = {"max_new_tokens": options.max_new_tokens, "chat": True}
    plain = decoder.generate(options.prompt, Likelihood(), **settings)[0]
    print(f"plain\t{plain.text!r}")
    layers = decoder.expert.config.get_text_config().num_hidden_layers
    for layer in range(options.every, layers, options.every):
        early = Decoder(decoder.expert, decoder.tokenizer, EarlyExit(layer))
        contrasted = early.generate(options.prompt, Contrastive(alpha=0.1), **settings)[0]
        drafted = early.generate(options.prompt, Likelihood(), strategy=Speculative(), **settings)[0]
        assert drafted.speculation is not None
        rate = drafted.speculation.acceptance_rate or 0
        print(f"layer {layer}\t{contrasted.text!r}\t{rate:.0%} of its drafts stood")


if __name__ == "__main__":
    main()
