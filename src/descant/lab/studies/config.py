"""The study file: YAML or TOML, every key checked."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from descant.errors import SettingsError, UsageError
from descant.models import RunnerName

Part = str | dict[str, Any]
"""A class by name, or by name with its arguments."""
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Part of a study file. A key that it does not know is an error that names the nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    close = get_close_matches(str(key), cls.model_fields, n=1)
                    remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(cls.model_fields)}"
                    raise ValueError(f"there is no key {key!r}; {remedy}")
        return data


class ModelsSpec(Section):
    """What decodes and what judges. Without an expert it is the bundled pair, and the amateur its own.

    Attributes
    ----------
    expert, amateur
        Hub ids or folders; the amateur also a setting, such as `{EarlyExit: {layer: 2}}`.
    sources
        Hub ids or folders of what else scorings read, by role: `{tuned: NAME, untuned: NAME}` for `ProxyTuning`.
    judge
        The model of metrics that read texts; by default the expert, which favours what it would say itself.
    dtype, device, revision, quantization, amateur_quantization, runner, trust_remote_code
        As `Decoder.from_pretrained` takes them.
    """

    expert: str | None = None
    amateur: Part | None = None
    sources: dict[str, str] = {}
    judge: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    quantization: Literal["int8", "int4"] | None = None
    amateur_quantization: Literal["int8", "int4"] | None = None
    runner: RunnerName = "auto"
    trust_remote_code: bool = False


class Tasks(Section):
    """A set of tasks: a world by name, or a JSONL file (see `descant.lab.studies.files`).

    Attributes
    ----------
    world, file
        One of the two; a file's path counts from the study file's folder.
    name
        What reports call it.
    settings
        Arguments of the world, or of the file (`match`).
    split, limit
        Which tasks, and how many at most.
    max_new_tokens
        How long continuations may become; by default the study's, or else the task set's own.
    """

    world: str | None = None
    file: Path | None = None
    name: str | None = None
    settings: dict[str, Any] = {}
    split: Literal["dev", "test"] = "test"
    limit: Count | None = None
    max_new_tokens: Count | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Tasks":
        if (self.world is None) == (self.file is None):
            raise ValueError("a task set is a world or a file; give one of the two")
        return self


class MethodSpec(Section):
    """A preset, or a composition, or a preset with some of its parts replaced.

    Attributes
    ----------
    name
        What reports call it; by default the preset's name.
    preset
        See `descant methods`.
    scoring, processors, strategy
        Parts by the name of their class, with arguments: `{Contrastive: {alpha: 0.2}}`.
    amateur
        What this method contrasts with, in place of the study's: a checkpoint or a setting.
    """

    name: str = ""
    preset: str | None = None
    scoring: Part | None = None
    processors: list[Part] | None = None
    strategy: Part | None = None
    amateur: Part | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, data: Any) -> Any:
        return {"preset": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _has_name(self) -> "MethodSpec":
        if not (self.name or self.preset):
            raise ValueError("a composition has no name of its own; give it one")
        return self

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name or str(self.preset)


class StudyFile(Section):
    """Everything that decides a study.

    Attributes
    ----------
    name, description
        The report's title, and what stands below it.
    models, tasks, methods
        What decodes, on what, how.
    baseline
        The method that others are compared with, by name; by default the first.
    metrics
        By name, or by name with settings: `{diversity: {simctg_compat: true}}`.
    seeds
        Methods that draw are run once with each; others once.
    max_new_tokens
        How long continuations may become; by default the task set's own.
    batch_size
        How many tasks are decoded together.
    chat, system
        Whether prompts go through the tokenizer's chat template, and with which system prompt.
    level
        Of intervals and tests: 0.95 are 95% intervals, and errors of 5%.
    """

    name: str = "study"
    description: str = ""
    models: ModelsSpec = ModelsSpec()
    tasks: Annotated[list[Tasks], Field(min_length=1)]
    methods: Annotated[list[MethodSpec], Field(min_length=1)]
    baseline: str | None = None
    metrics: Annotated[list[Part], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    max_new_tokens: Count | None = None
    batch_size: Count = 64
    chat: bool = False
    system: str | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _names_are_unique(self) -> "StudyFile":
        labels = [method.label for method in self.methods]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise ValueError(f"several methods are called {twice[0]!r}; give each a name of its own")
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(f"the baseline {self.baseline!r} is none of the methods; choose from {', '.join(labels)}")
        if any(self.metrics.count(metric) > 1 for metric in self.metrics):
            raise ValueError("a metric is there twice, and would be corrected for twice; drop one")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is there twice; drop one")
        return self


def read_study(path: Path) -> StudyFile:
    """Return the study that a file describes.

    Raises
    ------
    UsageError
        If the file cannot be read, or is neither YAML nor TOML.
    SettingsError
        If something in it is wrong, with the place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give another file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; convert it, for instance with iconv") from error
    try:
        data = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        kind = "TOML" if path.suffix == ".toml" else "YAML"
        raise UsageError(f"{path} is not {kind}: {' '.join(str(error).split())}; mend it") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no keys; give tasks, methods and metrics")
    return parse_study(data, str(path))


def parse_study(data: dict[str, Any], source: str = "the study") -> StudyFile:
    """Return the study that plain data describes; `source` is what an error calls them."""
    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"{source}{f', {place}' if place else ''}: {message}") from error
