"""`descant warm-up`: compile ahead what methods take, for runs to come."""

from typing import Annotated

from descant.cli.console import DONE, Progress, data_writer
from descant.cli.options import RUN, Json, MethodOptions, ModelOptions, expand, option
from descant.errors import UsageError


@expand
def warm_up(
    *,
    models: ModelOptions,
    method: MethodOptions,
    methods: Annotated[
        str | None,
        option("Options", "Presets, separated by commas; contrastive, or greedy without an amateur.", of="NAMES"),
    ] = None,
    rows: Annotated[
        str, option(RUN, "How many rows will be decoded at once, separated by commas; 1. A beam is a row.", of="LIST")
    ] = "1",
    as_json: Json = False,
) -> int:
    """Compile ahead what methods take, so that every later run has it at once.

    What is compiled is kept on disk, and --runner auto, the default everywhere, takes it. A shape takes from ten
    seconds; a method has a few for each model, and about ten where it drafts. Prints which will run compiled.
    """
    from descant.cli.contenders import load_for, resolve_all, split_names
    from descant.cli.models import plan_models

    if models.runner == "eager":
        raise UsageError("--runner eager compiles nothing; leave it out")
    with data_writer() as writer:
        counts = _counts(rows)
        plan = plan_models(models)
        default = "contrastive" if plan.has_amateur else "greedy"
        names = split_names(default if methods is None else methods)
        resolved = resolve_all(names, method.given())
        decoder = load_for(plan, resolved)
        with Progress(len(names) * len(counts), "compiling") as progress:
            for name, entry in zip(names, resolved, strict=True):
                for count in counts:
                    ready = decoder.warm_up(entry.method.scoring, entry.method.strategy, rows=[count])
                    progress.advance()
                    with progress.hidden():
                        if as_json:
                            writer.write_json({"method": name, "rows": count, "compiled": ready})
                        else:
                            writer.write(
                                f"{name}, rows {count}: {'compiled' if ready else 'eager, at least in part'}\n"
                            )
    return DONE


def _counts(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"--rows is {text!r}; give whole numbers from 1, separated by commas")
    return [int(word) for word in dict.fromkeys(words)]
