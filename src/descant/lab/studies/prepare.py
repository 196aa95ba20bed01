"""From a study file to loaded models, task sets, methods and metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from descant.decoder import Decoder
from descant.errors import SettingsError
from descant.lab.metrics import Metric, TaskVerdict, load_metric
from descant.lab.studies.config import MethodSpec, ModelsSpec, Part, StudyFile, Tasks
from descant.lab.studies.files import TaskFile
from descant.lab.studies.generations import Generation
from descant.lab.studies.parts import build, build_amateur
from descant.lab.studies.study import Assignment, Contestant, Study
from descant.lab.studies.tasks import TaskSet
from descant.lab.worlds import load_world
from descant.presets import preset


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready to run.

    Attributes
    ----------
    study
        What is run.
    metrics
        What is measured.
    baseline
        The method that others are compared with.
    """

    study: Study
    metrics: tuple[Metric, ...]
    baseline: str


def prepare(file: StudyFile, folder: Path, limit: int | None = None, kept: Path | None = None) -> PreparedStudy:
    """Load everything that a study names and check that every method can run on it.

    Parameters
    ----------
    file
        The study.
    folder
        From where paths in it count.
    limit
        Use so many tasks of each set at most, for a quick try.
    kept
        Where metrics keep what their model has read; None: nowhere.

    Raises
    ------
    DescantError
        If something is missing or cannot be honoured, before anything is decoded.
    """
    assignments = [_assignment(tasks, folder, file.max_new_tokens, limit) for tasks in file.tasks]
    arguments = [_arguments(method) for method in file.methods]  # before any weights are read
    _check_sources(file.models.sources, arguments)
    load = _loader(file.models)
    decoder = _decoder(file.models, load)
    contestants = [
        Contestant(method.label, _with_amateur(decoder, method.amateur, load), parts)
        for method, parts in zip(file.methods, arguments, strict=True)
    ]
    judge = load(file.models.judge) if file.models.judge else decoder
    judge = Decoder(judge.expert, judge.tokenizer, runner=judge.runner)
    metrics = tuple(load_metric(name, judge, kept, **settings) for name, settings in map(_named, file.metrics))
    for metric in metrics:
        if isinstance(metric, TaskVerdict):
            _try_judge(metric, assignments)
    study = Study(contestants, assignments, file.seeds, file.batch_size, file.chat, file.system)
    study.check()
    return PreparedStudy(study, metrics, file.baseline or file.methods[0].label)


def _try_judge(metric: TaskVerdict, assignments: Sequence[Assignment]) -> None:
    """Judge an empty text of each set: scores that its judge does not have are told of before anything is decoded."""
    for assignment in assignments:
        nothing = Generation(assignment.tasks()[0], "", [], "stop", 0.0, 0.0, 0)
        metric.scores([nothing], assignment.task_set)


def _check_sources(sources: Mapping[str, str], arguments: Sequence[Mapping[str, Any]]) -> None:
    """Refuse further models that no method reads; those that one lacks are told of by `Study.check`."""
    read = {name for parts in arguments for name in parts["scoring"].sources} - {"expert", "amateur"}
    for role in sources:
        if role not in read:
            known = f"choose from {', '.join(sorted(read))}" if read else "drop it"
            raise SettingsError(f"models.sources: no method reads a source {role!r}; {known}")


def _named(part: Part) -> tuple[str, dict[str, Any]]:
    if isinstance(part, str):
        return part, {}
    if len(part) != 1:
        raise SettingsError(f"a metric is one name with its settings, and this names {len(part)}: {part}")
    name, settings = next(iter(part.items()))
    if not isinstance(settings, dict | None):
        raise SettingsError(
            f"the settings of metric {name!r} are {settings!r}; name them: {{{name}: {{setting: value}}}}"
        )
    return name, settings or {}


def _assignment(tasks: Tasks, folder: Path, max_new_tokens: int | None, limit: int | None) -> Assignment:
    task_set: TaskSet
    if tasks.file is not None:
        try:
            task_set = TaskFile(folder / tasks.file, **tasks.settings)
        except TypeError as error:
            raise SettingsError(f"task set {tasks.file} cannot be set so ({error}); drop its settings") from error
    else:
        task_set = load_world(tasks.world or "", **tasks.settings)
    limits = [number for number in (tasks.limit, limit) if number is not None]
    most = min(limits) if limits else None
    assignment = Assignment(task_set, tasks.split, most, tasks.max_new_tokens or max_new_tokens, tasks.name or "")
    assignment.tasks()  # a bad file is told of before models are loaded
    return assignment


def _arguments(method: MethodSpec) -> dict[str, Any]:
    """Return the parts of a method."""
    arguments = preset(method.preset or "greedy").arguments
    try:
        if method.scoring is not None:
            arguments["scoring"] = build("scoring", method.scoring)
        if method.processors is not None:
            arguments["processors"] = tuple(build("processor", part) for part in method.processors)
        if method.strategy is not None:
            arguments["strategy"] = build("strategy", method.strategy)
    except SettingsError as error:
        raise SettingsError(f"method {method.label!r}: {error}") from error
    return arguments


def _loader(models: ModelsSpec) -> Callable[[str], Decoder]:
    """Return what loads a checkpoint, each once."""

    @cache
    def load(name: str) -> Decoder:
        return Decoder.from_pretrained(
            name,
            device=models.device,
            dtype=models.dtype,
            trust_remote_code=models.trust_remote_code,
            runner=models.runner,
        )

    return load


def _decoder(models: ModelsSpec, load: Callable[[str], Decoder]) -> Decoder:
    """Return the study's expert with its amateur."""
    from descant.demo import demo_paths

    bundled = models.expert is None
    expert, amateur = map(str, demo_paths()) if bundled else (str(models.expert), None)
    named = models.amateur if isinstance(models.amateur, str) else None
    if models.amateur is None:
        named = amateur
    decoder = Decoder.from_pretrained(
        expert,
        amateur=named,
        sources=models.sources,
        device=models.device,
        dtype="float32" if bundled and models.dtype == "auto" else models.dtype,
        revision=models.revision,
        quantization=models.quantization,
        amateur_quantization=models.amateur_quantization,
        runner=models.runner,
        trust_remote_code=models.trust_remote_code,
    )
    return decoder if named else _with_amateur(decoder, models.amateur, load)


def _with_amateur(decoder: Decoder, spec: Part | None, load: Callable[[str], Decoder]) -> Decoder:
    """Return the decoder with another amateur; `expert` and `amateur` name the study's own models."""
    if spec is None:
        return decoder

    def model(name: Any) -> Any:
        own = {"expert": decoder.expert, "amateur": decoder.amateur}
        return own[name] if own.get(name) is not None else load(name).expert

    amateur, tokenizer = build_amateur(spec), None
    if isinstance(amateur, str):
        tokenizer = load(amateur).tokenizer if amateur not in ("expert", "amateur") else None
        amateur = model(amateur)
    elif isinstance(amateur.reads, str):
        # `expert` and `amateur` have no tokenizer of that name, and it is not asked for.
        own = amateur.reads in ("expert", "amateur")
        amateur = amateur.with_model(model(amateur.reads), None if own else load(amateur.reads).tokenizer)
    return Decoder(
        decoder.expert,
        decoder.tokenizer,
        amateur,
        amateur_tokenizer=tokenizer,
        sources=decoder.sources,
        runner=decoder.runner,
    )
