"""Contrastive decoding for any causal language model: see the README beside this folder."""

import descant


def generate(model, method="contrastive", **arguments):
    """Run `model.generate` with one of descant's methods; every argument of `generate` is handed on."""
    return model.generate(custom_generate=getattr(descant, method), **arguments)
