"""Peak memory of a decode beyond the weights, against what its cache and one forward pass need (Linux)."""

import gc
import multiprocessing
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import shape
from descant import Decoder
from descant.engine.loop import Engine

ROWS, PROMPT, NEW = 8, 256, 128


def memory() -> list[dict[str, Any]]:
    """Peak resident memory of a call beyond the weights, over its cache and one forward pass of the same prompts.

    Each model runs in a process of its own, so that no other case's memory is reused.
    """
    context = multiprocessing.get_context("spawn")
    table = []
    for name in ("gpt2", "Qwen2.5-0.5B"):
        with context.Pool(1) as pool:
            table.append(pool.apply(_measure, (name,)))
    return table


def _measure(name: str) -> dict[str, Any]:
    model = shape(name)
    decoder = Decoder(model)
    prompts = torch.randint(10, 2000, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        model(torch.tensor([prompts[0][:4]]))  # libraries take their working memory now
    forward = _peak(lambda: model(torch.tensor(prompts), logits_to_keep=1, use_cache=False))
    sizes: list[int] = []
    whole = Engine.step

    def step(engine: Engine) -> Any:
        rows = whole(engine)
        sizes.append(engine.sources.expert.cache.nbytes())  # type: ignore[attr-defined]
        return rows

    Engine.step = step  # type: ignore[method-assign]
    peak = _peak(lambda: decoder.generate(prompts, max_new_tokens=NEW, ignore_eos=True))
    needed = max(sizes) + forward
    mib = 2**20
    return {
        "model": name,
        "rows × tokens": f"{ROWS} × ({PROMPT} + {NEW})",
        "cache MiB": round(max(sizes) / mib, 1),
        "one forward MiB": round(forward / mib, 1),
        "peak MiB": round(peak / mib, 1),
        "peak over cache and forward": round(peak / needed, 3),
        "target": "≤ 1.2",
    }


def _peak(work: Any) -> int:
    """Return by how many bytes the resident set grew at its peak while `work` ran."""
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    with torch.inference_mode():
        result = work()
    del result
    return max(_status("VmHWM") - before, 1)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
