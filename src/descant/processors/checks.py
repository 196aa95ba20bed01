"""Checks that the processors' settings share."""

from descant.checks import kept, number, whole

__all__ = ["kept", "number", "token_id", "whole"]


def token_id(name: str, value: object) -> int:
    """Return a token id as an int, or raise."""
    return whole(name, value, 0, "give token ids: whole numbers from 0")
