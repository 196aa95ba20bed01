"""Shapes and types of every annotated function of descant are checked while the tests run."""

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import settings
from jaxtyping import config, install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
install_import_hook("descant", "typecheck.checker")
settings.register_profile("descant", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("descant")

import torch  # noqa: E402

torch.set_num_threads(1)  # tiny models: a second thread only waits for the first


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep a cache of the tests' own: what lies in the user's, compiled passes above all, is not theirs."""
    os.environ["DESCANT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Switch the type checks of calls off, to see what descant itself says of an argument of the wrong type."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def bfloat16_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's own product stand for oneDNN's kernels in bfloat16 where this processor has none."""
    mkldnn = torch.ops.mkldnn
    if not mkldnn._is_mkldnn_bf16_supported():

        def multiply(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
            return torch.nn.functional.linear(states, weight, bias)

        monkeypatch.setattr(mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        monkeypatch.setattr(mkldnn, "_reorder_linear_weight", torch.clone)
        monkeypatch.setattr(mkldnn, "_linear_pointwise", SimpleNamespace(default=multiply))
