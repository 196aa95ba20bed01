"""From names to folders: paths, the local cache, and the hub, which is never reached here."""

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from checkpoints import refusal, write_pair
from descant.errors import LoadError, SettingsError
from descant.models.loading import load_model, load_tokenizer

ID = "some-one/some-model"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fail at any connection, and note it and any wait for another: libraries may swallow the failure."""
    attempts: list[object] = []

    def connect(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("the network is not to be used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: connect(None, address))  # type: ignore[arg-type]
    monkeypatch.setattr(time, "sleep", attempts.append)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return attempts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put_in_cache(cache: Path, checkpoint: Path, names: Callable[[str], bool] = lambda name: True) -> Path:
    folder = cache / f"models--{ID.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if names(file.name):
            shutil.copy(file, snapshot / file.name)
    return snapshot


def test_folder_never_touches_the_network(pair: tuple[Path, Path], no_network: list[object]) -> None:
    for folder in pair:
        load_model(folder)
        load_tokenizer(folder)
    assert no_network == []


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/folder",
        "./missing",
        "../missing",
        "~/no-such-folder-here",
        "a/b/c",
        "missing/",
        "no\\such\\folder",
    ],
)
def test_missing_path_fails_without_asking_the_hub(name: str, no_network: list[object]) -> None:
    for load in (load_model, load_tokenizer):
        message = refusal(lambda load=load: load(name))  # type: ignore[misc]
        assert f"no folder {name}" in message
        assert "check the path" in message
    assert no_network == []


def test_path_below_a_folder_that_exists_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, no_network: list[object]
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "although runs exists" in refusal(lambda: load_model("runs/one"))
    assert no_network == []


def test_unusable_names(pair: tuple[Path, Path], cache: Path) -> None:
    assert "give the folder" in refusal(lambda: load_model(pair[1] / "config.json"))
    for name in ("", " ", "a b", "a--b..c"):
        assert "neither a folder nor a model id" in refusal(lambda name=name: load_model(name))  # type: ignore[misc]
    with pytest.raises(SettingsError, match="no revisions"):
        load_model(pair[1], revision="main")


def test_cached_model_needs_no_network(pair: tuple[Path, Path], cache: Path, no_network: list[object]) -> None:
    put_in_cache(cache, pair[1])
    assert load_model(ID).name_or_path == ID
    assert len(load_tokenizer(ID)) == 400
    assert no_network == []


def test_unreachable_hub_fails_without_retries(cache: Path, no_network: list[object]) -> None:
    for load in (load_model, load_tokenizer):
        no_network.clear()
        message = refusal(lambda load=load: load(ID))  # type: ignore[misc]
        assert "cannot be reached" in message
        # One request of ours, and no wait; the hub's library may make another, to name the caller in it.
        assert 1 <= len(no_network) <= 2


def test_partly_cached_model_is_not_taken_for_whole(
    pair: tuple[Path, Path], cache: Path, no_network: list[object]
) -> None:
    put_in_cache(cache, pair[1], lambda name: not name.startswith(("model-00002", "tokenizer.json")))
    assert "cannot be reached" in refusal(lambda: load_model(ID))
    assert "cannot be reached" in refusal(lambda: load_tokenizer(ID))


def test_offline_mode_is_honoured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in refusal(lambda: load_model(ID))


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    error = kind.__new__(kind)
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            answer(GatedRepoError, 403),
            "is gated: accept its terms at https://huggingface.co/some-one/some-model",
        ),
        (answer(RepositoryNotFoundError, 401), "without login: check the spelling, or log in"),
        (answer(RepositoryNotFoundError, 404), "no model some-one/some-model on the hub"),
        (answer(RevisionNotFoundError, 404), "has no revision 'old'"),
        (answer(HfHubHTTPError, 503), r"refused some-one/some-model \(status 503\)"),
    ],
)
def test_answers_of_the_hub_are_told_apart(
    error: HfHubHTTPError, expected: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model_info(self: HfApi, *arguments: object, timeout: float, **options: object) -> None:
        assert timeout <= 5, "a hub that does not answer is not waited for"
        raise error

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(LoadError, match=expected):
        load_model(ID, revision="old")


def hub_with(monkeypatch: pytest.MonkeyPatch, names: list[str], download: Callable[..., str]) -> None:
    files = [SimpleNamespace(rfilename=name) for name in names]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    monkeypatch.setattr("descant.models.loading.locating.snapshot_download", download)


def test_only_needed_files_are_downloaded(
    pair: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(sorted(allow_patterns))
        return str(pair[1])

    names = [file.name for file in pair[1].iterdir()]
    unneeded = [
        "README.md",
        "pytorch_model.bin",
        "original/params.json",
        "consolidated.safetensors",
        "model.onnx",
    ]
    hub_with(monkeypatch, names + unneeded, download)
    load_model(ID)
    load_tokenizer(ID)
    assert asked[0] == sorted(names)
    assert asked[1] == sorted(name for name in names if not name.endswith(".safetensors"))


def test_pickled_model_is_refused_before_its_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: object) -> str:
        raise AssertionError("nothing may be downloaded")

    hub_with(monkeypatch, ["config.json", "pytorch_model.bin"], download)
    assert "allow_pickle=True" in refusal(lambda: load_model(ID))
    hub_with(monkeypatch, ["config.json", "model.gguf"], download)
    assert "no weights" in refusal(lambda: load_model(ID))


def test_broken_download_says_that_it_can_go_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: object) -> str:
        raise OSError("connection reset")

    hub_with(monkeypatch, ["config.json", "model.safetensors"], download)
    assert "connection reset" in refusal(lambda: load_model(ID))

    def gated(name: str, **options: object) -> str:
        raise answer(GatedRepoError, 403)

    hub_with(monkeypatch, ["config.json", "model.safetensors"], gated)
    assert "is gated" in refusal(lambda: load_model(ID))
