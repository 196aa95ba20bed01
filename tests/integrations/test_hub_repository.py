"""The folder that is pushed to a hub, loaded as transformers loads one."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import descant
from architectures import build

HUB = Path(__file__).parents[2] / "examples" / "hub"
IDS = torch.tensor([[0, 5, 6], [3, 4, 5]])
MASK = (IDS != 0).long()


class Streamer(BaseStreamer):
    def __init__(self) -> None:
        self.columns: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.columns.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


class AtLength(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= 8)


@pytest.mark.parametrize("method", ["contrastive", "speculative_contrastive"])
def test_the_folder_decodes_as_the_method_does(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    expert, amateur = build("qwen2"), build("qwen2", seed=1, num_hidden_layers=1)
    settings = {"attention_mask": MASK, "max_new_tokens": 9, "amateur": amateur, "cd_alpha": 0.3}
    expected = expert.generate(IDS, custom_generate=getattr(descant, method), **settings)[:, :8]
    streamer = Streamer()
    found = expert.generate(
        IDS,
        custom_generate=str(HUB),
        trust_remote_code=True,
        method=method,
        streamer=streamer,
        stopping_criteria=[AtLength()],
        **settings,
    )
    assert torch.equal(found, expected)
    assert streamer.columns[1:] == expected[:, 3:].T.tolist()
    assert streamer.ended
