"""Arithmetic over `[n, vocab]` that knows no method."""
