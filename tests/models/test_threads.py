"""Threads that decode with one model: its passes take turns, and other users' passes are let through."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
from descant import (
    ConfidentExit,
    ContrastiveLogitsProcessor,
    ContrastiveSearch,
    Decoder,
    DoLa,
    EarlyExit,
    OtherPrompt,
    Speculative,
    Window,
)
from descant.models import inspect_model, open_model
from descant.models.passes.step import Bucket, Step
from descant.models.sharing import lock_of
from descant.sources.early_layers import EarlyLayers
from test_decoder import LONGROPE

LOW = DoLa("low")
WAYS: dict[str, tuple[str, Callable[[Any, Any], Any], dict[str, Any]]] = {
    "greedy": ("qwen2", lambda expert, _: Decoder(expert, runner="eager"), {}),
    "contrast": ("qwen2", lambda expert, amateur: Decoder(expert, amateur=amateur), {}),
    "layers": ("qwen2", lambda expert, _: Decoder(expert), {"scoring": LOW}),
    "early exit": ("llama", lambda expert, _: Decoder(expert, amateur=EarlyExit(1)), {}),
    "hidden states": ("qwen2", lambda expert, _: Decoder(expert), {"strategy": ContrastiveSearch(3)}),
    "window": ("qwen2", lambda expert, _: Decoder(expert, amateur=Window(expert, 3)), {}),
    "other prompt": ("qwen2", lambda expert, _: Decoder(expert, amateur=OtherPrompt([4])), {}),
    "drafts": ("qwen2", lambda expert, amateur: Decoder(expert, amateur=amateur), {"strategy": Speculative()}),
    "early layers": ("qwen2", lambda expert, _: Decoder(expert), {"strategy": Speculative(draft=EarlyExit(1))}),
    "confident": ("qwen2", lambda expert, _: Decoder(expert, confident_exit=ConfidentExit(threshold=0.0)), {}),
    "bias": ("bloom", lambda expert, _: Decoder(expert), {}),
    "recurrent": ("mamba", lambda expert, _: Decoder(expert), {}),
}
PROMPTS = [[5, 6, 7], [9], list(range(20, 33))]


def build(name: str, seed: int = 1) -> Any:
    return architectures.build(name, seed=seed)


def owned(model: Any) -> bool:
    lock: Any = lock_of(model)
    return bool(lock._is_owned())


@pytest.mark.parametrize("way", WAYS)
def test_every_module_runs_while_its_models_lock_is_held_and_no_other(way: str) -> None:
    kind, make, settings = WAYS[way]
    expert, amateur = build(kind), build("llama", seed=2)
    ran: list[bool] = []

    def watch(model: Any, other: Any) -> None:
        for module in model.modules():
            module.register_forward_pre_hook(lambda *_: ran.append(owned(model) and not owned(other)))

    watch(expert, amateur)
    watch(amateur, expert)
    make(expert, amateur).generate(PROMPTS, max_new_tokens=4, **settings)
    assert ran
    assert all(ran)
    assert not owned(expert)


def test_the_amateur_of_a_processor_is_locked() -> None:
    amateur = build("llama")
    ran: list[bool] = []
    amateur.lm_head.register_forward_pre_hook(lambda *_: ran.append(owned(amateur)))
    ContrastiveLogitsProcessor(amateur)(torch.tensor([[3, 4, 5]]), torch.zeros(1, 97))
    assert ran == [True]


def test_a_model_has_one_lock_whoever_decodes_with_it() -> None:
    expert = build("qwen2")
    assert inspect_model(expert).lock is inspect_model(expert).lock is lock_of(expert)
    assert inspect_model(expert).lock is not inspect_model(build("qwen2")).lock


def in_a_second_thread(work: Callable[[], Any]) -> Future[Any]:
    """Start something, and wait until it is done or, as far as can be seen, waits itself."""
    threads = ThreadPoolExecutor(1)
    started = threads.submit(work)
    threads.shutdown(wait=False)
    wait([started], timeout=0.3)
    return started


def once_in_a_pass(module: nn.Module, work: Callable[[], Any]) -> None:
    """Do something when a module is first called."""

    def hook(*_: Any) -> None:
        handle.remove()
        work()

    handle = module.register_forward_pre_hook(hook)


COPIES: dict[str, Callable[[Any], Any]] = {
    "step": lambda model: Step(inspect_model(model), Bucket(1, 1, every=False)).model,
    "early layers": lambda model: EarlyLayers(open_model(inspect_model(model)), 1, norm=True)._model.model,  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_that_is_made_meanwhile_has_no_hooks_of_a_pass(kind: str) -> None:
    model = build("qwen2")
    made: list[Future[Any]] = []
    once_in_a_pass(model.model.embed_tokens, lambda: made.append(in_a_second_thread(lambda: COPIES[kind](model))))
    Decoder(model).generate(PROMPTS, LOW, max_new_tokens=1)
    copied = made[0].result()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in copied.modules())


def test_a_second_pass_waits_for_the_first() -> None:
    model = architectures.build("phi3", seed=1, rope_parameters=LONGROPE, original_max_position_embeddings=12)
    long, short = list(range(20, 40)), [5, 6, 7]

    def decode(text: list[int]) -> list[int]:
        return Decoder(model).generate([text], max_new_tokens=6)[0].token_ids

    expected = [decode(text) for text in (long, short)]
    others: list[Future[Any]] = []

    def interrupt() -> None:
        others.append(in_a_second_thread(lambda: decode(short)))
        assert not others[0].done()

    once_in_a_pass(model.model.layers[0], interrupt)
    assert decode(long) == expected[0]
    assert others[0].result() == expected[1]


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    """Run a pass that is none of descant's."""
    logits: Tensor = model(input_ids=torch.tensor([[3, 4, 5, 6]])).logits
    return logits


@pytest.mark.parametrize("way", ["greedy", "layers", "early exit", "hidden states", "bias", "confident"])
def test_passes_of_others_are_let_through(way: str) -> None:
    """The whole of one comes in the middle of each of the first passes, that of an inspection included."""
    kind, make, settings = WAYS[way]
    model = build(kind)
    expected = logits_of(model), make(model, None).generate(PROMPTS, max_new_tokens=3, **settings)
    found: list[Tensor] = []
    main = threading.get_ident()

    def interrupt(*_: Any) -> None:
        if threading.get_ident() == main:
            with ThreadPoolExecutor(1) as threads:
                found.append(threads.submit(logits_of, model).result())

    model.get_input_embeddings().register_forward_pre_hook(interrupt)
    outs = make(model, None).generate(PROMPTS, max_new_tokens=3, **settings)
    assert [out.token_ids for out in outs] == [out.token_ids for out in expected[1]]
    assert len(found) >= 3
    assert all(torch.equal(logits, expected[0]) for logits in found)


def test_a_pass_of_others_may_meet_a_hook_that_is_gone_when_it_is_called() -> None:
    """torch looks up how a hook is to be called after it has found it."""
    model = build("qwen2")
    expected, decoder = logits_of(model), Decoder(model)
    decoder.generate(PROMPTS, LOW, max_new_tokens=1)  # its layers are inspected
    arrived, go = threading.Event(), threading.Event()
    main = threading.get_ident()

    def stop(*_: Any) -> None:
        if threading.get_ident() != main:
            arrived.set()
            go.wait()

    with ThreadPoolExecutor(1) as threads:
        others: list[Future[Any]] = []

        def interrupt() -> None:
            others.append(threads.submit(logits_of, model))
            arrived.wait()

        model.model.layers[0].register_forward_pre_hook(stop)
        once_in_a_pass(model.model.embed_tokens, interrupt)
        decoder.generate(PROMPTS, LOW, max_new_tokens=1)
        go.set()
        assert torch.equal(others[0].result(), expected)
