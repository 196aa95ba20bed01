"""What an experiment is, and the pair of models that it is run on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.describe import describe
from descant.lab.experiments.cells import Cells
from descant.lab.studies.identity import digest
from descant.lab.studies.tasks import Task, TaskSet
from descant.processors.base import Processor
from descant.scoring import Scoring
from descant.strategies import Greedy, Strategy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Data = dict[str, Any]
"""What an experiment found on one pair: plain data, as JSON holds it."""

_GREEDY = Greedy()


@dataclass(frozen=True)
class Pair:
    """A pair of models, and what it is asked.

    Attributes
    ----------
    label
        What tables call it.
    decoder
        Expert, amateur and tokenizer.
    asked
        The questions or prompts.
    cells
        What has been measured already.
    limit
        The most tasks of a split that are asked, whatever an experiment wants; for a quick try.
    facts
        What pages tell of the pair besides the models themselves: its training seed.
    other_amateur
        The name of an amateur that is not the one the measurements' common settings tell of.
    """

    label: str
    decoder: Decoder
    asked: TaskSet
    cells: Cells
    limit: int | None = None
    facts: Mapping[str, Any] | None = None
    other_amateur: str = ""

    def tasks(self, split: str, count: int) -> Sequence[Task]:
        """Return the first `count` tasks of a split, or fewer if a limit is set."""
        return self.asked.tasks(split, self.limited(count))

    def limited(self, count: int) -> int:
        """Return how many tasks are asked where an experiment wants `count`."""
        return count if self.limit is None else min(count, self.limit)

    @property
    def chat(self) -> bool:
        """Whether prompts go through a chat template: where the tokenizer has one."""
        return bool(getattr(self.decoder.tokenizer, "chat_template", None))

    def with_amateur(self, amateur: Any, name: str = "") -> "Pair":
        """Return the same with another amateur, which is a setting: `EarlyExit(1)`, `Window(model, 4)`.

        An amateur that another model has part in needs a name: its measurements are told apart by it.
        """
        decoder = self.decoder
        other = Decoder(decoder.expert, decoder.tokenizer, amateur, runner=decoder.runner)
        return replace(self, decoder=other, other_amateur=name)

    def alone(self) -> "Pair | None":
        """Return the amateur as the expert of a pair without one; None where it is not a model of its own."""
        amateur, decoder = self.decoder.amateur, self.decoder
        if not isinstance(amateur, PreTrainedModel) or decoder.bridged:
            return None
        return replace(self, decoder=Decoder(amateur, decoder.tokenizer, runner=decoder.runner))

    def answer(
        self,
        tasks: Sequence[Task],
        scoring: Scoring,
        strategy: Strategy = _GREEDY,
        seed: int = 0,
        processors: Sequence[Processor] = (),
    ) -> list[str]:
        """Return the texts that a method gives to tasks; the second time they are looked up."""
        if not tasks:
            return []
        settings = {
            "measure": "answer",
            "method": f"{scoring!r}, {strategy!r}",
            "amateur": describe(self.decoder.amateur) if not isinstance(self.decoder.amateur, PreTrainedModel) else "",
            "tasks": digest([task.prompt for task in tasks]),
            "count": len(tasks),
            "max_new_tokens": self.asked.max_new_tokens,
            "seed": seed,
        }
        settings |= {"processors": repr(list(processors))} if processors else {}
        settings |= {"other amateur": self.other_amateur} if self.other_amateur else {}
        prompts = [task.prompt for task in tasks]
        texts: list[str] = self.cells.measure(
            settings,
            lambda: [
                output.text
                for output in self.decoder.generate(
                    prompts,
                    scoring,
                    processors=processors,
                    strategy=strategy,
                    max_new_tokens=self.asked.max_new_tokens,
                    seed=seed,
                    chat=self.chat,
                )
            ],
        )
        return texts

    def judge(self, tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, list[float]]:
        """Return every score of texts by its name, one a task; empty where nothing is known of the tasks."""
        judged = [self.asked.judge(task, text) for task, text in zip(tasks, texts, strict=True)]
        return {name: [float(scores[name]) for scores in judged] for name in (judged[0] if judged else ())}


@runtime_checkable
class Experiment(Protocol):
    """A question about decoding that one command answers, with numbers.

    It is a frozen dataclass: its fields are its settings, which the record keeps.
    """

    @property
    def name(self) -> str:
        """What the command line and the files call it."""

    @property
    def title(self) -> str:
        """The heading of its page."""

    @property
    def question(self) -> str:
        """What it asks, in one sentence."""

    def run(self, pair: Pair) -> Data:
        """Measure one pair; every measurement goes through `pair.cells`, so that it can be interrupted."""

    def page(self, results: Mapping[str, Data]) -> str:
        """Return tables of what was found on each pair, as Markdown; pictures are named `NAME-FIGURE.svg`."""

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        """Draw what was found; by the name of each figure."""
