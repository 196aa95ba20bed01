"""Worlds whose truth is known, generated from a seed: each makes a corpus to learn from, tasks, and their judge."""
