"""Captured steps and passes: the tokens of the loop, from operations that were recorded once."""

import copy
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import architectures
from architectures import make_prompts, near
from capturing import ELSEWHERE, Recorder, fits_a_graph, move_elsewhere
from descant import (
    Contrastive,
    Decoder,
    DecodingError,
    Greedy,
    Likelihood,
    NoRepeatNGram,
    PromptLookup,
    RepetitionPenalty,
    Sample,
    SettingsError,
    Speculative,
    Temperature,
    TopP,
    UnsupportedModelError,
    WhenUncertain,
)
from descant.engine import captured
from descant.engine.captured import RunAhead
from descant.method import Method
from descant.models import inspect_model, open_model, open_runner
from descant.models.cache import RaggedLayer
from descant.models.passes import graph
from descant.models.passes.probe import find_layout
from descant.models.passes.step import Bucket, Step
from descant.models.ragged import RaggedModel, StaticPass
from descant.processors import History, Processor
from descant.sources.sources import Sources
from descant.strategies import Strategy
from test_matrix import AMATEUR_DRAFTS, PROCESSORS, SCORINGS, WORKING, Cell, check_cell, decoder_of

VOCAB = 61
EXPERT = architectures.build("qwen2", seed=3, num_hidden_layers=2, vocab_size=VOCAB)
EXPERT.generation_config.eos_token_id = [4, 11]
AMATEUR = near(EXPERT, 0.05)
PROMPTS = make_prompts(5, 1, 8, 30, vocab=VOCAB)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(graph, "CAPTURES", {"cpu": recorder})
    decoder_of.cache_clear()  # these would go on with another test's recorder
    return recorder


def decoders(**settings: Any) -> tuple[Decoder, Decoder]:
    """The same decoder without graphs and with them."""
    plain, captured = (Decoder(EXPERT, runner=runner, **settings) for runner in ("eager", "graph"))  # type: ignore[arg-type]
    return plain, captured


CAPTURED: list[Cell] = [
    ("likelihood", "none", "none", "greedy"),
    ("likelihood", "none", "chain", "sample"),
    ("contrastive", "model", "none", "sample"),
    ("contrastive", "model", "no repeated token", "greedy"),
    ("contrastive, beta", "model", "frequency", "greedy"),
    ("contrastive when uncertain", "model", "eta", "sample"),
    ("context-aware by divergence", "model", "typical", "greedy"),
    ("proxy tuning", "model", "presence", "greedy"),
    ("dexperts", "model", "top-n-sigma", "sample"),
]


@pytest.mark.parametrize("cell", CAPTURED, ids=", ".join)
def test_captured_steps_give_what_the_oracle_gives(cell: Cell, recorder: Recorder) -> None:
    check_cell(cell, "graph")
    assert recorder.replays > 3, "nothing was captured: nothing is tested"


@pytest.mark.heavy
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_captured_method_gives_what_the_oracle_gives(scoring: str, recorder: Recorder) -> None:
    cells = [cell for cell in WORKING if cell[0] == scoring and cell[1] in ("none", "model")]
    for cell in cells:
        if cell[3] in ("greedy", "sample", AMATEUR_DRAFTS):
            check_cell(cell, "graph")
            recorder.graphs.clear()


METHODS: dict[str, dict[str, Any]] = {
    "contrastive": {},
    "sampled": {
        "strategy": Sample(),
        "processors": (RepetitionPenalty(1.3), NoRepeatNGram(3), Temperature(1.3), TopP(0.95)),
        "seed": 5,
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_join_end_and_outgrow_their_buffers_get_the_tokens_of_the_loop(
    method: str, recorder: Recorder
) -> None:
    plain, captured = decoders(amateur=AMATEUR)
    settings = {"max_new_tokens": 70, "batch_size": 3, **METHODS[method]}
    expected, found = plain.generate(PROMPTS, **settings), captured.generate(PROMPTS, **settings)
    assert [out.token_ids for out in found] == [out.token_ids for out in expected]
    assert [out.finish_reason for out in found] == [out.finish_reason for out in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-10)
    assert len(recorder.graphs) > 1, "no buffer was outgrown"
    assert recorder.replays > max(len(out.token_ids) for out in found)


def test_a_captured_step_reads_every_model_once_a_token_and_no_python_runs_in_it(recorder: Recorder) -> None:
    _, captured = decoders(amateur=AMATEUR)
    passes = {"expert": 0, "amateur": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            passes[name] += 1

        return hook

    handles = [EXPERT.register_forward_hook(count("expert")), AMATEUR.register_forward_hook(count("amateur"))]
    try:
        [out] = captured.generate([PROMPTS[1]], max_new_tokens=30, ignore_eos=True)
    finally:
        for handle in handles:
            handle.remove()
    assert len(out.token_ids) == 30
    read = 1 + len(recorder.graphs)  # the prompt, and what is recorded
    assert passes == {"expert": read, "amateur": read}
    assert recorder.replays == 29, "nothing is launched beyond the limit"


def test_a_row_that_ends_leaves_the_generators_of_the_others_where_they_are(recorder: Recorder) -> None:
    plain, captured = decoders()
    settings: dict[str, Any] = {"strategy": Sample(), "seed": 1, "max_new_tokens": 40}
    together = captured.generate(PROMPTS, **settings)
    assert len({len(out.token_ids) for out in together}) > 2, "the rows end together: nothing is tested"
    assert [out.token_ids for out in together] == [out.token_ids for out in plain.generate(PROMPTS, **settings)]
    assert recorder.replays > max(len(out.token_ids) for out in together), "no step was launched in vain"


def test_a_stream_that_is_cancelled_keeps_what_it_showed(recorder: Recorder) -> None:
    plain, captured = decoders(amateur=AMATEUR)
    whole = plain.generate([PROMPTS[2]], max_new_tokens=20, ignore_eos=True)[0].token_ids
    shown: list[int] = []

    def enough() -> bool:
        return len(shown) >= 9

    for piece in captured.stream([PROMPTS[2]], max_new_tokens=20, ignore_eos=True, cancelled=enough):
        shown += piece.token_ids
    assert shown == whole[:9]
    assert recorder.replays > 9


def test_where_no_token_is_allowed_the_loop_falls_back_and_where_none_is_left_it_says_so(recorder: Recorder) -> None:
    plain, captured = decoders(amateur=AMATEUR)
    # With α = 1 the head is one token, which may not come twice: then the expert's own order decides.
    settings: dict[str, Any] = {"scoring": Contrastive(1.0), "processors": (NoRepeatNGram(1),), "ignore_eos": True}
    one, other = (d.generate([PROMPTS[0]], max_new_tokens=40, **settings)[0] for d in (captured, plain))
    assert one.token_ids == other.token_ids
    assert recorder.replays > 0
    for decoder in (plain, captured):
        with pytest.raises(DecodingError, match=r"forbid every token at step .* of row 0"):
            decoder.generate([PROMPTS[0]], max_new_tokens=VOCAB + 9, **settings)


SPECULATIVE = {
    "the amateur drafts": Speculative(tokens=3),
    "drafts are drawn": Speculative(Sample(), tokens=2),
    "the text drafts": Speculative(draft=PromptLookup(2), tokens=3),
}


@pytest.mark.parametrize("strategy", SPECULATIVE.values(), ids=SPECULATIVE.keys())
def test_speculation_runs_on_captured_passes(strategy: Speculative, recorder: Recorder) -> None:
    plain, captured = decoders(amateur=AMATEUR)
    settings: dict[str, Any] = {"strategy": strategy, "max_new_tokens": 20, "seed": 2}
    expected, found = (d.generate(PROMPTS[:2], **settings) for d in (plain, captured))
    assert [out.token_ids for out in found] == [out.token_ids for out in expected]
    assert [out.speculation for out in found] == [out.speculation for out in expected]
    assert recorder.replays > 10


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_says_whether_it_can_be_captured(name: str) -> None:
    arguments = torch.randint(31, (2, 9)), torch.tensor([5, 8]), torch.randn(2, 31, dtype=torch.float64)

    def call(processor: Processor, tokens: Tensor, lengths: Tensor, scores: Tensor) -> Tensor:
        return processor(History(tokens, lengths, lengths - 3), scores)

    for processor in PROCESSORS[name].processors:
        assert processor.capturable == fits_a_graph(partial(call, processor.with_eos((4,))), *arguments)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", SCORINGS)
def test_a_scoring_says_whether_it_can_be_captured(name: str) -> None:
    scoring = SCORINGS[name].scoring.for_models(4, tied=False)
    names = [*scoring.sources, *scoring.exits]
    logits = [torch.randn(2, 31, dtype=torch.float64) for _ in names]
    assert scoring.capturable == fits_a_graph(lambda *seen: scoring(dict(zip(names, seen, strict=True))), *logits)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("processed", ["none", "chain"])
def test_a_whole_step_stays_on_the_device(processed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "CAPTURES", {"meta": Recorder()})
    networks = [copy.deepcopy(network) for network in (EXPERT, AMATEUR)]
    # There tensors do not mix with the host's, and have no value that could be asked for.
    with FakeTensorMode() as mode, torch.inference_mode():
        for network in networks:
            move_elsewhere(mode, network)
        expert, amateur = (open_model(seen, open_runner(seen, "graph")) for seen in map(inspect_model, networks))
        sources = Sources(expert, {"amateur": amateur}, VOCAB)
        ahead = RunAhead.of(sources, Method(Contrastive(), PROCESSORS[processed].processors, Sample()))
        assert ahead is not None
        passes, buffers = {}, []
        for name, model in (("expert", expert), ("amateur", amateur)):
            assert isinstance(model, RaggedModel)
            found = model.runner.static_pass(3)
            assert found is not None
            dim = EXPERT.config.hidden_size // EXPERT.config.num_attention_heads
            shape = found[0], EXPERT.config.num_key_value_heads, 64, dim
            own = [
                torch.zeros(shape, dtype=torch.float64, device=ELSEWHERE) for _ in range(2 * model.architecture.layers)
            ]
            passes[name] = StaticPass(found[1], found[0], own)
            buffers += own
        state = captured._State.empty(found[0], 65, ELSEWHERE)
        ahead._advance(state, passes, buffers, 64)
    assert all(tensor.device == ELSEWHERE for tensor in state.tensors)


@dataclass(frozen=True)
class Halved(Processor):
    """A user's own, which asks for a value."""

    def __call__(self, history: History, scores: Tensor) -> Tensor:
        return scores / 2 if float(scores.amax()) > 0 else scores


class Own(Likelihood):
    """A user's own, which asks for a value."""

    capturable = False

    def __call__(self, logits: Mapping[str, Tensor]) -> Tensor:
        return logits["expert"] / 2 if float(logits["expert"].amax()) > 0 else logits["expert"]


@pytest.mark.parametrize(
    "settings", [{"processors": (Halved(),)}, {"scoring": WhenUncertain(Own(), 0.1)}], ids=["processor", "scoring"]
)
def test_what_does_not_say_that_it_can_be_captured_runs_outside_of_graphs(
    settings: dict[str, Any], recorder: Recorder
) -> None:
    plain, captured = decoders()
    settings |= {"max_new_tokens": 12, "ignore_eos": True}
    one, other = (decoder.generate(PROMPTS[1:3], **settings) for decoder in (captured, plain))
    assert [out.token_ids for out in one] == [out.token_ids for out in other]
    assert recorder.replays == 11, "passes are captured, steps are not"


@pytest.mark.parametrize("strategy", [Greedy(), Speculative(draft=PromptLookup(1))], ids=["steps", "passes"])
def test_a_model_that_no_graph_can_hold_is_named(strategy: Strategy, recorder: Recorder) -> None:
    """It brings a number from the host."""
    decoder = Decoder(architectures.build("falcon"), runner="graph")
    with pytest.raises(UnsupportedModelError, match=r'ForCausalLM.* cannot be captured: .*; .* runner="auto"'):
        decoder.generate([PROMPTS[2]], max_new_tokens=5, strategy=strategy, ignore_eos=True)


def test_buffers_that_are_outgrown_are_held_by_no_graph(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    outgrown = 0
    record, resize = RunAhead._record, RaggedLayer.resize

    def noting(self: RunAhead, passes: Any, rows: Any) -> Any:
        made.append(weakref.ref(graph := record(self, passes, rows)))
        return graph

    def resizing(self: RaggedLayer, rows: int, capacity: int) -> None:
        nonlocal outgrown
        outgrown += 1
        assert not any(one() for one in made), "the graph's buffers are not free"
        resize(self, rows, capacity)

    monkeypatch.setattr(RunAhead, "_record", noting)
    monkeypatch.setattr(RaggedLayer, "resize", resizing)
    engine_prompts = [PROMPTS[1], *make_prompts(90, vocab=VOCAB)]  # the second joins when the first has ended
    _, captured = decoders()
    captured.generate([PROMPTS[0], *engine_prompts], max_new_tokens=6, batch_size=2)
    assert made
    assert outgrown


class Watched:
    """A lock that tells when somebody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waiting.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_threads_take_turns_with_a_captured_pass() -> None:
    """A second thread comes while the first one's pass runs, and waits for it."""
    architecture, bucket = inspect_model(EXPERT), Bucket(1, 1, every=False)
    plans = [torch.tensor([[token, 0, 1]]) for token in (7, 23)]
    results: dict[int, Tensor] = {}
    second: list[threading.Thread] = []

    def capture(function: graph.Function, tensors: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
        def replay() -> Sequence[Tensor]:
            if not second:
                second.append(threading.Thread(target=read, args=(1,)))
                second[0].start()
                while second[0].is_alive() and not lock.waiting.wait(0.01):
                    pass
                assert second[0].is_alive(), "it has not waited"
            return function(tensors)

        return replay

    step = graph.CapturedStep(architecture, bucket, capture)
    lock = step._lock = Watched()  # type: ignore[assignment]
    buffers = find_layout(architecture).buffers(1, 64)

    @torch.inference_mode()
    def read(number: int) -> None:
        results[number] = step(plans[number], buffers)[0]

    read(0)
    second[0].join()
    for number, plan in enumerate(plans):
        with torch.inference_mode():
            assert torch.equal(results[number], Step(architecture, bucket).eval()(plan, buffers))


def test_graphs_are_refused_where_there_are_none() -> None:
    with pytest.raises(SettingsError, match=r'captures CUDA graphs, but the model is on cpu; .* runner="compiled"'):
        Decoder(EXPERT, runner="graph")
