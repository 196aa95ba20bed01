"""Measuring decoding: speed, quality, worlds whose truth is known, and the training of the bundled pair.

Nothing else of descant imports it. What it needs is the extra `lab`.
"""
