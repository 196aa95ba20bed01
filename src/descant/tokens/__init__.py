"""Text to tokens and back: encoding, incremental decoding, stop strings, and whether two vocabularies fit."""

from descant.tokens.chat import Message
from descant.tokens.detokenizer import Detokenizer, decode_after
from descant.tokens.respelling import Respelled, Respeller
from descant.tokens.stops import StopMatcher, check_stops
from descant.tokens.text import common_prefix, decode, encode, encode_continuation
from descant.tokens.vocabulary import check_same_vocabulary, same_vocabulary

__all__ = [
    "Detokenizer",
    "Message",
    "Respelled",
    "Respeller",
    "StopMatcher",
    "check_same_vocabulary",
    "check_stops",
    "common_prefix",
    "decode",
    "decode_after",
    "encode",
    "encode_continuation",
    "same_vocabulary",
]
