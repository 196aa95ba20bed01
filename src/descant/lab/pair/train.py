"""Train the bundled pair from scratch: ``python -m descant.lab.pair.train``.

Tokenizer, expert and amateur come from one seed and one command. Every step reads mentions that were drawn
afresh: a second epoch over the same mentions would teach the expert their noise, and a noise learnt by
heart cannot be contrasted away.

On CPU cores that do other work too, ``OMP_WAIT_POLICY=PASSIVE`` in the environment makes it several times
as fast.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from descant.demo import demo_paths
from descant.demo.world import WorldSpec, build_world
from descant.lab.pair.corpus import CONTEXT, Batch, batches, train_tokenizer

Documents = Callable[[Random], Iterator[str]]  # fresh texts without end


@dataclass(frozen=True)
class ModelSpec:
    """Shape and schedule of one model.

    Parameters
    ----------
    layers, width, heads, kv_heads, inner : int
        Shape of the transformer.
    steps : int
        Training steps.
    rows : int
        Rows of `TrainSpec.row_tokens` in a step.
    rate : float
        Highest learning rate; it rises over the first steps and falls along a cosine.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    steps: int
    rows: int = 32
    rate: float = 2e-3


@dataclass(frozen=True)
class TrainSpec:
    """Everything that decides the weights.

    Parameters
    ----------
    seed : int
        Seed of the initial weights and of the mentions.
    expert, amateur : ModelSpec
        The two models.
    world : WorldSpec
        What they read about.
    vocabulary : int
        Size of the tokenizer, special tokens included.
    row_tokens : int
        Tokens in a row; a row holds several whole texts.
    """

    seed: int = 0
    expert: ModelSpec = ModelSpec(layers=4, width=256, heads=4, kv_heads=2, inner=704, steps=1600)
    amateur: ModelSpec = ModelSpec(layers=2, width=64, heads=2, kv_heads=1, inner=128, steps=1000, rows=16, rate=4e-3)
    world: WorldSpec = field(default_factory=WorldSpec)
    vocabulary: int = 2048
    row_tokens: int = 128


@dataclass(frozen=True)
class Trained:
    """What training made.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Shared by both models.
    models : dict of str to Qwen2ForCausalLM
        By name, ``expert`` and ``amateur``; a checkpoint's is followed by its step, ``expert-200``.
    losses, minutes : dict of str to float
        Training loss at the end, and the time it took.
    """

    tokenizer: PreTrainedTokenizerFast
    models: dict[str, Qwen2ForCausalLM]
    losses: dict[str, float]
    minutes: dict[str, float]


def build_model(spec: ModelSpec, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Make an untrained model; the same for the same seed."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.width,
        intermediate_size=spec.inner,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id],
    )
    return model


def loss_of(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of a packed batch; no text sees another one of its row."""
    same = batch.text[:, :, None] == batch.text[:, None, :]
    # Eager attention over short rows is 1.4 times as fast here as the fused kernel's backward pass. It adds
    # its mask.
    mask = torch.zeros(same.shape, dtype=torch.bfloat16, device=same.device)
    mask = mask.masked_fill_(~same.tril(), -1e9)[:, None]
    logits = model(
        input_ids=batch.tokens,
        position_ids=batch.position,
        attention_mask={"full_attention": mask},
        use_cache=False,
    ).logits
    inside = (batch.text[:, 1:] == batch.text[:, :-1]) & (batch.text[:, 1:] >= 0)
    labels = batch.tokens[:, 1:].masked_fill(~inside, -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten())


def _schedule(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fit(
    model: Qwen2ForCausalLM,
    data: Iterator[Batch],
    spec: ModelSpec,
    device: torch.device,
    name: str,
    after: Callable[[int], None] | None = None,
) -> float:
    """Train a model in place.

    Parameters
    ----------
    model : Qwen2ForCausalLM
        What to train.
    data : iterator of Batch
        Endless batches.
    spec : ModelSpec
        Steps and learning rate.
    device : torch.device
        Where to train.
    name : str
        What to call the model in progress messages.
    after : callable, optional
        Called after every step with the number of steps done.

    Returns
    -------
    float
        Mean loss of the last steps.
    """
    model.to(device=device)  # type: ignore[call-arg]
    model.train()
    model.set_attn_implementation("eager")
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=spec.rate,
        betas=(0.9, 0.98),
    )
    warmup = max(1, min(100, spec.steps // 10))
    mean, start = math.nan, time.perf_counter()
    for step in range(spec.steps):
        batch = next(data)
        moved = Batch(batch.tokens.to(device), batch.text.to(device), batch.position.to(device))
        for group in optimizer.param_groups:
            group["lr"] = spec.rate * _schedule(step, warmup, spec.steps)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_of(model, moved)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = float(loss.detach())
        mean = value if math.isnan(mean) else 0.95 * mean + 0.05 * value
        if after is not None:
            after(step + 1)
        if step % 50 == 49 or step == spec.steps - 1:
            spent = time.perf_counter() - start
            left = spent / (step + 1) * (spec.steps - step - 1)
            message = f"{name}: step {step + 1}/{spec.steps}, loss {mean:.3f}, {spent:.0f} s, {left:.0f} s left"
            print(message, file=sys.stderr, flush=True)
    return mean


def train(spec: TrainSpec, device: torch.device, only: Sequence[str] = ("expert", "amateur")) -> Trained:
    """Train tokenizer, expert and amateur.

    Parameters
    ----------
    spec : TrainSpec
        What to make.
    device : torch.device
        Where to train.
    only : sequence of {"expert", "amateur"}
        Which of the two to train.

    Returns
    -------
    Trained
        The models on the CPU, with what it took.
    """
    documents = build_world(spec.world).documents
    tokenizer = train_tokenizer(documents(Random(f"descant-tokenizer-{spec.world.seed}")), spec.vocabulary)
    shapes = {name: getattr(spec, name) for name in only}
    return train_models(documents, tokenizer, shapes, spec.seed, spec.row_tokens, device)


def train_models(
    documents: Documents,
    tokenizer: PreTrainedTokenizerFast,
    shapes: Mapping[str, ModelSpec],
    seed: int,
    row_tokens: int,
    device: torch.device,
    checkpoints: Collection[int] = (),
) -> Trained:
    """Train models one after the other, each on texts of its own.

    Parameters
    ----------
    documents : callable
        What they read.
    tokenizer : PreTrainedTokenizerFast
        As made by `train_tokenizer`; shared by all.
    shapes : mapping of str to ModelSpec
        What to make, by name.
    seed : int
        Seed of the initial weights and, with a model's name, of its texts.
    row_tokens : int
        Tokens in a row.
    device : torch.device
        Where to train.
    checkpoints : collection of int
        Steps of the expert after which its state is kept as a model of its own.

    Returns
    -------
    Trained
        The models on the CPU, with what it took.
    """
    made: dict[str, Qwen2ForCausalLM] = {}
    losses: dict[str, float] = {}
    minutes: dict[str, float] = {}
    for name, shape in shapes.items():
        start = time.perf_counter()
        model = build_model(shape, tokenizer, seed)

        def keep(step: int, name: str = name, model: Qwen2ForCausalLM = model) -> None:
            if name == "expert" and step in checkpoints:
                made[f"{name}-{step}"] = copy.deepcopy(model).to(device="cpu").eval()  # type: ignore[call-arg]

        data = batches(documents(Random(f"descant-{name}-{seed}")), tokenizer, shape.rows, row_tokens)
        losses[name] = fit(model, data, shape, device, name, keep)
        minutes[name] = (time.perf_counter() - start) / 60
        made[name] = model.to(device="cpu").eval()  # type: ignore[call-arg]
    return Trained(tokenizer, made, losses, minutes)


def save(trained: Trained, spec: Mapping[str, object], out: Path) -> None:
    """Write models and what decided them, all of it or nothing.

    The folder is written under a temporary name and takes its place by renaming; models that were not
    trained this time are kept from the folder that it replaces.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".tmp", dir=out.parent))
    fresh.chmod(0o755)
    try:
        if out.exists():
            shutil.copytree(out, fresh, dirs_exist_ok=True)
        for name, model in trained.models.items():
            folder = fresh / name
            shutil.rmtree(folder, ignore_errors=True)
            model.half().save_pretrained(folder)
            (folder / "model.safetensors").chmod(0o644)  # written for the owner alone
            trained.tokenizer.save_pretrained(folder)
        _write_record(trained, spec, fresh / "training.json")
        if out.exists():
            old = out.with_name(f".{out.name}-old-{os.getpid()}.tmp")
            out.rename(old)
            fresh.rename(out)
            shutil.rmtree(old)
        else:
            fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_record(trained: Trained, spec: Mapping[str, object], path: Path) -> None:
    record = json.loads(path.read_text()) if path.exists() else {}
    record |= {"spec": spec, "torch": torch.__version__, "transformers": transformers.__version__}
    for key, new in (("loss", trained.losses), ("minutes", trained.minutes)):
        record[key] = record.get(key, {}) | {name: round(value, 4) for name, value in new.items()}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in trained.models.items()}
    record["parameters"] = record.get("parameters", {}) | sizes
    path.write_text(json.dumps(record, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write a pair, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m descant.lab.pair.train", description="Train the bundled pair.")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and mentions (default 0)")
    parser.add_argument("--out", type=Path, default=demo_paths()[0].parent, help="folder to write (the package's own)")
    parser.add_argument("--steps", type=int, help="steps of the expert, for a quick try; the amateur's in proportion")
    parser.add_argument("--only", choices=("expert", "amateur"), help="train one of the two, keep the other")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    spec = TrainSpec(seed=options.seed)
    if options.steps is not None:
        share = options.steps / spec.expert.steps
        amateur = replace(spec.amateur, steps=max(1, round(spec.amateur.steps * share)))
        spec = replace(spec, expert=replace(spec.expert, steps=options.steps), amateur=amateur)
    only = (options.only,) if options.only else ("expert", "amateur")
    trained = train(spec, torch.device(options.device), only)
    save(trained, asdict(spec), options.out)
    print(options.out)


if __name__ == "__main__":
    main()
