"""Run the benchmarks and write their tables, with conditions, to `benchmarks/results/`."""

import argparse
import datetime
import inspect
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import beams, bridge, cases, early_exit, linears, memory, narrow_head, runner, speculation, verification
from descant.lab.bench.measure import Spread, conditions

CASES = {
    "greedy": cases.greedy,
    "contrastive": cases.contrastive,
    "selection": cases.selection,
    "memory": memory.memory,
    "speculation": speculation.speculation,
    "contrastive-transformers": speculation.contrastive_transformers,
    "verification": verification.verification,
    "planted": speculation.planted,
    "linears": linears.linears,
    "packing": linears.packing,
    "quantization": linears.quantization,
    "runner": runner.runner,
    "beams": beams.beams,
    "bridge": bridge.bridge,
    "narrow-head": narrow_head.narrow_head,
    "early-exit": early_exit.early_exit,
    "early-exit-steps": early_exit.early_exit_steps,
}


def main() -> None:
    """Run the named cases, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="which to run; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    names = arguments.cases or list(CASES)
    stem = f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}-cpu"
    for name in names:
        before = conditions()
        rows = CASES[name]()
        text = _markdown(name, inspect.cleandoc(CASES[name].__doc__ or ""), rows, before)
        print(text, flush=True)
        _write(arguments.out / f"{stem}-{name}.md", text)
        record = {"case": name, "conditions": before, "rows": rows}
        _write(arguments.out / f"{stem}-{name}.json", json.dumps(record, default=vars, indent=1, ensure_ascii=False))


def _markdown(name: str, doc: str, rows: list[dict[str, Any]], before: dict[str, Any]) -> str:
    header = list(rows[0])
    lines = [f"## {name}", "", doc, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row[column]) for column in header) + " |")
    facts = ", ".join(f"{key} {value}" for key, value in before.items())
    lines += ["", f"Medians (quartiles). {facts}. Command: `python -m benchmarks {name}`.", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, (Spread, str)) else f"{value:g}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
