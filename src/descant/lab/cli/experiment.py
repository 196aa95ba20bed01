"""`descant experiment`: questions about decoding, answered with numbers on any pair."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from descant.cli.console import DONE, Writer, data_writer
from descant.cli.options import OUTPUT, PROMPTS, RUN, Json, ModelOptions, expand, option
from descant.errors import DescantError, UsageError
from descant.lab.cli import require

if TYPE_CHECKING:
    from descant.lab.experiments import Experiment, Pair
    from descant.lab.studies.tasks import TaskSet


@expand
def experiment(
    *,
    models: ModelOptions,
    name: Annotated[
        str | None, typer.Argument(help="Which experiment; without it, all are listed.", show_default=False)
    ] = None,
    seed_pair: Annotated[
        list[Path] | None,
        option(RUN, "A further pair, with folders expert and amateur: another training seed. Repeat it.", of="FOLDER"),
    ] = None,
    world: Annotated[
        str | None,
        option(
            RUN,
            "Whose tasks are asked: rumour, grammar or arithmetic. By default what a pair was trained on.",
            of="NAME",
        ),
    ] = None,
    prompts: Annotated[Path | None, option(RUN, f"Ask these instead. {PROMPTS}", of="FILE")] = None,
    limit: Annotated[int | None, option(RUN, "Ask N questions of each kind at most.", of="N", least=1)] = None,
    fresh: Annotated[bool, option(RUN, "Measure anew what an earlier run has measured.", "--fresh")] = False,
    out: Annotated[
        Path | None, option(OUTPUT, "Write NAME.json, NAME.md and figures to a folder too.", of="FOLDER")
    ] = None,
    render: Annotated[
        bool, option(OUTPUT, "Draw page and figures anew from --out FOLDER's NAME.json; measure nothing.", "--render")
    ] = False,
    as_json: Json = False,
) -> int:
    """Ask a question about decoding, and answer it with numbers measured on a pair.

    Prints a page of Markdown, or the record it is made from with --json. What was measured is kept as it comes, in
    $DESCANT_CACHE/experiments or ~/.cache/descant/experiments, so an interrupted run goes on.
    """
    with data_writer() as writer:
        from descant.lab.experiments import EXPERIMENTS
        from descant.lab.experiments import report as reports

        measuring = {
            "--seed-pair": seed_pair,
            "--world": world,
            "--prompts": prompts,
            "--limit": limit,
            "--fresh": fresh,
        }
        if name is None:
            _refuse({**measuring, "--out": out, "--render": render}, "experiments are listed; name one")
            _list(writer, as_json=as_json)
            return DONE
        if name not in EXPERIMENTS:
            raise UsageError(f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
        chosen = EXPERIMENTS[name]
        _check(out, render=render)
        if render:
            _refuse(measuring, "--render measures nothing; drop one of the two")
        else:
            tasks, told = _asked(models, world, prompts), world is not None or prompts is not None

            def asked(expert: str) -> "TaskSet":
                return tasks if told else _learnt(expert) or tasks

            pairs = _pairs(chosen, models, seed_pair or [], asked, limit, fresh=fresh)
            result = reports.run(chosen, pairs, shlex.join(["descant", *sys.argv[1:]]))
        if out is not None:
            try:
                result = reports.read(out, chosen) if render else result
                reports.write(out, chosen, result)
            except OSError as error:
                raise DescantError(f"cannot write to {out}: {error.strerror}; give another folder") from error
        if as_json:
            writer.write_json(result)
        else:
            writer.write(reports.markdown(chosen, result))
    return DONE


def _list(writer: Writer, *, as_json: bool) -> None:
    from descant.lab.experiments import EXPERIMENTS

    for entry in EXPERIMENTS.values():
        if as_json:
            writer.write_json({"name": entry.name, "question": entry.question})
        else:
            writer.write(f"{entry.name}\t{entry.question}\n")


def _refuse(options: dict[str, Any], why: str) -> None:
    """Refuse options that would have no effect."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} would have no effect: {why}")


def _check(out: Path | None, *, render: bool) -> None:
    """Refuse before minutes of measuring what would fail after them."""
    if render and out is None:
        raise UsageError("--render draws what --out FOLDER holds; give that folder")
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    if out is not None:
        require("--out", "matplotlib")


def _asked(models: ModelOptions, world: str | None, prompts: Path | None) -> "TaskSet":
    """Return the tasks: the bundled pair's questions, a world's, or those of a file."""
    from descant.cli.prompts import read_prompts
    from descant.lab.bench.prompts import TEXTS
    from descant.lab.experiments.questions import Prompts
    from descant.lab.worlds import load_world

    if world is not None and prompts is not None:
        raise UsageError("--world and --prompts exclude each other; drop one of them")
    if prompts is not None:
        rows = read_prompts(prompts)
        for place, row in enumerate(rows, start=1):
            if row.error is not None:
                raise UsageError(f"prompt {place} of {prompts}: {row.error}; mend the line, or leave it out")
        return Prompts([row.prompt for row in rows])
    bundled = models.pair is None and models.expert is None
    return load_world(world or "rumour") if bundled or world else Prompts(TEXTS)


def _pairs(
    chosen: "Experiment",
    models: ModelOptions,
    folders: list[Path],
    asked: Callable[[str], "TaskSet"],
    limit: int | None,
    *,
    fresh: bool,
) -> "Iterator[Pair]":
    """Load the pairs, each when its turn has come."""
    from descant.cli.models import load_models, plan_models
    from descant.lab.experiments import Cells, Pair
    from descant.lab.studies.identity import identify
    from descant.models.passes.artefacts import cache_folder

    bundled = models.pair is None and models.expert is None
    dtype = "float32" if bundled and models.dtype == "auto" else models.dtype
    seeds = [
        dataclasses.replace(
            models, pair=None, expert=str(folder / "expert"), amateur=str(folder / "amateur"), dtype=dtype
        )
        for folder in folders
    ]
    plans = [plan_models(options) for options in (models, *seeds)]
    labels = ["bundled" if plan.bundled else _label(plan.expert) for plan in plans]
    if len(set(labels)) < len(labels):
        raise UsageError(f"two pairs are called alike: {', '.join(labels)}; rename a folder")
    path = cache_folder() / "experiments" / f"{chosen.name}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    for plan, label in zip(plans, labels, strict=True):
        if not plan.has_amateur:
            raise UsageError("an experiment contrasts, so it needs an amateur; give --amateur NAME")
        decoder = load_models(plan, reads_amateur=True)
        common = {"versions": _versions(), "expert": identify(decoder.expert), "amateur": identify(decoder.amateur)}

        def note(line: str, label: str = label) -> None:
            print(f"{chosen.name}, {label}: {line}", file=sys.stderr, flush=True)

        yield Pair(label, decoder, asked(plan.expert), Cells(path, common, note), limit, _training(plan.expert))


def _label(expert: str) -> str:
    """Return what tables call a pair: its folder's name, or the expert's."""
    path = Path(expert)
    return path.parent.name if path.name == "expert" else path.name


def _training(expert: str) -> dict[str, Any]:
    """Return the training seed of a pair that `descant.lab.pair.train` or a world's training wrote."""
    spec = _spec(expert)
    return {"training_seed": spec["seed"]} if "seed" in spec else {}


def _learnt(expert: str) -> "TaskSet | None":
    """Return the world that a pair was trained on, if it was trained on one that its record names."""
    from descant.lab.worlds import load_world

    settings = dict(_spec(expert).get("world", {}))
    name = settings.pop("world", None)
    return None if name is None else load_world(name, **settings)


def _spec(expert: str) -> dict[str, Any]:
    """Return what a pair was trained by, if a record of it stands beside the expert."""
    try:
        spec: dict[str, Any] = json.loads((Path(expert).parent / "training.json").read_text(encoding="utf-8"))["spec"]
    except (OSError, ValueError, KeyError):
        return {}
    return spec


def _versions() -> list[str]:
    from importlib.metadata import version

    return [version(package) for package in ("descant", "torch", "transformers")]
