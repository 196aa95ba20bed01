"""What is in a checkpoint's folder, read before anything is loaded.

transformers fills what is missing: weights with random numbers, a tokenizer without its file with an empty
one, an unreadable generation config with defaults. Each would decode to nonsense without a word, so all are
looked for here.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from descant.errors import LoadError, first_line

_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where weights may be, in the order in which transformers looks for them."""

_VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)

_READERS = {
    ".model": ("sentencepiece", "protobuf"),
    ".tiktoken": ("tiktoken",),
    "tekken.json": ("mistral-common",),
}
"""What reads the vocabularies that are not tokenizers' own, by the ends of their names. Without it transformers takes
one of SentencePiece for one of tiktoken, and says so."""


@dataclass(frozen=True)
class Weights:
    """Where a checkpoint keeps its weights.

    Parameters
    ----------
    entry
        The file with all weights, or the index that names their files.
    """

    entry: str

    @property
    def pickled(self) -> bool:
        """Whether reading them may run code."""
        return self.entry.startswith("pytorch_model")

    @property
    def sharded(self) -> bool:
        """Whether `entry` is an index."""
        return self.entry.endswith(".index.json")

    def files(self, folder: Path) -> dict[str, set[str]]:
        """Return each file's name with the weights that the index places there (none without an index)."""
        if not self.sharded:
            return {self.entry: set()}
        places = read_json(folder / self.entry).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise LoadError(f"{folder / self.entry} lists no weights: download the checkpoint again")
        files: dict[str, set[str]] = {}
        for weight, file in places.items():
            files.setdefault(file, set()).add(weight)
        return files


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file of a checkpoint."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read {path} ({first_line(error)}): download the checkpoint again") from error
    if not isinstance(content, dict):
        raise LoadError(f"cannot read {path} (not a JSON object): download the checkpoint again")
    return content


def choose_weights(names: Collection[str]) -> Weights | None:
    """Choose among the files of a checkpoint those that hold its weights."""
    return next((Weights(entry) for entry in _WEIGHTS if entry in names), None)


def has_vocabulary(names: Collection[str]) -> bool:
    """Say whether a tokenizer can be made from the files of a checkpoint."""
    return any(name in _VOCABULARIES or name.endswith(".tiktoken") for name in names)


def missing_readers(names: Collection[str]) -> Sequence[str]:
    """Return the packages by which transformers reads a tokenizer from these files and that are not installed."""
    if "tokenizer.json" in names:
        return ()
    readers = (packages for ending, packages in _READERS.items() if any(name.endswith(ending) for name in names))
    return [package for package in next(readers, ()) if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def is_complete(folder: Path, *, allow_pickle: bool) -> bool:
    """Say whether a folder holds a whole model, as a partly filled cache does not."""
    weights = choose_weights(names_in(folder))
    if weights is None or (weights.pickled and not allow_pickle) or not (folder / "config.json").is_file():
        return False
    return all((folder / file).is_file() for file in weights.files(folder))


def check_configs(folder: Path) -> dict[str, Any]:
    """Check that a model's configuration files can be read; return the main one."""
    names = names_in(folder)
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise LoadError(f"{folder} holds an adapter only: merge it into its base model and save the result")
        raise LoadError(f"there is no config.json in {folder}: give the folder of a checkpoint")
    if "generation_config.json" in names:
        read_json(folder / "generation_config.json")
    return read_json(folder / "config.json")


def check_weights(folder: Path, *, allow_pickle: bool) -> Weights:
    """Check that all weight files are there and whole, without reading the weights themselves."""
    weights = choose_weights(names_in(folder))
    if weights is None:
        raise LoadError(f"there are no weights in {folder}: download the checkpoint again")
    if weights.pickled and not allow_pickle:
        raise LoadError(refuse_pickle(str(folder)))
    for file, expected in weights.files(folder).items():
        path = folder / file
        if not path.is_file():
            raise LoadError(f"{file}, which the index names, is missing from {folder}: download it again")
        if not weights.pickled:
            _check_safetensors(path, expected)
    return weights


def refuse_pickle(name: str) -> str:
    """Say why pickled weights are not loaded."""
    return (
        f"{name} has its weights in pickle files only, which can run code when they are read: "
        "convert them to safetensors, or set allow_pickle=True if you trust their source"
    )


def names_in(folder: Path) -> set[str]:
    """Return the names of a folder's files."""
    return {entry.name for entry in folder.iterdir() if entry.is_file()}


def _check_safetensors(path: Path, expected: set[str]) -> None:
    """Check that a file's size is the one its header states, and that it holds the weights expected of it."""
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is corrupt ({first_line(error)}): download it again") from error
    missing = sorted(expected - held)
    if missing:
        raise LoadError(f"{path} lacks {missing[0]}, which the index places there: download it again")
