"""Models and tokenizers from checkpoints, through transformers' Auto classes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from descant.errors import LoadError, OutOfMemoryError, SettingsError, first_line
from descant.models.loading.facts import resolve_device, resolve_dtype
from descant.models.loading.inspecting import (
    Weights,
    check_configs,
    check_weights,
    has_vocabulary,
    missing_readers,
    names_in,
    read_json,
)
from descant.models.loading.locating import locate
from descant.models.loading.precision import choose_dtype

_TRUST = "read that code, then set trust_remote_code=True if you trust it"


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    pack: bool | Literal["auto"] = False,
    quantization: Literal["int8", "int4"] | None = None,
) -> PreTrainedModel:
    """Load a causal language model for inference.

    Parameters
    ----------
    name_or_path
        A folder, which never touches the network, or a model's id on the hub, which does only if its files
        are not in the local cache.
    dtype
        A number format, or "auto": the checkpoint's own, or float32 on a CPU without instructions for that, where it
        takes at most half of the free memory. `dtype_reason` of the model tells which and why.
    device
        A device, or "auto": a GPU if there is one.
    allow_pickle
        Whether to read weights from pickle files, which can run code.
    trust_remote_code
        Whether to run code that comes with the checkpoint.
    revision
        Branch, tag or commit on the hub.
    pack
        Whether to lay out the linear layers for fast products on the CPU (`descant.models.linears.packing.pack`),
        after which the model cannot be saved, converted or moved. "auto": on the CPU in bfloat16, where every product
        gains.
    quantization
        Rounds the linear layers' weights on the CPU (`descant.models.linears.quantization.quantize`), in place of
        packing.

    Raises
    ------
    LoadError
        The checkpoint is missing, incomplete, corrupt, or not a causal language model.
    OutOfMemoryError
        The weights do not fit.
    SettingsError
        The device or the dtype does not exist, or the device is not the CPU, which `pack=True` and
        `quantization` are for.
    """
    place, numbers = resolve_device(device), resolve_dtype(dtype)
    if pack is True and place.type != "cpu":
        raise SettingsError(
            f"pack=True is for the CPU, and the device is {place}: leave it out, or choose device='cpu'"
        )
    if quantization is not None and place.type != "cpu":
        raise SettingsError(
            f"quantization={quantization!r} is for the CPU, and the device is {place}: leave it out, or choose "
            "device='cpu'"
        )
    name = os.fspath(name_or_path)
    folder = locate(name, "model", revision=revision, allow_pickle=allow_pickle)
    config = _load_config(folder, trust_remote_code=trust_remote_code)
    weights = check_weights(folder, allow_pickle=allow_pickle)
    reason = None
    if numbers == "auto" and quantization is None:  # rounded weights are for the checkpoint's
        numbers, reason = choose_dtype(config, _bytes_needed(folder, weights, config, "auto"), place)
    needed = _bytes_needed(folder, weights, config, numbers)
    _check_memory(name, needed, place)
    with _quiet(), _one_line(f"cannot load the model in {folder}", "check it, or download it again"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=numbers,
            use_safetensors=not weights.pickled,
            ignore_mismatched_sizes=True,  # They are reported below, with names and shapes.
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
        )
    model, report = loaded
    _check_report(folder, report)
    model.name_or_path = model.config.name_or_path = name
    model.dtype_reason = reason
    model = _moved(model.eval().requires_grad_(False), place, needed)
    if quantization is not None:
        from descant.models.linears.quantization import quantize  # which imports this package

        quantize(model, quantization)
    elif pack is True or (pack == "auto" and place.type == "cpu" and model.dtype == torch.bfloat16):
        from descant.models.linears.packing import pack as pack_linears  # the same

        pack_linears(model)
    return model


def load_tokenizer(
    name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer; the parameters are those of `load_model`.

    Raises
    ------
    LoadError
        The tokenizer is missing or corrupt.
    """
    name = os.fspath(name_or_path)
    folder = locate(name, "tokenizer", revision=revision)
    names = names_in(folder)
    for file in ("tokenizer_config.json", "tokenizer.json", "config.json"):
        if file in names:
            read_json(folder / file)
    if not has_vocabulary(names) and not trust_remote_code:
        raise LoadError(f"there is no tokenizer in {folder}: save one there with save_pretrained")
    remedy, cause, missing = "download the checkpoint again", "", " ".join(missing_readers(names))
    if missing:
        remedy, cause = f"pip install {missing}", "what reads its vocabulary is not installed"
    with _quiet(), _one_line(f"cannot load the tokenizer in {folder}", remedy, cause):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    tokenizer.name_or_path = name
    return tokenizer


def _load_config(folder: Path, *, trust_remote_code: bool) -> PreTrainedConfig:
    """Load a configuration, and check that it is a causal language model's."""
    raw = check_configs(folder)
    kind = raw.get("model_type")
    has_code = "AutoModelForCausalLM" in (raw.get("auto_map") or {})
    if kind not in CONFIG_MAPPING and has_code and not trust_remote_code:
        raise LoadError(f"{folder} needs code of its own to be run: {_TRUST}")
    if kind not in CONFIG_MAPPING and not has_code:
        raise LoadError(
            f"transformers {transformers.__version__} does not know the model type {kind!r} of {folder}: "
            "upgrade transformers, or choose another checkpoint"
        )
    with _quiet(), _one_line(f"{folder / 'config.json'} is not valid", "download the checkpoint again"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if not (has_code and trust_remote_code) and not _is_causal(config):
        named = ", ".join(raw.get("architectures") or [str(kind)])
        raise LoadError(f"{folder} holds no causal language model ({named}): choose a decoder-only model")
    return config  # type: ignore[no-any-return]


def _is_causal(config: PreTrainedConfig) -> bool:
    """Say whether a model attends to earlier tokens only, and to one sequence.

    transformers also loads encoders (BERT) under its causal class, whose tokens then see those after them.
    Their configurations say `is_decoder=False`; so do GPT-NeoX's, which is causal all the same.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        return False
    return getattr(config, "is_decoder", True) or config.model_type.startswith("gpt_neox")


def _check_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Refuse a model of which a weight was not in the checkpoint: transformers made it up."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        weight, found, expected = mismatched[0]
        raise LoadError(
            f"{len(mismatched)} weights in {folder} have other shapes than config.json says ({weight} has "
            f"{tuple(found)} instead of {tuple(expected)}): give the config.json that belongs to the weights"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise LoadError(
            f"{len(missing)} weights are missing from {folder}, {missing[0]} for one: download it again, "
            "or give a checkpoint that was saved with its language-model head"
        )


def _bytes_needed(
    folder: Path, weights: Weights, config: PreTrainedConfig, dtype: torch.dtype | Literal["auto"]
) -> int:
    """Estimate the memory for the weights from their files, and the number format asked for."""
    size = sum((folder / file).stat().st_size for file in weights.files(folder))
    stored = getattr(config, "dtype", None)
    if dtype == "auto" or not isinstance(stored, torch.dtype) or hasattr(config, "quantization_config"):
        return size
    return size * dtype.itemsize // stored.itemsize


def _check_memory(name: str, needed: int, device: torch.device) -> None:
    """Refuse weights that cannot fit, before the operating system ends the process."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise OutOfMemoryError(
            f"the weights of {name} need {needed / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} are free: "
            "choose a smaller model, a smaller dtype, or another device"
        )


def _moved(model: Any, device: torch.device, needed: int) -> PreTrainedModel:
    """Move a model to its device."""
    try:
        moved: PreTrainedModel = model.to(device)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"the weights ({needed / 1e9:.1f} GB) do not fit on {device}: "
            "choose a smaller model, a smaller dtype, or another device"
        ) from error
    return moved


@contextmanager
def _one_line(what: str, remedy: str, cause: str = "") -> Iterator[None]:
    """Turn whatever transformers raises into a LoadError of one line, with its own cause where none is known."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemoryError(f"{what} (out of memory): choose a smaller model or a smaller dtype") from error
    except Exception as error:
        # transformers raises errors of a dozen kinds: of JSON, the file system, tokenizers, validation.
        if "trust_remote_code" in str(error):
            remedy, cause = _TRUST, ""
        raise LoadError(f"{what} ({cause or first_line(error)}): {remedy}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' reports and progress bars, and put both back as they were."""
    log: Any = transformers.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
