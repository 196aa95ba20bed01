"""Studies: what is decoded, kept, resumed and told apart, and what the figures made of it are."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from descant import (
    ConfidentExit,
    ContextAware,
    Contrastive,
    Decoder,
    EarlyExit,
    Greedy,
    Likelihood,
    OtherPrompt,
    Sample,
    Speculative,
    Temperature,
)
from descant.demo import questions
from descant.errors import DecodingError, DescantError, SettingsError, UsageError
from descant.lab.metrics import DistinctN, Length, Metric, Perplexity, TaskVerdict
from descant.lab.studies.identity import fingerprint
from descant.lab.studies.scores import Cells, Estimate, score
from descant.lab.studies.signature import Signer
from descant.lab.studies.statistics import holm, mcnemar, paired_test
from descant.lab.studies.study import Assignment, Cell, Contestant, Study, batch_seed
from descant.lab.studies.tasks import Task
from evaluation_cases import Toy, generation

TASKS = tuple(
    Task(str(place), q.prompt, f" {q.answer}.", q.person, {"answer": q.answer})
    for place, q in enumerate(questions("dev", limit=10))
)
ASKED = ["What animal did Hugo Goldley keep?", "Where did Hugo Goldley live?", "Who was Hugo Goldley?"]
GREEDY = {"scoring": Likelihood(), "processors": (), "strategy": Greedy()}
DRAWN = {"scoring": Likelihood(), "processors": (Temperature(1.5),), "strategy": Sample()}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.demo(device="cpu")


class Counting:
    """A decoder that counts what it is asked for, and may fail."""

    def __init__(self, decoder: Decoder, fail_at: int | None = None) -> None:
        self.prompts: list[str] = []
        self._decoder, self._fail_at, self._generate = decoder, fail_at, decoder.generate

    def __call__(self, prompts: list[str], **arguments: Any) -> Any:
        if self._fail_at is not None and len(self.prompts) >= self._fail_at:
            raise DecodingError("a step failed; try again")
        self.prompts += prompts
        return self._generate(prompts, **arguments)


def study(decoder: Decoder, seeds: Sequence[int] = (0,), batch_size: int = 4, **methods: Mapping[str, Any]) -> Study:
    contestants = [Contestant(name, decoder, arguments) for name, arguments in methods.items()]
    return Study(contestants, [Assignment(Toy(TASKS))], seeds, batch_size)


def texts(cell: Cell) -> list[str]:
    return [entry.text for entry in cell.run()]


def test_texts_are_those_of_generate(decoder: Decoder, tmp_path: Path) -> None:
    [cell] = study(decoder, greedy=GREEDY).cells(tmp_path)
    outs = decoder.generate([task.prompt for task in TASKS], Likelihood(), max_new_tokens=12)
    found = cell.run()
    assert [entry.text for entry in found] == [out.text for out in outs]
    assert [entry.token_ids for entry in found] == [out.token_ids for out in outs]
    assert [entry.passes for entry in found] == [len(out.token_ids) for out in outs]
    assert all(entry.seconds > 0 and entry.latency > 0 for entry in found)
    assert cell.run() == found  # read back


def test_only_methods_that_draw_are_run_with_every_seed(decoder: Decoder, tmp_path: Path) -> None:
    both = study(
        decoder, seeds=(3, 4), greedy=GREEDY, drawn=DRAWN, drafted={**DRAWN, "strategy": Speculative(Sample())}
    )
    cells = both.cells(tmp_path)
    assert [(cell.contestant.name, cell.seed) for cell in cells] == [
        ("greedy", 3),
        ("drawn", 3),
        ("drawn", 4),
        ("drafted", 3),
        ("drafted", 4),
    ]
    first, second = texts(cells[1]), texts(cells[2])
    assert first != second
    outs = decoder.generate([t.prompt for t in TASKS[4:8]], **DRAWN, max_new_tokens=12, seed=batch_seed(3, 4))
    assert first[4:8] == [out.text for out in outs]


@pytest.mark.parametrize("arguments", [GREEDY, DRAWN])
def test_an_interrupted_cell_goes_on_where_it_was(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Mapping[str, Any]
) -> None:
    [whole] = study(decoder, method=arguments).cells(tmp_path / "whole")
    expected = texts(whole)
    [cell] = study(decoder, method=arguments).cells(tmp_path / "cut")
    with monkeypatch.context() as patch:
        counting = Counting(decoder, fail_at=4)
        patch.setattr(decoder, "generate", counting)
        with pytest.raises(DecodingError):
            cell.run()
        assert counting.prompts == [task.prompt for task in TASKS[:4]]
    # A kill in the middle of a line: the last text is half there.
    path = cell.store.path
    path.write_bytes(path.read_bytes()[:-40])
    advanced: list[int] = []
    with monkeypatch.context() as patch:
        counting = Counting(decoder)
        patch.setattr(decoder, "generate", counting)
        found = [entry.text for entry in cell.run(advanced.append)]
        assert sum(advanced) == len(TASKS)
        if not cell.contestant.random:
            assert counting.prompts == [task.prompt for task in TASKS[3:]]
        assert [entry.text for entry in cell.run()] == found
        assert len(counting.prompts) <= len(TASKS)
    assert found == expected
    good = [line for line in path.read_text().splitlines() if _is_json(line)]
    assert [json.loads(line)["task"] for line in good[1:]] == [task.id for task in TASKS]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_a_limit_shares_its_texts_with_the_whole(decoder: Decoder, tmp_path: Path) -> None:
    method = Contestant("drawn", decoder, DRAWN)
    few, every = (Study([method], [Assignment(Toy(TASKS), limit=n)], batch_size=4) for n in (6, None))
    [start], [whole] = few.cells(tmp_path), every.cells(tmp_path)
    assert start.store.path == whole.store.path
    first = texts(start)
    assert texts(whole)[:6] == first
    [fresh] = every.cells(tmp_path / "fresh")
    assert texts(fresh) == texts(whole)


def test_whatever_decides_a_text_is_in_its_key(decoder: Decoder, tmp_path: Path) -> None:
    expert = decoder.expert
    alone = Decoder(expert, decoder.tokenizer)
    early = Decoder(expert, decoder.tokenizer, EarlyExit(2))
    contrast = {"scoring": Contrastive(), "processors": (), "strategy": Greedy()}
    base = Study([Contestant("a", decoder, contrast)], [Assignment(Toy(TASKS))])
    others = [
        Study([Contestant("a", decoder, {**contrast, "scoring": Contrastive(alpha=0.2)})], base.assignments),
        Study([Contestant("a", early, contrast)], base.assignments),
        Study([Contestant("a", alone, contrast)], base.assignments),
        Study(base.contestants, [Assignment(Toy(TASKS[:5]))]),
        Study(base.contestants, [Assignment(Toy(TASKS), split="dev")]),
        Study(base.contestants, [Assignment(Toy(TASKS), max_new_tokens=3)]),
        Study(base.contestants, base.assignments, batch_size=2),
        Study(base.contestants, base.assignments, chat=True),
        Study([Contestant("a", decoder, DRAWN)], base.assignments),
        Study([Contestant("a", decoder, DRAWN)], base.assignments, seeds=[1]),
    ]
    keys = [each.cells(tmp_path)[0].store.key for each in (base, *others)]
    assert len(set(keys)) == len(keys)
    together = Contestant("a", decoder, {**DRAWN, "strategy": Sample(rng="transformers")})
    few, more = (Study([together], [Assignment(Toy(TASKS), limit=n)]).cells(tmp_path)[0] for n in (2, 3))
    assert few.store.key != more.store.key  # its rows draw from one generator
    hasty = Decoder(expert, decoder.tokenizer, decoder.amateur, confident_exit=ConfidentExit("softmax", threshold=0.8))
    exits = Study([Contestant("a", hasty, contrast)], base.assignments)
    assert exits.cells(tmp_path)[0].store.key not in keys
    named = Study([Contestant("another name", decoder, contrast)], base.assignments, seeds=[7])
    assert named.cells(tmp_path)[0].store.key == keys[0]


def test_a_fingerprint_is_of_the_weights_and_not_of_the_place() -> None:
    first, second = Decoder.demo(device="cpu").expert, Decoder.demo(device="cpu").expert
    second.config._name_or_path = "elsewhere"
    assert fingerprint(first) == fingerprint(second)
    with torch.no_grad():
        next(second.parameters()).mul_(1.001)
    assert fingerprint(first) != fingerprint(second)


def test_a_method_that_cannot_run_is_named_before_anything_is_decoded(decoder: Decoder) -> None:
    alone = Decoder(decoder.expert, decoder.tokenizer)
    bad = Study([Contestant("contrast", alone, {"scoring": Contrastive()})], [Assignment(Toy(TASKS))])
    with pytest.raises(DescantError, match="method 'contrast' on 'toy'"):
        bad.check()
    study(decoder, greedy=GREEDY, drawn=DRAWN).check()


@pytest.mark.parametrize(
    "make",
    [
        lambda c: Study([c, c], [Assignment(Toy(TASKS))]),
        lambda c: Study([], [Assignment(Toy(TASKS))]),
        lambda c: Study([c], []),
        lambda c: Study([c], [Assignment(Toy(TASKS))], seeds=[]),
        lambda c: Study([c], [Assignment(Toy(TASKS))], batch_size=0),
        lambda c: Study([c], [Assignment(Toy(()))]).check(),
    ],
)
def test_studies_of_nothing_are_refused(decoder: Decoder, make: Any) -> None:
    with pytest.raises(SettingsError):
        make(Contestant("greedy", decoder, GREEDY))


def test_an_unwritable_folder_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [cell] = study(decoder, greedy=GREEDY).cells(tmp_path / "file")
    with pytest.raises((UsageError, DescantError), match="give another folder"):
        cell.run()


def cells_of(decoder: Decoder, seeds: Sequence[int], **said: Sequence[Sequence[str]]) -> Cells:
    """Return cells with given texts: for each method, for each seed, one a task."""
    methods = [Contestant(n, decoder, DRAWN if len(runs) > 1 else GREEDY) for n, runs in said.items()]
    made = Study(methods, [Assignment(Toy(TASKS))], seeds).cells(Path("nowhere"))
    runs = [run for method in said.values() for run in method]
    filled = []
    for cell, run in zip(made, runs, strict=True):
        entries = [generation(text, "x") for text in run]
        filled.append((cell, [type(e)(**{**vars(e), "task": task}) for e, task in zip(entries, TASKS, strict=True)]))
    return filled


def scored(cells: Cells, *metrics: Metric) -> dict[tuple[str, str], Estimate]:
    return {(s.method, s.column): s for s in score(cells, metrics, "base", 0.95, Signer())}


def test_figures_and_tests_of_known_texts(decoder: Decoder) -> None:
    answers = [str(task.facts["answer"]) for task in TASKS]
    wrong = ["no idea what that may be"] * 10
    cells = cells_of(
        decoder,
        (0, 1),
        base=[wrong],
        right=[answers],
        half=[[*answers[:5], *wrong[5:]], wrong],
    )
    found = scored(cells, TaskVerdict(), DistinctN(1), Length())
    assert [found[name, "right"].value.value for name in ("base", "right", "half")] == [0, 1, 0.25]
    assert found["base", "right"].p is None
    groups = [f"group {task.group}" for task in TASKS]
    entry = found["right", "right"]
    assert entry.difference is not None
    assert (entry.difference.value, entry.difference.low, entry.difference.high) == (1, 1, 1)
    assert entry.p == paired_test([1.0] * 10, [0.0] * 10, groups)
    assert found["half", "right"].p == paired_test([0.5] * 5 + [0.0] * 5, [0.0] * 10, groups)
    tested = [s for s in found.values() if s.p is not None]
    assert {(s.method, s.column) for s in tested} == {(m, c) for m in ("right", "half") for c in ("right", "short")}
    assert [s.corrected for s in tested] == holm([s.p for s in tested if s.p is not None])
    assert found["right", "distinct-1"].value.value == len(set(" ".join(answers).split())) / len(
        " ".join(answers).split()
    )
    assert math.isnan(found["right", "distinct-1"].value.low)
    assert found["half", "words"].p is None  # neither end is better


def test_a_gain_counts_only_if_it_survives_the_correction(decoder: Decoder) -> None:
    spread = tuple(Task(str(n), "q", facts={"answer": "yes"}) for n in range(10))
    cells = [
        (
            Study([Contestant(n, decoder, GREEDY)], [Assignment(Toy(spread))]).cells(Path("x"))[0],
            [type(e)(**{**vars(e), "task": t}) for e, t in zip(map(generation, said), spread, strict=True)],
        )
        for n, said in {"base": ["no"] * 10, "all": ["yes"] * 10, "five": ["yes"] * 5 + ["no"] * 5}.items()
    ]
    found = scored(cells, TaskVerdict(only=["right"]))
    assert found["all", "right"].p == mcnemar(10, 0)
    assert found["all", "right"].beats(0.95)
    assert found["five", "right"].corrected == mcnemar(5, 0) > 0.05  # the larger of two is left as it is
    assert not found["five", "right"].beats(0.95)
    assert not found["base", "right"].beats(0.95)


def test_tasks_tell_what_another_prompt_reads(decoder: Decoder, tmp_path: Path) -> None:
    other = Decoder(decoder.expert, decoder.tokenizer, OtherPrompt())
    told = [Task(str(n), f"Hugo Goldley kept a newt. {q}", facts={"amateur_prompt": q}) for n, q in enumerate(ASKED)]
    method = {"scoring": ContextAware(0.5), "processors": (), "strategy": Greedy()}
    made = Study([Contestant("context", other, method)], [Assignment(Toy(tuple(told)))], batch_size=2)
    made.check()
    outs = other.generate([t.prompt for t in told], ContextAware(0.5), max_new_tokens=12, amateur_prompts=ASKED)
    [cell] = made.cells(tmp_path)
    assert texts(cell) == [out.text for out in outs]
    untold = Study(made.contestants, [Assignment(Toy((*told[:1], Task("x", "Who?"))))])
    with pytest.raises(SettingsError, match='task x has no "amateur_prompt"'):
        untold.check()
    plain = Study([Contestant("greedy", other, GREEDY)], untold.assignments)  # reads no amateur
    plain.check()


def test_a_signature_can_be_taken_apart_whatever_a_method_is_called(decoder: Decoder) -> None:
    found = scored(cells_of(decoder, (0,), base=[["a"] * 10], **{"drawn | wild": [["b"] * 10]}), DistinctN(1))
    parts = dict(part.split(":", 1) for part in found["drawn | wild", "distinct-1"].signature.split("|"))
    assert parts["method"] == "drawn / wild"


def test_what_plays_no_part_in_a_figure_is_not_in_its_signature(decoder: Decoder, tmp_path: Path) -> None:
    cells = cells_of(decoder, (0,), base=[[" A heron."] * 10])
    alone, kept = (scored(cells, Perplexity(decoder, folder))["base", "perplexity"] for folder in (None, tmp_path))
    assert alone.signature == kept.signature
    assert fingerprint(decoder.expert) in kept.signature


def test_a_signature_says_what_a_score_is(decoder: Decoder) -> None:
    cells = cells_of(decoder, (0, 1), base=[["a"] * 10], drawn=[["a"] * 10, ["b"] * 10])
    found = scored(cells, DistinctN(2))
    parts = dict(part.split(":", 1) for part in found["drawn", "distinct-2"].signature.split("|"))
    assert parts["metric"] == "distinct-2"
    assert parts["n"] == "2"
    assert parts["tasks"] == "toy:test:10"
    assert parts["seeds"] == "0+1"
    assert parts["torch"] == torch.__version__
    other = dict(part.split(":", 1) for part in found["base", "distinct-2"].signature.split("|"))
    assert other["seeds"] == "none"
    assert other["settings"] != parts["settings"]
