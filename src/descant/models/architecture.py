"""What descant needs to know about a transformers model: its parts, its attention masks, its limits."""

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from descant.errors import LoadError, UnsupportedModelError, first_line
from descant.models.rotary import Varying, scaled_length, varying_scaling
from descant.models.sharing import lock_of

# fmt: off
VERIFIED = frozenset({
    "arcee", "bitnet", "bloom", "codegen", "cohere", "cohere2", "cwm", "diffllama", "dots1", "ernie4_5",
    "ernie4_5_moe", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoeshared",
    "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jetmoe", "llama", "ministral", "mistral", "mixtral", "mpt",
    "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm",
})
# fmt: on
"""Architectures whose ragged decoding the test suite compares with `model.generate`."""

# fmt: off
WRAPPERS = frozenset({
    "aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "exaone4_5", "fun_asr_nano", "fuyu", "gemma3",
    "glmasr", "got_ocr2", "granite_speech", "granite_speech_plus", "idefics2", "idefics3", "internvl", "janus",
    "lighton_ocr", "llava", "llava_next", "llava_next_video", "llava_onevision", "mistral3",
    "moss_transcribe_diarize", "omniasr", "ovis2", "pp_chart2table", "qianfan_ocr", "qwen2_audio", "qwen3_asr",
    "shieldgemma2", "smolvlm", "video_llama_3", "video_llava", "vipllava", "voxtral",
})
# fmt: on
"""Models for images or sound around a verified one, whose decoding of text is compared in the same way."""

CacheKind = Literal["ragged", "transformers"]

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""What the argument of a forward pass that takes the cache is called: `cache` from transformers 5.24 on, and before it
`past_key_values`, or `cache_params` where the model is recurrent."""

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
)
"""The names under which configurations hold the longest sequence, the usual ones first."""


@dataclass(frozen=True)
class Architecture:
    """Structural facts of one loaded model.

    Attributes
    ----------
    model
        The model itself, shared and never changed.
    cache
        `"ragged"`: descant's own cache. `"transformers"`: the model's own cache, one row at a time, no rollback.
    reason
        Why the model's own cache is used, for error messages; empty otherwise.
    windows
        The attention window of each mask the model asks for, by layer type; None is unbounded. A model whose
        layers are all of one type has a single entry.
    width
        Width of the logits.
    context
        Most tokens a row may hold, or None.
    scaling
        How rotary positions depend on the longest text of a pass, if they do.
    cache_argument
        What the model's forward pass calls the argument that takes the cache.
    lock
        Held for a pass, and while modules are watched or copied (see `sharing`): one for all architectures of a model.
    """

    model: PreTrainedModel
    cache: CacheKind
    reason: str
    windows: dict[str, int | None]
    width: int
    context: int | None
    scaling: Varying | None
    cache_argument: str
    lock: AbstractContextManager[Any]

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def body(self) -> nn.Module:
        """The module whose output enters the output head."""
        decoder: nn.Module = self.model.get_decoder()  # OPT's head reads its decoder, not its base model
        return decoder if decoder is not self.model else self.model.base_model

    def decoder(self) -> tuple[nn.Module, nn.ModuleList]:
        """Return the module that owns the decoder layers, and the layers.

        Raises
        ------
        UnsupportedModelError
            If the model has no such list.
        """
        for module in self.body.modules():  # beside it a model for images may have a list of as many
            for child in module.children():
                if isinstance(child, nn.ModuleList) and len(child) == self.layers:
                    return module, child
        raise UnsupportedModelError(
            f"{type(self.model).__name__} has no list of {self.layers} decoder layers, so it cannot exit early; "
            "use a separate model as the amateur"
        )

    def with_module(self, old: nn.Module, new: nn.Module) -> Any:
        """Return the model with one module standing for another; all others are the original's, and it is not changed.

        Only the modules that lead to the place are copied, without their content.

        Raises
        ------
        UnsupportedModelError
            If one of these does not run its own code.
        """
        path = next(name for name, module in self.model.named_modules() if module is old).split(".")
        with self.lock:
            clone = module = _shallow_copy(self.model)
            for name in path[:-1]:
                module._modules[name] = _shallow_copy(module._modules[name])
                module = module._modules[name]
        module._modules[path[-1]] = new
        return clone


def inspect_model(model: PreTrainedModel) -> Architecture:
    """Find out how a model can be run.

    Raises
    ------
    LoadError
        If it is no causal language model.
    UnsupportedModelError
        If its weights are not there, its attention implementation takes no explicit mask, or it does not read text
        alone.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    other = "it has no output head" if head is None or not model.can_generate() else _why_not_causal(model, config)
    if other:
        raise LoadError(
            f"{type(model).__name__} is not a causal language model ({other}); load one whose class name ends in "
            "ForCausalLM or LMHeadModel"
        )
    # A tensor of a class of its own stands for one without values on purpose, while operations are recorded.
    if any(parameter.is_meta and type(parameter) is nn.Parameter for parameter in model.parameters()):
        raise UnsupportedModelError(
            f"{type(model).__name__} has weights that are not in memory (offloaded by accelerate, say); load it whole "
            "on one device, in a smaller dtype or quantized if it must be"
        )
    weight = getattr(head, "weight", None)
    width = int(weight.shape[0]) if weight is not None else int(config.vocab_size)
    reason = _why_not_ragged(model, config)
    if reason and model.config.sub_configs:  # there is more to it than a text model
        _check_reads_text(model)
    return Architecture(
        model=model,
        cache="transformers" if reason else "ragged",
        reason=reason,
        windows=_windows(config),
        width=width,
        context=context_length(model),
        scaling=varying_scaling(config),
        cache_argument=cache_argument(model.forward),
        lock=lock_of(model),
    )


def _why_not_causal(model: PreTrainedModel, config: Any) -> str:
    """Return why a model sees more than the earlier tokens of one text, or an empty string."""
    if any(getattr(part, "is_encoder_decoder", False) for part in (model.config, config)):
        return "it has an encoder"
    # Encoders of BERT's kind have a language model's head too, and say so by a flag; GPT-NeoX has the flag without
    # its meaning. XLM says it by another, and PaliGemma, whose prompts are read in both directions, by a third.
    encodes = getattr(config, "is_decoder", None) is False and config.model_type not in VERIFIED
    both_ways = getattr(config, "use_bidirectional_attention", None) in (True, "all")
    if encodes or both_ways or getattr(config, "causal", True) is False:
        return "its tokens see those after them"
    return ""


@torch.no_grad()
def _check_reads_text(model: PreTrainedModel) -> None:
    """Read one token, as far as is known what a model takes: some have their text part only beside an image."""
    model.eval()
    try:
        model(input_ids=torch.ones(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    except Exception as error:
        # Whatever the model raises, of any kind.
        raise UnsupportedModelError(
            f"{type(model).__name__} does not read text alone ({first_line(error)}); choose a causal language model"
        ) from error


def cache_argument(function: Callable[..., Any]) -> str:
    """Return which of `CACHE_ARGUMENTS` a function takes; that of today's transformers if it names none."""
    taken = inspect.signature(function).parameters
    return next((name for name in CACHE_ARGUMENTS if name in taken), CACHE_ARGUMENTS[0])


def _why_not_ragged(model: PreTrainedModel, config: Any) -> str:
    """Return why the ragged cache cannot serve a model, or an empty string."""
    kind = str(config.model_type)
    types = set(getattr(config, "layer_types", None) or ())
    if getattr(model, "_is_stateful", False):
        if hasattr(model.base_model, "_setup_cache"):
            raise UnsupportedModelError(
                f"{type(model).__name__} keeps the state of its last text inside its modules, so rows would mix; "
                "no way around it is known, choose another model"
            )
        return f"{kind} keeps a recurrent state, which has no record of earlier positions"
    if not types <= {"full_attention", "sliding_attention"}:
        return f"{kind} has layers other than attention with a full or sliding window ({', '.join(sorted(types))})"
    scaling = varying_scaling(config)
    if scaling:
        return f"{kind} with {scaling} scaling changes the positions of a whole pass with the longest text in it"
    if kind == "falcon" and config.alibi:
        return "falcon with ALiBi derives positions from a padding mask"
    if kind not in VERIFIED or not (model.config is config or model.config.model_type in WRAPPERS):
        return f"{model.config.model_type} has not been verified against model.generate with the ragged cache"
    implementation = config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise UnsupportedModelError(
            f"attention implementation {implementation!r} takes no explicit mask; "
            'call model.set_attn_implementation("sdpa") first'
        )
    return ""


def _windows(config: Any) -> dict[str, int | None]:
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    types = getattr(config, "layer_types", None)
    if types:
        return {kind: window if kind == "sliding_attention" else None for kind in types}
    return {"sliding_attention" if window else "full_attention": window}


def _shallow_copy(module: Any) -> Any:
    if "forward" in vars(module):
        raise UnsupportedModelError(
            f"{type(module).__name__} has had its forward method replaced (by a library that spreads a model over "
            "devices, say), so its layers cannot be run one by one; run all of them, or draft with a separate model or "
            "PromptLookup(n)"
        )
    clone = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # its children and its hooks are its own from now on
            vars(clone)[name] = copy.copy(value)
    return clone


def context_length(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a row may hold; None where nothing bounds them.

    A table of positions ends where it ends. Rotary positions are computed and never end: their limit is the length
    that the model was made for, as far as their scaling reaches. State-space models keep no positions, and ALiBi's
    biases go on for ever, unless they are a table too (MPT).
    """
    config: Any = model.config.get_text_config(decoder=True)
    if config.model_type == "mpt":
        return int(config.max_seq_len)
    alibi = config.model_type == "bloom" or getattr(config, "alibi", False)
    # RWKV's configuration holds a length, of its training; it has no heads because it has no attention.
    if alibi or not hasattr(config, "num_attention_heads"):
        return None
    lengths = (getattr(config, name, None) for name in _LENGTHS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    return None if length is None else scaled_length(config, length)
