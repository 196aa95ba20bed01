"""Compiled passes against `model.generate` and against eager passes over the same cache."""

import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch

import architectures
from descant import Decoder, Likelihood, SettingsError, Speculative
from descant.models import Runner, RunnerName, cache, inspect_model, open_model, open_runner
from descant.models.architecture import Architecture
from descant.models.passes import artefacts
from descant.models.passes import runner as runner_module
from descant.models.passes.compiling import compile_bucket
from descant.models.passes.runner import bucket_of
from descant.models.passes.step import Bucket
from descant.models.ragged import RaggedModel
from naive_rows import best, prompts_of, reference

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


@pytest.fixture
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer shapes to compile."""
    monkeypatch.setattr(runner_module, "ROW_BUCKETS", (4,))
    monkeypatch.setattr(runner_module, "TOKEN_BUCKETS", (1, 5))
    monkeypatch.setattr(runner_module, "DRAFT_BUCKETS", (2,))


@pytest.fixture
def architecture() -> Architecture:
    return inspect_model(architectures.build("qwen2 windowed"))


def opened(architecture: Architecture, runner: Runner | None = None) -> RaggedModel:
    model = open_model(architecture, runner)
    assert isinstance(model, RaggedModel)
    return model


def started(architecture: Architecture, runner: Runner | None = None) -> RaggedModel:
    model = opened(architecture, runner)
    model.add_rows(2)
    model.forward([[5, 6, 7], [8]])
    return model


class Counting(Runner):
    """Counts compiled passes; lets only every `nth` pass be compiled."""

    nth = 1
    asked = used = 0

    def find(self, rows: int, tokens: int, keep: int, drafts: int = 0):  # type: ignore[no-untyped-def]
        self.asked += 1
        if self.asked % self.nth:
            return None
        found = super().find(rows, tokens, keep, drafts)
        self.used += found is not None
        return found


def decode(model: RaggedModel, prompts: list[list[int]], *, keep_all: bool) -> list[list[int]]:
    """Greedy decoding with junk drafts rolled back, a row that joins late and rows that leave when they are done."""
    source = random.Random(1)
    texts: list[list[int]] = [[] for _ in prompts]
    model.add_rows(2)
    rows = [0, 1]
    for row, token in zip(rows, best(model.forward([prompts[0], prompts[1]])), strict=True):
        texts[row].append(token)
    while rows:
        if len(texts[0]) == 4 and len(rows) < len(prompts):
            model.add_rows(1)
            texts[2].append(best(model.forward([prompts[2]], first_row=2))[0])
            rows.append(2)
        before = list(model.lengths)
        drafts = [[texts[row][-1], *(source.randrange(2, 90) for _ in range(source.randint(0, 4)))] for row in rows]
        most = max(map(len, drafts))
        logits = model.forward(drafts, keep=most if keep_all else 1)
        if keep_all:
            for row, draft, scores in zip(rows, drafts, logits, strict=True):
                texts[row].append(int(scores[most - len(draft)].argmax()))
            model.truncate([length + 1 for length in before])
        else:
            model.truncate(before)
            for row, token in zip(rows, best(model.forward([[texts[row][-1]] for row in rows])), strict=True):
                texts[row].append(token)
        kept = [place for place, row in enumerate(rows) if len(texts[row]) < NEW_TOKENS]
        model.keep_rows(kept)
        rows = [rows[place] for place in kept]
    return texts


@torch.inference_mode()
def check_against_generate(name: str, folder: Path, nth: int = 1, **changes: object) -> None:
    network = architectures.build(name, **changes)
    seen = inspect_model(network)
    prompts = prompts_of((5, 9, 3))
    expected = [reference(network, prompt, NEW_TOKENS) for prompt in prompts]
    runner = Counting(seen, "compiled", folder, compile_bucket)
    runner.nth = nth
    for keep_all in (True, False):
        assert decode(opened(seen, runner), prompts, keep_all=keep_all) == expected
    assert runner.used > 3 * NEW_TOKENS // nth, "next to nothing ran compiled: nothing is tested"


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.usefixtures("few_buckets")
def test_compiled_passes_decode_as_generate_does_alone_and_between_eager_ones(nth: int, folder: Path) -> None:
    check_against_generate("qwen2 windowed", folder, nth)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "mistral windowed", "gemma3_text", "gemma2", "opt", "falcon", "phi3", "mixtral"]
)
@pytest.mark.usefixtures("few_buckets")
def test_other_architectures_compiled_decode_as_generate_does(name: str, folder: Path) -> None:
    check_against_generate(name, folder)


@pytest.mark.heavy
@torch.inference_mode()
@pytest.mark.usefixtures("few_buckets")
def test_what_cannot_be_compiled_runs_eagerly_and_says_so(folder: Path) -> None:
    """MPT's biases are cut to its context, which the tracer cannot tell from the buffers' capacity."""
    network = architectures.build("mpt")
    prompts = prompts_of((5, 9, 3))
    expected = [reference(network, prompt, NEW_TOKENS) for prompt in prompts]
    seen = inspect_model(network)
    with pytest.warns(RuntimeWarning, match="MptForCausalLM is not compiled and runs eagerly"):
        texts = decode(opened(seen, Counting(seen, "compiled", folder, compile_bucket)), prompts, keep_all=False)
    assert texts == expected


@pytest.mark.heavy
def test_every_bucket_that_a_decode_meets_gives_the_eager_tokens(folder: Path) -> None:
    check_against_generate("qwen2", folder)


class Packed(torch.nn.Module):
    """A linear layer in oneDNN's layout, held as a plain attribute."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().contiguous())
        self.bias = layer.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(states, self.packed, self.bias, "none", [], "")


@pytest.mark.heavy
@pytest.mark.usefixtures("few_buckets")
def test_packed_weights_are_shared_with_the_compiled_pass(folder: Path) -> None:
    import torch._inductor  # declares what oneDNN's product returns

    network = architectures.build("qwen2 windowed").float()
    for layer in network.model.layers:
        layer.mlp.up_proj, layer.self_attn.q_proj = Packed(layer.mlp.up_proj), Packed(layer.self_attn.q_proj)
    seen = inspect_model(network)
    runner = Counting(seen, "compiled", folder, compile_bucket)
    torch.testing.assert_close(logits_of(started(seen, runner)), logits_of(started(seen)), rtol=1e-4, atol=1e-4)
    assert runner.used == 1


@torch.inference_mode()
def logits_of(model: RaggedModel) -> torch.Tensor:
    return model.forward([[3], [4]])


@pytest.mark.usefixtures("few_buckets")
@torch.inference_mode()
def test_greedy_drafts_of_one_call_are_those_of_single_passes(folder: Path, architecture: Architecture) -> None:
    model, eager = started(architecture, open_runner(architecture, "compiled", folder)), started(architecture)
    for tokens in ([[9, 4], [3]], [[7], [5]]):  # padded tokens, then none; drafts that are rolled back between them
        before = list(model.lengths)
        found = model.draft(tokens, 2)
        assert found is not None
        logits, ids = found
        read = [len(row) for row in tokens]
        assert list(model.lengths) == [held + count + 1 for held, count in zip(before, read, strict=True)]
        following = tokens
        for place in range(2):
            expected = eager.forward(following)[:, 0]
            torch.testing.assert_close(logits[:, place], expected, rtol=1e-4, atol=1e-5)  # norms are in float32
            assert ids[:, place].tolist() == expected.argmax(-1).tolist()
            following = [[token] for token in ids[:, place].tolist()]
        kept = [held + count for held, count in zip(before, read, strict=True)]
        model.truncate(kept)
        eager.truncate(kept)


@pytest.mark.usefixtures("few_buckets")
def test_a_model_that_drafts_in_one_call_changes_no_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESCANT_CACHE", str(folder))
    calls = []
    draft = RaggedModel.draft

    def counting(self: RaggedModel, tokens: Sequence[Sequence[int]], count: int) -> object:
        found = draft(self, tokens, count)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(RaggedModel, "draft", counting)
    expert, amateur = architectures.build("qwen2 windowed"), architectures.build("qwen2 windowed", seed=1)
    with torch.no_grad():  # alike, so that some drafts stand
        for weight, other in zip(amateur.parameters(), expert.parameters(), strict=True):
            weight.copy_(0.98 * other + 0.02 * weight)
    prompts = prompts_of((5, 9, 3))
    plain = Decoder(expert, amateur=amateur, runner="eager").generate(prompts, Likelihood(), max_new_tokens=NEW_TOKENS)
    compiled = Decoder(expert, amateur=amateur, runner="compiled")
    for confidence in (0.0, 0.4):
        strategy = Speculative(tokens=2, confidence=confidence)
        outs = compiled.generate(prompts, Likelihood(), strategy=strategy, max_new_tokens=NEW_TOKENS)
        assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
        assert sum(out.speculation.accepted for out in outs if out.speculation) > 0
    assert any(calls)


@pytest.mark.usefixtures("few_buckets")
def test_a_later_runner_loads_what_was_compiled(
    folder: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = psutil.Process().children(recursive=True)
    assert open_runner(architecture, "auto", folder).warm_up([2], [1])
    assert psutil.Process().children(recursive=True) == processes, "a process goes on that was not asked for"
    monkeypatch.setattr(shutil, "which", lambda name: None)  # nothing could be compiled now
    expected = logits_of(started(architecture))
    for mode in ("compiled", "auto"):
        runner = Counting(architecture, mode, folder, compile_bucket)
        model = started(architecture, runner)
        for _ in range(8):
            torch.testing.assert_close(logits_of(model), expected, rtol=1e-5, atol=1e-5)
            model.truncate([3, 1])
        assert 0 < runner.used <= 8
    other = inspect_model(architectures.build("qwen2 windowed", seed=1))
    runner = Counting(other, "compiled", folder, compile_bucket)
    torch.testing.assert_close(logits_of(started(other, runner)), logits_of(started(other)), rtol=1e-5, atol=1e-5)
    assert runner.used == 1, "artefacts hold no weights, so another checkpoint shares them"


@pytest.mark.usefixtures("few_buckets")
def test_a_damaged_artefact_is_ignored_and_made_again(
    folder: Path, tmp_path: Path, architecture: Architecture, caplog: pytest.LogCaptureFixture
) -> None:
    open_runner(architecture, "compiled", folder).warm_up([2], [1])
    shutil.copytree(folder, tmp_path / "copy")
    key = artefacts.fingerprint(architecture)
    path = artefacts.artefact_path(tmp_path / "copy", key, Bucket(4, 1, every=False))
    for content in (b"", b"no archive", path.read_bytes()[:4000]):
        path.write_bytes(content)
        auto = Counting(architecture, "auto", tmp_path / "copy", compile_bucket)
        model = started(architecture, auto)
        for _ in range(8):
            logits_of(model)
        assert auto.used == 0
        assert "is damaged or foreign and is ignored" in caplog.text
        caplog.clear()
    assert open_runner(architecture, "compiled", tmp_path / "copy").warm_up([2], [1])
    assert path.stat().st_size > 4000
    assert [file.name for file in path.parent.iterdir() if file.name.startswith("tmp")] == []


@pytest.mark.usefixtures("few_buckets")
def test_without_a_compiler_passes_are_eager_and_one_warning_says_so(
    tmp_path: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    runner = open_runner(architecture, "compiled", tmp_path)
    model = started(architecture, runner)
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.forward([[3], [4]])
        model.forward([[3, 5], [4]], keep=2)
        assert torch.equal(logits_of(model), logits_of(_same(architecture)))
    assert [str(one.message).split(":")[0] for one in caught] == [
        "Qwen2ForCausalLM is not compiled and runs eagerly"
    ], [str(one.message) for one in caught]
    assert "C++ compiler" in str(caught[0].message)


def _same(architecture: Architecture) -> RaggedModel:
    model = started(architecture)
    model.forward([[3], [4]])
    model.forward([[3, 5], [4]], keep=2)
    return model


def test_auto_compiles_nothing_unasked_and_eager_nothing_at_all(tmp_path: Path, architecture: Architecture) -> None:
    modes: tuple[RunnerName, ...] = ("auto", "eager")
    for mode in modes:
        model = started(architecture, open_runner(architecture, mode, tmp_path))
        for _ in range(8):
            logits_of(model)
    assert not open_runner(architecture, "eager", tmp_path).warm_up()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_patched_for_each_pass_is_left_eager(tmp_path: Path) -> None:
    seen = inspect_model(architectures.build("bloom"))
    assert open_runner(seen, "compiled", tmp_path).find(1, 1, 1) is None


@pytest.mark.usefixtures("few_buckets")
def test_padding_that_does_not_fit_into_memory_is_left_out(
    folder: Path, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Counting(architecture, "compiled", folder, compile_bucket)
    model = started(architecture, runner)
    monkeypatch.setattr(cache, "free_memory", lambda device: 0)
    torch.testing.assert_close(logits_of(model), logits_of(started(architecture)))
    assert (runner.used, model.cache.capacity_rows) == (1, 2)


def test_a_pass_goes_to_the_smallest_shape_that_holds_it() -> None:
    assert bucket_of(1, 1, 1) == Bucket(1, 1, every=False)
    assert bucket_of(3, 4, 4) == Bucket(4, 5, every=True)
    assert bucket_of(64, 9, 1) == Bucket(64, 9, every=False)
    assert bucket_of(2, 1, 3) == Bucket(2, 3, every=True)
    assert bucket_of(65, 1, 1) is None
    assert bucket_of(1, 10, 1) is None


def test_the_key_tells_apart_what_code_depends_on(architecture: Architecture) -> None:
    key = artefacts.fingerprint(architecture)
    assert key == artefacts.fingerprint(inspect_model(architectures.build("qwen2 windowed", seed=1)))
    wider = inspect_model(architectures.build("qwen2 windowed", sliding_window=7))
    single = inspect_model(architectures.build("qwen2 windowed").float())
    assert len({key, artefacts.fingerprint(wider), artefacts.fingerprint(single)}) == 3


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_the_key_tells_threads_apart(architecture: Architecture, two_threads: None) -> None:
    with_two = artefacts.fingerprint(architecture)
    torch.set_num_threads(1)
    assert with_two != artefacts.fingerprint(architecture)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DESCANT_CACHE", str(tmp_path / "own"))
    assert artefacts.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DESCANT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert artefacts.cache_folder() == tmp_path / "descant"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert artefacts.cache_folder() == tmp_path / ".cache" / "descant"


@pytest.mark.parametrize("name", ["fast", "cached"])
def test_an_unknown_runner_is_refused(name: str, architecture: Architecture, unchecked_types: None) -> None:
    with pytest.raises(SettingsError, match=f"no runner '{name}'; choose 'auto', 'eager', .* 'auto' takes what was"):
        open_runner(architecture, name)  # type: ignore[arg-type]
