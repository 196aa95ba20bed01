"""Rows to tokens: the loop and what it asks for each step."""
