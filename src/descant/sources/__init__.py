"""What a method reads beside the expert: one amateur a file."""

from descant.sources.amateur import Amateur, Beside, Prepared
from descant.sources.confident_exit import ConfidentExit
from descant.sources.early_exit import EarlyExit
from descant.sources.ngram import NGram
from descant.sources.other_prompt import OtherPrompt
from descant.sources.other_tokenizer.setting import OtherTokenizer
from descant.sources.window import Window

__all__ = [
    "Amateur",
    "Beside",
    "ConfidentExit",
    "EarlyExit",
    "NGram",
    "OtherPrompt",
    "OtherTokenizer",
    "Prepared",
    "Window",
]
