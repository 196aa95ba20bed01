"""Amateurs with another tokenizer, read in bytes."""
