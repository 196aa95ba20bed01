"""Loading of checkpoints: whole ones as transformers loads them, broken ones refused in one line."""

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CLIPConfig,
    GPTNeoXConfig,
    PreTrainedConfig,
    Qwen2ForCausalLM,
    T5Config,
)

import descant.models.loading.load as load_module
from checkpoints import AMATEUR_WIDTH, EXPERT_WIDTH, refusal, write_pair
from descant.errors import OutOfMemoryError, SettingsError
from descant.models.architecture import context_length
from descant.models.linears import packing
from descant.models.loading import eos_token_ids, inspecting, load_model, load_tokenizer, precision
from descant.models.loading.inspecting import missing_readers
from descant.sources.amateur import describe_model
from descant.tokens import check_same_vocabulary, encode


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def amateur(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(pair[1], tmp_path / "amateur"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_pair_loads_as_transformers_loads_it(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        assert len(list(folder.glob("*.safetensors"))) >= 2
        model, expected = load_model(folder, device="cpu"), AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = load_tokenizer(folder)
        ids = torch.tensor([encode(tokenizer, "Hello, world!", chat=True)])
        with torch.no_grad():
            assert torch.equal(model(ids).logits, expected(ids).logits)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert model.config._attn_implementation == "sdpa"
        assert model.name_or_path == str(folder)
        ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        assert eos_token_ids(model, tokenizer) == tuple(ends)
        assert context_length(model) == 512


def test_loading_is_silent_and_leaves_transformers_as_it_was(
    pair: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    load_model(pair[1])
    load_tokenizer(pair[1])
    assert capfd.readouterr() == ("", "")
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before


def test_pair_shares_its_vocabulary_at_two_widths(pair: tuple[Path, Path]) -> None:
    models = [load_model(folder) for folder in pair]
    tokenizers = [load_tokenizer(folder) for folder in pair]
    widths = [model.config.vocab_size for model in models]
    assert widths == [EXPERT_WIDTH, AMATEUR_WIDTH]
    assert check_same_vocabulary(*tokenizers, *widths) == EXPERT_WIDTH
    tokenizer = load_tokenizer(pair[0])
    assert "You are Qwen" in tokenizer.decode(encode(tokenizer, "Hi", chat=True))


def test_greedy_text_of_the_pair_is_varied(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        model, tokenizer = load_model(folder, device="cpu"), load_tokenizer(folder)
        texts = []
        for prompt in ("Hello world", "The quick brown", "What is 3?"):
            ids = torch.tensor([encode(tokenizer, prompt, chat=True)])
            out = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
            texts.append(tuple(out))
            assert len(set(out)) > len(out) // 2
        assert len(set(texts)) == len(texts)


def test_dtype_is_the_checkpoints_or_the_one_asked_for(amateur: Path, processor: Callable[..., None]) -> None:
    processor("bfloat16")
    assert load_model(amateur).dtype == torch.float32
    assert load_model(amateur, dtype="bf16").dtype == torch.bfloat16
    assert load_model(amateur, dtype=torch.float64).dtype == torch.float64
    assert load_model(halved(amateur)).dtype == torch.bfloat16


def halved(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder / "half")
    return folder / "half"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a processor with the instructions for some formats."""

    def be(*formats: str) -> None:
        monkeypatch.setattr(precision, "computes_well", lambda dtype, device: str(dtype).split(".")[1] in formats)

    return be


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_auto_takes_float32_where_the_processor_is_slow_in_the_checkpoints_format(
    dtype: torch.dtype, amateur: Path, processor: Callable[..., None]
) -> None:
    processor("float32")
    folder = halved(amateur, dtype)
    model = load_model(folder, device="cpu")
    name = str(dtype).removeprefix("torch.")
    assert (model.dtype, describe_model(model)["dtype_reason"]) == (
        torch.float32,
        f"auto: float32, as the processor is slow in the checkpoint's {name}",
    )
    half = load_model(folder, device="cpu", dtype=name)
    assert (half.dtype, describe_model(half)["dtype_reason"]) == (dtype, None)
    for weight, rounded in zip(model.parameters(), half.parameters(), strict=True):
        assert torch.equal(weight, rounded.float())


def test_auto_keeps_what_float32_would_not_fit_beside(
    amateur: Path, processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("float32")
    folder = halved(amateur)
    size = (folder / "model.safetensors").stat().st_size
    for available, dtype in ((4 * size, torch.float32), (4 * size - 2, torch.bfloat16)):
        free = SimpleNamespace(available=available)
        monkeypatch.setattr(load_module.psutil, "virtual_memory", lambda found=free: found)
        model = load_model(folder, device="cpu")
        assert model.dtype == dtype
    assert describe_model(model)["dtype_reason"] == (
        "auto: the checkpoint's, though the processor is slow in bfloat16: float32 would crowd the memory"
    )


def test_auto_keeps_the_format_that_is_rounded_from(amateur: Path, processor: Callable[..., None]) -> None:
    processor("float32")
    assert load_model(halved(amateur), device="cpu", quantization="int8").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "device", "onednn", "instructions", "well"),
    [
        (torch.bfloat16, "cpu", True, True, True),
        (torch.bfloat16, "cpu", False, True, False),
        (torch.bfloat16, "cpu", True, False, False),  # oneDNN says so of any AVX-512
        (torch.float16, "cpu", True, False, True),
        (torch.float16, "cpu", False, True, False),
        (torch.float32, "cpu", False, False, True),
        (torch.bfloat16, "cuda", False, False, True),
    ],
)
def test_a_processor_computes_well_what_it_has_instructions_for(
    dtype: torch.dtype, device: str, onednn: bool, instructions: bool, well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: onednn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert precision.computes_well(dtype, torch.device(device)) is well


def test_pickled_weights_need_permission(amateur: Path) -> None:
    model = load_model(amateur)
    for file in amateur.glob("*.safetensors*"):
        file.unlink()
    torch.save(model.state_dict(), amateur / "pytorch_model.bin")
    assert "allow_pickle=True" in refusal(lambda: load_model(amateur))
    again = load_model(amateur, allow_pickle=True)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_corrupt_json_of_a_model(amateur: Path, file: str) -> None:
    (amateur / file).write_text("{broken")
    assert f"{file} (" in refusal(lambda: load_model(amateur))
    (amateur / file).write_text("[]")
    assert file in refusal(lambda: load_model(amateur))


def test_what_reads_a_tokenizer_is_named_where_it_is_missing(amateur: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes the file for one of tiktoken's, and would have that installed."""
    monkeypatch.setattr(inspecting, "_is_installed", lambda package: False)
    (amateur / "tokenizer.json").unlink()
    (amateur / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    edit(amateur / "tokenizer_config.json", lambda c: c.update(tokenizer_class="LlamaTokenizer"))
    message = refusal(lambda: load_tokenizer(amateur))
    assert message.endswith("(what reads its vocabulary is not installed): pip install sentencepiece protobuf")


def test_what_reads_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(missing_readers({"tokenizer.json", "tokenizer.model"})) == []
    assert list(missing_readers({"vocab.json", "merges.txt"})) == []
    monkeypatch.setattr(inspecting, "_is_installed", lambda package: package == "protobuf")
    assert list(missing_readers({"tokenizer.model"})) == ["sentencepiece"]
    assert list(missing_readers({"qwen.tiktoken"})) == ["tiktoken"]
    assert list(missing_readers({"tekken.json"})) == ["mistral-common"]


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_corrupt_json_of_a_tokenizer(amateur: Path, file: str) -> None:
    (amateur / file).write_text("{broken")
    assert file in refusal(lambda: load_tokenizer(amateur))


def test_tokenizer_of_wrong_content(amateur: Path) -> None:
    (amateur / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    assert "cannot load the tokenizer" in refusal(lambda: load_tokenizer(amateur))


def test_missing_files(amateur: Path) -> None:
    (amateur / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(lambda: load_tokenizer(amateur))
    (amateur / "model-00002-of-00002.safetensors").rename(amateur / "away")
    assert "model-00002-of-00002.safetensors, which the index names, is missing" in refusal(lambda: load_model(amateur))
    for file in amateur.glob("model*"):
        file.unlink()
    assert "no weights" in refusal(lambda: load_model(amateur))
    (amateur / "config.json").unlink()
    assert "no config.json" in refusal(lambda: load_model(amateur))
    (amateur / "adapter_config.json").write_text("{}")
    assert "adapter" in refusal(lambda: load_model(amateur))


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_safetensors(amateur: Path, keep: float) -> None:
    file = amateur / "model-00001-of-00002.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    assert "is corrupt" in refusal(lambda: load_model(amateur))


def test_garbage_for_safetensors(amateur: Path) -> None:
    (amateur / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 4096)
    assert "is corrupt" in refusal(lambda: load_model(amateur))


def test_weight_missing_from_its_shard(amateur: Path) -> None:
    file = amateur / "model-00001-of-00002.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    assert f"lacks {name}" in refusal(lambda: load_model(amateur))


def test_weight_missing_from_the_index_is_never_made_up(amateur: Path) -> None:
    edit(amateur / "config.json", lambda c: c.update(num_hidden_layers=2, layer_types=["full_attention"] * 2))
    message = refusal(lambda: load_model(amateur))
    assert "weights are missing" in message
    assert "model.layers.1." in message


def test_untied_head_must_be_there(amateur: Path) -> None:
    edit(amateur / "config.json", lambda c: c.update(tie_word_embeddings=False))
    assert "1 weights are missing" in refusal(lambda: load_model(amateur))


def test_weight_of_another_shape(amateur: Path) -> None:
    edit(amateur / "config.json", lambda c: c.update(intermediate_size=96))
    message = refusal(lambda: load_model(amateur))
    assert "other shapes" in message
    assert "instead of" in message


def test_invalid_setting_in_the_config(amateur: Path) -> None:
    edit(amateur / "config.json", lambda c: c.update(hidden_size="wide"))
    assert "config.json is not valid" in refusal(lambda: load_model(amateur))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (BertConfig(architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        (T5Config(), "t5"),
        (CLIPConfig(), "clip"),
    ],
)
def test_not_a_causal_language_model(config: PreTrainedConfig, name: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    assert f"no causal language model ({name})" in refusal(lambda: load_model(tmp_path))


def test_causal_models_with_odd_configs_are_let_through(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "vocab_size": 32}
    decoder = BertLMHeadModel(BertConfig(is_decoder=True, **sizes))
    decoder.save_pretrained(tmp_path / "bert")
    load_model(tmp_path / "bert")
    AutoModelForCausalLM.from_config(GPTNeoXConfig(**sizes)).save_pretrained(tmp_path / "neox")
    load_model(tmp_path / "neox")


def test_code_of_a_checkpoint_is_not_run_without_permission(amateur: Path) -> None:
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    edit(amateur / "config.json", lambda c: c.update(model_type="own", auto_map=classes))
    assert "trust_remote_code=True" in refusal(lambda: load_model(amateur))
    edit(amateur / "config.json", lambda c: c.pop("auto_map"))
    assert "does not know the model type 'own'" in refusal(lambda: load_model(amateur))
    edit(
        amateur / "tokenizer_config.json",
        lambda c: c.update(auto_map={"AutoTokenizer": [None, "own.Tokenizer"]}),
    )
    edit(amateur / "tokenizer_config.json", lambda c: c.update(tokenizer_class="OwnTokenizer"))
    assert "trust_remote_code=True" in refusal(lambda: load_tokenizer(amateur))


def test_weights_beyond_the_memory_are_refused_with_the_figure(amateur: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little = SimpleNamespace(available=150_000)
    monkeypatch.setattr(load_module.psutil, "virtual_memory", lambda: little)
    load_model(amateur, device="cpu")
    with pytest.raises(OutOfMemoryError, match=r"need 0\.0 GB on cpu"):
        load_model(amateur, device="cpu", dtype="float64")


@pytest.mark.usefixtures("bfloat16_kernels")
def test_packing_on_loading(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packing._SMALLEST, torch.bfloat16, 0)

    def kinds(**options: Any) -> set[str]:
        model = load_model(pair[1], device="cpu", **options)
        return {type(module).__name__ for module in model.modules()} & {"Linear", "PackedLinear"}

    assert kinds(dtype="bfloat16") == {"Linear"}
    assert kinds(dtype="bfloat16", pack="auto") == kinds(dtype="bfloat16", pack=True) == {"PackedLinear"}
    assert kinds(dtype="float32", pack="auto") == {"Linear"}


def test_packing_is_refused_off_the_cpu(amateur: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "resolve_device", lambda _: torch.device("meta"))
    with pytest.raises(SettingsError, match="pack=True is for the CPU"):
        load_model(amateur, pack=True)
