"""Study files, task files and parts: what is understood, and what is refused with a remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from descant import (
    Beam,
    Contrastive,
    Decoder,
    EarlyExit,
    Greedy,
    Guidance,
    NGram,
    PromptLookup,
    Sample,
    Speculative,
    TopP,
    WhenUncertain,
    Window,
)
from descant.demo import demo_paths
from descant.errors import DescantError, SettingsError, UsageError
from descant.lab import worlds
from descant.lab.studies.config import parse_study, read_study
from descant.lab.studies.files import TaskFile
from descant.lab.studies.parts import build, build_amateur
from descant.lab.studies.prepare import prepare
from descant.lab.studies.tasks import Task, TaskSet
from descant.lab.worlds import load_world
from descant.presets import preset
from evaluation_cases import Toy

LEAST: dict[str, Any] = {"tasks": [{"file": "q.jsonl"}], "methods": ["greedy"], "metrics": ["length"]}


@pytest.mark.parametrize(
    ("kind", "spec", "part"),
    [
        ("scoring", "Contrastive", Contrastive()),
        ("scoring", {"Contrastive": {"alpha": 0.2, "beta": 2.0}}, Contrastive(alpha=0.2, beta=2.0)),
        ("scoring", {"Contrastive": None}, Contrastive()),
        (
            "scoring",
            {"WhenUncertain": {"scoring": {"Guidance": {"scale": 2.0}}, "threshold": 1.0}},
            WhenUncertain(Guidance(2.0), 1.0),
        ),
        ("processor", {"TopP": {"p": 0.9}}, TopP(0.9)),
        ("strategy", {"Beam": {"width": 3, "base": "Sample"}}, Beam(3, base=Sample())),
        (
            "strategy",
            {"Speculative": {"base": "Greedy", "draft": {"PromptLookup": {"ngram": 2}}}},
            Speculative(Greedy(), draft=PromptLookup(2)),
        ),
    ],
)
def test_parts_are_made_by_name(kind: str, spec: Any, part: Any) -> None:
    assert build(kind, spec) == part


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("scoring", "Contrastiv", "did you mean 'Contrastive'"),
        ("scoring", "Scoring", "there is no scoring"),
        ("strategy", "Qqqq", "choose from"),
        ("scoring", {"Contrastive": {"alhpa": 1}}, "cannot be made so"),
        ("scoring", {"Contrastive": {"alpha": 7}}, "alpha"),
        ("scoring", {"Contrastive": 0.1}, "name them"),
        ("scoring", {"Contrastive": {}, "Likelihood": {}}, "names 2"),
        ("strategy", {"Speculative": {"base": "Beam"}}, "there is no base"),
    ],
)
def test_bad_parts_are_refused(kind: str, spec: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(kind, spec)


def test_amateurs_are_made_by_name() -> None:
    assert build_amateur("some/model") == "some/model"
    assert build_amateur({"EarlyExit": {"layer": 2}}) == EarlyExit(2)
    assert build_amateur("NGram") == "NGram"
    assert build_amateur({"NGram": None}) == NGram()


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "tasks: [{file: q.jsonl}]\nmetrics: [length, {zipf: {ranks: 9}}]\n"
        "methods:\n  - greedy\n  - {name: mine, scoring: {Contrastive: {alpha: 0.2}}}\n"
    )
    (tmp_path / "a.toml").write_text(
        'metrics = ["length", {zipf = {ranks = 9}}]\n[[tasks]]\nfile = "q.jsonl"\n[[methods]]\npreset = "greedy"\n'
        '[[methods]]\nname = "mine"\nscoring = {Contrastive = {alpha = 0.2}}\n'
    )
    yaml, toml = read_study(tmp_path / "a.yaml"), read_study(tmp_path / "a.toml")
    assert yaml == toml
    assert [method.label for method in yaml.methods] == ["greedy", "mine"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrix": []}, "did you mean 'metrics'"),
        ({"models": {"exprt": "x"}}, r"models: there is no key 'exprt'; did you mean 'expert'"),
        ({"methods": [{"presett": "greedy"}]}, r"methods\.0: .*did you mean 'preset'"),
        ({"methods": [{"scoring": "Contrastive"}]}, "no name of its own"),
        ({"methods": []}, "methods"),
        ({"methods": ["greedy", "greedy"]}, "several methods are called 'greedy'"),
        ({"tasks": [{"file": "a", "world": "b"}]}, "one of the two"),
        ({"tasks": [{}]}, "one of the two"),
        ({"baseline": "gredy"}, "none of the methods"),
        ({"seeds": [1, 1]}, "twice"),
        ({"metrics": ["length", "length"]}, "a metric is there twice"),
        ({"seeds": [-1]}, r"seeds\.0"),
        ({"batch_size": 0}, "batch_size"),
        ({"level": 1.0}, "level"),
        ({"zzz": 1}, "choose from name, description"),
    ],
)
def test_bad_studies_are_refused_with_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_study({**LEAST, **change})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"a: [", "is not YAML"),
        ("a.toml", b"a = [", "is not TOML"),
        ("a.yaml", b"- 1", "holds no keys"),
        ("a.yaml", b"\xff\xfe\x00", "not UTF-8"),
        ("b.yaml", None, "cannot read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_study(tmp_path / name)


def test_a_task_file(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    rows = [
        {"prompt": "Who?", "answer": "The grey heron", "group": "g", "split": "dev", "source": 7},
        {"id": "b", "prompt": "Where?", "answer": "in a mill", "reference": " In a mill."},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    tasks = TaskFile(path)
    assert tasks.name == "some"
    first = Task("1", "Who?", None, "g", {"answer": "The grey heron", "source": 7})
    second = Task("b", "Where?", " In a mill.", None, {"answer": "in a mill"})
    assert list(tasks.tasks("dev")) == [first, second]
    assert list(tasks.tasks("test")) == [second]
    assert list(tasks.tasks("dev", 1)) == [first]
    said = {" It was a Grey Heron.": 1, "grey heron": 1, "greyheron": 0, "the grey herons": 0, "": 0}
    assert {text: tasks.judge(first, text)["accuracy"] for text in said} == said
    exact = TaskFile(path, match="exact")
    assert [exact.judge(first, text)["accuracy"] for text in ("A grey heron!", "It was a grey heron")] == [1, 0]
    copy = tmp_path / "folder" / "some.jsonl"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    assert TaskFile(copy).settings == tasks.settings
    copy.write_bytes(path.read_bytes() + b'{"prompt": "x", "answer": "y"}')
    assert TaskFile(copy).settings != tasks.settings
    assert isinstance(tasks, TaskSet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no tasks"),
        ('{"prompt": "x"}\n{', "line 2 of"),
        ('"x"', 'no object with a text "prompt"'),
        ('{"prompt": ""}', 'no object with a text "prompt"'),
        ('{"prompt": "x", "answer": 3}', "'answer' in line 1"),
        ('{"prompt": "x", "answer": "%"}', "no word to look for"),
        ('{"prompt": "x", "split": "tset"}', "\"split\" in line 1 of .* is 'tset'"),
        ('{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "a"}', "several tasks with the id 'a'"),
    ],
)
def test_bad_task_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        TaskFile(path).tasks()


def test_answers_are_all_or_none(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"prompt": "x"}\n')
    [task] = TaskFile(path).tasks()
    assert TaskFile(path).judge(task, "y") == {}
    path.write_text('{"prompt": "x"}\n{"prompt": "z", "answer": "y"}\n')
    with pytest.raises(UsageError, match="all or none"):
        TaskFile(path).tasks()


def test_a_line_of_a_task_file_ends_where_json_lines_does(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes('{"prompt": "one\u2028two\u0085three"}\r\n{"prompt": "four"}\r\n'.encode())
    assert [task.prompt for task in TaskFile(path).tasks()] == ["one\u2028two\u0085three", "four"]


def test_an_unknown_match_is_refused(unchecked_types: None) -> None:
    with pytest.raises(SettingsError, match="contains"):
        TaskFile(Path("some.jsonl"), match="like")  # type: ignore[arg-type]


def test_worlds_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "WORLDS", {"toy": lambda name="toy": Toy((), name)})
    assert load_world("toy", name="mine").name == "mine"
    with pytest.raises(SettingsError, match="did you mean 'toy'"):
        load_world("toys")
    with pytest.raises(SettingsError, match="cannot be made so"):
        load_world("toy", size=3)


def test_methods_get_the_models_they_name(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "Who?"}\n{"prompt": "Where?"}\n')
    methods: list[Any] = [
        "contrastive",
        {"name": "early", "preset": "contrastive", "amateur": {"EarlyExit": {"layer": 2}}},
        {"name": "short", "preset": "contrastive", "amateur": {"Window": {"model": "expert", "tokens": 3}}},
        {"name": "drawn", "preset": "contrastive", "strategy": "Sample", "processors": [{"TopP": {"p": 0.5}}]},
    ]
    ready = prepare(parse_study({**LEAST, "methods": methods}), tmp_path, limit=1)
    plain, early, short, drawn = ready.study.contestants
    assert plain.arguments == preset("contrastive").arguments
    assert plain.decoder is drawn.decoder
    assert early.decoder.expert is plain.decoder.expert
    assert early.decoder.amateur == EarlyExit(2)
    assert isinstance(short.decoder.amateur, Window)
    assert short.decoder.amateur.model is plain.decoder.expert
    assert drawn.arguments["processors"] == (TopP(0.5),)
    assert drawn.random
    assert not plain.random
    assert len(ready.study.assignments[0].tasks()) == 1
    assert ready.baseline == "contrastive"


def test_methods_get_the_sources_they_read(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "Who?"}\n')
    expert, amateur = map(str, demo_paths())
    models = {"sources": {"tuned": expert, "untuned": amateur}}
    early = {"name": "early", "preset": "contrastive", "amateur": {"EarlyExit": {"layer": 2}}}
    file = parse_study({**LEAST, "models": models, "methods": ["proxy-tuning", early]})
    ready = prepare(file, tmp_path)
    for contestant in ready.study.contestants:
        assert contestant.decoder.sources.keys() == {"tuned", "untuned"}
    [cell, _] = ready.study.cells(tmp_path)
    decoder = Decoder.demo(device="cpu")
    proxy = Decoder(decoder.expert, decoder.tokenizer, sources={"tuned": decoder.expert, "untuned": decoder.amateur})
    [out] = proxy.generate("Who?", preset("proxy-tuning").arguments["scoring"], max_new_tokens=128)
    assert [entry.text for entry in cell.run()] == [out.text]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["gredy"]}, "did you mean 'greedy'"),
        ({"methods": [{"name": "m", "scoring": "Nope"}]}, "method 'm': there is no scoring"),
        ({"methods": ["proxy-tuning"]}, "method 'proxy-tuning' on 'q'"),
        ({"models": {"sources": {"tuned": "x"}}}, "no method reads a source 'tuned'; drop it"),
        ({"methods": ["proxy-tuning"], "models": {"sources": {"tund": "x"}}}, "choose from tuned, untuned"),
        ({"tasks": [{"world": "rumour"}], "metrics": [{"judge": {"only": ["rumours"]}}]}, "has no rumours"),
        ({"metrics": ["lenght"]}, "did you mean 'length'"),
        ({"metrics": [{"length": {}, "zipf": {}}]}, "names 2"),
        ({"metrics": [{"zipf": 3}]}, "name them"),
        ({"tasks": [{"file": "q.jsonl", "settings": {"mach": 1}}]}, "cannot be set so"),
        ({"tasks": [{"world": "nowhere"}]}, "there is no world 'nowhere'"),
        ({"models": {"expert": "/no/such/folder"}}, "no/such/folder"),
    ],
)
def test_what_a_study_lacks_is_told_before_decoding(
    tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "generate", None)
    (tmp_path / "q.jsonl").write_text('{"prompt": "Who?"}\n')
    with pytest.raises(DescantError, match=message):
        prepare(parse_study({**LEAST, **change}), tmp_path)
