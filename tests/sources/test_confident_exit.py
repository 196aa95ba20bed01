"""Confident exit against CALM's rule written out: no cache, no batch, no layer left out, one full pass a question."""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import architectures
from descant import (
    Beam,
    ConfidentExit,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    DoLa,
    EarlyExit,
    Likelihood,
    NoRepeatNGram,
    Output,
    PromptLookup,
    Sample,
    SettingsError,
    Speculative,
    UnsupportedModelError,
    WhenUncertain,
)
from descant.models import inspect_model

FAMILIES = [
    "bloom", "cohere2", "falcon", "gemma3_text", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral windowed",
    "mixtral", "mpt", "nanochat", "opt projected", "phi", "qwen2 windowed", "qwen3",
]  # fmt: skip
PROMPTS = architectures.make_prompts(3, 7, 5)
NEW = 8
MODEL = architectures.build("qwen2", num_hidden_layers=4)


class Calm:
    """Greedy decoding by the paper's rule. `confidences` are all that it looked at."""

    def __init__(self, model: Any, exit_: ConfidentExit) -> None:
        self.model = model
        self.exit = exit_
        _, self.layers = inspect_model(model).decoder()
        self.confidences: list[float] = []

    @contextmanager
    def states(self, frozen: dict[int, tuple[int, torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        """Collect the last position's state after each layer, where positions keep theirs from some layer on."""
        seen: list[torch.Tensor] = []

        def hook(number: int, args: Any, kwargs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if number == 1:
                seen.append((args[0] if args else kwargs["hidden_states"])[0, -1])
            for position, (layer, state) in frozen.items():
                if layer <= number:
                    hidden[0, position] = state
            seen.append(hidden[0, -1].clone())
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handles = [
            layer.register_forward_hook(
                lambda _, args, kwargs, output, number=number: hook(number, args, kwargs, output), with_kwargs=True
            )
            for number, layer in enumerate(self.layers, start=1)
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def logits(
        self, text: Sequence[int], frozen: dict[int, tuple[int, torch.Tensor]]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        with self.states(frozen) as seen:
            return self.model(torch.tensor([list(text)]), use_cache=False).logits[0, -1], seen

    @torch.inference_mode()
    def __call__(self, prompt: Sequence[int], count: int = NEW) -> tuple[list[int], list[int]]:
        """Return the new tokens, and after how many layers each was chosen."""
        text, run = list(prompt), [len(self.layers)]
        frozen: dict[int, tuple[int, torch.Tensor]] = {}
        text.append(int(self.logits(text, frozen)[0].argmax()))
        for number in range(1, count):
            logits, seen = self.logits(text, frozen)
            threshold = self.exit.threshold
            if self.exit.decay is not None:
                threshold = min(1, max(0, 0.9 * threshold + 0.1 * math.exp(-self.exit.decay * number)))
            leaves = len(self.layers)
            for layer in self.exit.layers or range(1, len(self.layers)):
                at_exit, _ = self.logits(text, {**frozen, len(text) - 1: (layer, seen[layer])})
                p = sorted(at_exit.double().softmax(-1).tolist())
                a, b = seen[layer].double(), seen[layer - 1].double()
                cosine = float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())
                self.confidences.append(p[-1] - p[-2] if self.exit.measure == "softmax" else cosine)
                if self.confidences[-1] > threshold:
                    logits, leaves = at_exit, layer
                    break
            frozen[len(text) - 1] = leaves, seen[leaves]
            run.append(leaves)
            text.append(int(logits.argmax()))
        return text[len(prompt) :], run


def balanced(model: Any, **settings: Any) -> ConfidentExit:
    """An exit whose threshold about half of the confidences exceed."""
    calm = Calm(model, ConfidentExit(threshold=1, **settings))
    for prompt in PROMPTS[:2]:
        calm(prompt, 6)
    found = statistics.median(calm.confidences[: len(calm.confidences) // 2 * 2])
    return ConfidentExit(threshold=min(1, max(0, found)), **settings)


def decode(decoder: Decoder, prompts: Any = PROMPTS, **settings: Any) -> list[Output]:
    return decoder.generate(prompts, **{"max_new_tokens": NEW, **settings})


def check_family(name: str, **settings: Any) -> None:
    model = architectures.build(name)
    setting = balanced(model, **settings)
    expected = [Calm(model, setting)(prompt) for prompt in PROMPTS]
    outputs = decode(Decoder(model, confident_exit=setting))
    assert [(out.token_ids, out.exit_layers) for out in outputs] == expected
    assert any(layer < inspect_model(model).layers for _, run in expected for layer in run)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_and_layers_are_the_papers(name: str) -> None:
    check_family(name, measure="state" if name in ("falcon", "qwen3", "mpt") else "softmax")


@pytest.mark.heavy
@pytest.mark.parametrize("name", architectures.RAGGED)
@pytest.mark.parametrize("measure", ["softmax", "state"])
def test_every_architecture(name: str, measure: str) -> None:
    check_family(name, measure=measure)


@pytest.mark.parametrize("measure", ["softmax", "state"])
@pytest.mark.parametrize("settings", [{"layers": [1, 3]}, {"decay": 0.5}])
def test_settings(measure: str, settings: dict[str, Any]) -> None:
    setting = balanced(MODEL, measure=measure, **settings)
    [out] = decode(Decoder(MODEL, confident_exit=setting), PROMPTS[:1], max_new_tokens=16)
    assert (out.token_ids, out.exit_layers) == Calm(MODEL, setting)(PROMPTS[0], 16)
    assert out.method["confident_exit"] == {
        "name": "ConfidentExit",
        **vars(setting),
        "layers": setting.layers and [1, 3],
    }


@pytest.mark.parametrize("measure", ["softmax", "state"])
def test_at_threshold_1_nothing_exits(measure: Any) -> None:
    plain = decode(Decoder(MODEL))
    outputs = decode(Decoder(MODEL, confident_exit=ConfidentExit(measure, 1)))
    assert [out.token_ids for out in outputs] == [out.token_ids for out in plain]
    assert all(set(out.exit_layers or ()) == {4} for out in outputs)
    assert plain[0].exit_layers is None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 2},
        {"strategy": Sample(), "seed": 5},
        {"strategy": Beam(3)},
        {"strategy": Beam(2), "scoring": Contrastive()},
        {"scoring": WhenUncertain(Contrastive(), 1.0), "processors": [NoRepeatNGram(2)]},
    ],
)
def test_rows_do_not_depend_on_each_other(settings: dict[str, Any]) -> None:
    decoder = Decoder(MODEL, amateur=architectures.near(MODEL, 0.05), confident_exit=balanced(MODEL))
    settings = {"scoring": Likelihood(), **settings}
    together = decode(decoder, **settings)
    if "seed" not in settings:  # a row's draws depend on its place in the call
        alone = [decode(decoder, [prompt], **settings)[0] for prompt in PROMPTS]
        assert [(out.token_ids, out.exit_layers) for out in together] == [(o.token_ids, o.exit_layers) for o in alone]
        assert together[0].alternatives == () or together[0].alternatives[0].exit_layers is not None
    assert together[0].token_ids == decode(decoder, PROMPTS[:1], **settings)[0].token_ids
    assert any(layer < 4 for out in together for layer in out.exit_layers or ())


@pytest.mark.parametrize("draft", [PromptLookup(1), EarlyExit(1), None])
@pytest.mark.parametrize("scoring", [Likelihood(), Contrastive()])
def test_speculation_changes_neither_tokens_nor_layers(draft: Any, scoring: Any) -> None:
    decoder = Decoder(MODEL, amateur=architectures.near(MODEL, 0.02), confident_exit=balanced(MODEL, decay=0.3))
    plain = decode(decoder, scoring=scoring, max_new_tokens=16)
    drafted = decode(decoder, scoring=scoring, strategy=Speculative(draft=draft, tokens=3), max_new_tokens=16)
    assert [(o.token_ids, o.exit_layers) for o in drafted] == [(o.token_ids, o.exit_layers) for o in plain]
    assert any(out.speculation and out.speculation.drafted for out in drafted)


def test_a_long_prompt_that_is_read_in_parts_runs_through_all_layers() -> None:
    model = architectures.build("llama", max_position_embeddings=4096)
    [prompt] = architectures.make_prompts(2049)
    decoder = Decoder(model, confident_exit=ConfidentExit(threshold=0))
    [out] = decode(decoder, [prompt], max_new_tokens=2)
    assert out.exit_layers == [3, 1]
    assert out.token_ids[0] == decode(Decoder(model), [prompt], max_new_tokens=1)[0].token_ids[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "entropy"}, 'use "softmax" or "state"'),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"layers": []}, "numbers of layers"),
        ({"layers": [0]}, "numbers of layers"),
        ({"decay": 0}, "above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ConfidentExit(**settings)


@pytest.mark.usefixtures("unchecked_types")
def test_what_cannot_be_right_is_refused() -> None:
    setting = ConfidentExit()
    with pytest.raises(SettingsError, match="choose of 1 to 3"):
        Decoder(MODEL, confident_exit=ConfidentExit(layers=[4]))
    with pytest.raises(SettingsError, match="compiled or captured pass"):
        Decoder(MODEL, confident_exit=setting, runner="compiled")
    with pytest.raises(SettingsError, match="amateur is an EarlyExit"):
        Decoder(MODEL, amateur=EarlyExit(1), confident_exit=setting)
    with pytest.raises(SettingsError, match="give a ConfidentExit"):
        Decoder(MODEL, confident_exit=0.9)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="cannot skip layers"):
        Decoder(architectures.build("mamba"), confident_exit=setting)
    decoder = Decoder(MODEL, confident_exit=setting)
    with pytest.raises(SettingsError, match="reads layers"):
        decoder.generate(PROMPTS, DoLa())
    with pytest.raises(SettingsError, match="hidden states"):
        decoder.generate(PROMPTS, strategy=ContrastiveSearch())
    with pytest.raises(SettingsError, match="score reads whole texts"):
        decoder.score([[3]], [[4]])
