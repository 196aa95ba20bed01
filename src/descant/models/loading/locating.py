"""From a name to a folder on this machine.

A folder is used as it is and never touches the network; nor does a hub id whose files are in the local cache.
Any other hub id is asked for once, without retries, and then downloaded: only the files that loading needs.
"""

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from descant.errors import LoadError, SettingsError, first_line
from descant.models.loading.inspecting import choose_weights, has_vocabulary, is_complete, names_in, refuse_pickle

Part = Literal["model", "tokenizer"]
"""What is to be loaded from a checkpoint."""

_PROBE_SECONDS = 3.0
"""How long the hub may take to say that it has a checkpoint."""

_SMALL_FILES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
"""Endings of the files beside the weights that a model or a tokenizer may need."""


def locate(name: str, part: Part, *, revision: str | None, allow_pickle: bool = False) -> Path:
    """Return the folder that holds a checkpoint, downloading it if it must.

    Parameters
    ----------
    name
        A folder, or a model's id on the hub.
    part
        What the folder must hold.
    revision
        Branch, tag or commit on the hub.
    allow_pickle
        Whether weights in pickle files are an answer.

    Raises
    ------
    LoadError
        There is no such folder, or the hub has no such model, refuses it, or cannot be reached.
    """
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        if revision is not None:
            raise SettingsError(f"{name} is a folder, which has no revisions: leave revision out")
        return path
    if path.is_file():
        raise LoadError(f"{name} is a file: give the folder of the checkpoint, the one with config.json in it")
    if _is_path(name):
        raise LoadError(f"there is no folder {name}: check the path, or give a model id such as Qwen/Qwen2.5-0.5B")
    try:
        cached = _cached(name, part, revision, allow_pickle=allow_pickle)
    except HFValidationError as error:
        raise LoadError(f"{name!r} is neither a folder nor a model id: check the spelling") from error
    if cached is not None:
        return cached
    if "/" in name and path.parent.is_dir():
        raise LoadError(
            f"there is no folder {name}, although {path.parent} exists here: check the path, "
            "or change to another working directory to load the model of that name from the hub"
        )
    return _download(name, part, revision, allow_pickle=allow_pickle)


def _is_path(name: str) -> bool:
    """Say whether a name can only be meant as a path."""
    return name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _cached(name: str, part: Part, revision: str | None, *, allow_pickle: bool) -> Path | None:
    """Return the local cache's folder of a checkpoint, if all that is needed is there."""
    for file in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        found = try_to_load_from_cache(name, file, revision=revision)
        if not isinstance(found, str):
            continue
        folder = Path(found).parent
        if part == "model" and is_complete(folder, allow_pickle=allow_pickle):
            return folder
        if part == "tokenizer" and has_vocabulary(names_in(folder)):
            return folder
    return None


def _download(name: str, part: Part, revision: str | None, *, allow_pickle: bool) -> Path:
    """Fetch a checkpoint into the local cache and return its folder there."""
    try:
        # One request, before the many retries of a download: a wrong name or no network shows at once.
        info = HfApi().model_info(name, revision=revision, timeout=_PROBE_SECONDS)
    except Exception as error:
        raise LoadError(_hub_message(name, revision, error)) from error
    names = {file.rfilename for file in info.siblings or ()}
    files = _wanted(name, names, part, allow_pickle=allow_pickle)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except HfHubHTTPError as error:
        raise LoadError(_hub_message(name, revision, error)) from error
    except Exception as error:
        raise LoadError(
            f"the download of {name} broke off ({first_line(error)}): try again, it goes on where it stopped"
        ) from error


def _wanted(name: str, names: set[str], part: Part, *, allow_pickle: bool) -> list[str]:
    """Choose the files to download, or say that they cannot be loaded before gigabytes have come."""
    small = [file for file in names if "/" not in file and file.endswith(_SMALL_FILES)]
    if part == "tokenizer":
        return small
    weights = choose_weights(names)
    if weights is None:
        raise LoadError(f"{name} has no weights that transformers can load: choose another checkpoint")
    if weights.pickled and not allow_pickle:
        raise LoadError(refuse_pickle(name))
    if not weights.sharded:
        return [*small, weights.entry]
    ending = ".bin" if weights.pickled else ".safetensors"
    # Some checkpoints hold all weights a second time, in another library's layout.
    shards = (file for file in names if file.endswith(ending) and not file.startswith("consolidated"))
    return [*small, *(file for file in shards if "/" not in file)]


def _hub_message(name: str, revision: str | None, error: Exception) -> str:
    """Say in one line why the hub did not hand out a checkpoint, and what to do."""
    page = f"https://huggingface.co/{name}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case OfflineModeIsEnabled():
            cause = f"{name} is not in the local cache, and offline mode is on"
            remedy = "unset HF_HUB_OFFLINE, or give the folder of a downloaded checkpoint"
        case GatedRepoError():
            cause, remedy = (
                f"{name} is gated",
                f"accept its terms at {page}, then log in with `hf auth login`",
            )
        case RevisionNotFoundError():
            cause, remedy = f"{name} has no revision {revision!r}", f"choose one listed at {page}/tree/main"
        case RepositoryNotFoundError() if status == 401:
            cause = f"the hub shows no model {name} without login"
            remedy = "check the spelling, or log in with `hf auth login`"
        case RepositoryNotFoundError():
            cause = f"there is no model {name} on the hub, and no folder of that name here"
            remedy = "check the spelling"
        case HfHubHTTPError() if status is not None:
            cause = f"the hub refused {name} (status {status})"
            remedy = "try again later, or give a local folder"
        case _:
            cause = f"{name} is not in the local cache, and the hub cannot be reached ({first_line(error)})"
            remedy = "check the network, or give the folder of a downloaded checkpoint"
    return f"{cause}: {remedy}"
