"""Under lm-evaluation-harness: its own `hf` model over the same checkpoint is the oracle, for likelihood."""

import json
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import architectures
from checkpoints import qwen_tokenizer
from descant import Contrastive, Decoder, PromptError, SettingsError, UsageError
from descant.demo import demo_paths, questions
from descant.describe import describe
from descant.integrations.lm_eval import DescantLM, cli_evaluate

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's own, and those of what it brings

DEMO = cache(Decoder.demo)
THEIRS = cache(lambda: HFLM(pretrained=DEMO().expert, tokenizer=DEMO().tokenizer, batch_size=4, max_length=64))


def ours(**settings: Any) -> DescantLM:
    return DescantLM(**{"decoder": DEMO(), "batch_size": 3, "max_length": 64, "max_gen_toks": 16, **settings})


def ask(*arguments: Any) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks over questions about the bundled world: choose the answer, and write it."""
    folder = tmp_path_factory.mktemp("tasks")
    asked = questions("dev", limit=12)
    answers = sorted({entry.answer for entry in asked})
    written = DEMO().generate([entry.prompt for entry in asked], Contrastive(), stop=".")
    lines = [
        {
            "question": entry.prompt,
            "options": [f" {answer}" for answer in answers],
            "gold": answers.index(entry.answer),
            "text": out.text,
        }
        for entry, out in zip(asked, written, strict=True)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "data.jsonl"}}}, cache_dir: {folder / "cache"}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
    (folder / "choose.yaml").write_text(
        f"task: rumour_choose{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{options}}"\ndoc_to_target: gold\nmetric_list: [{metric: acc}]\n'
    )
    (folder / "write.yaml").write_text(
        f"task: rumour_write{common}output_type: generate_until\n"
        "doc_to_target: text\ngeneration_kwargs: {until: ['.'], max_gen_toks: 32}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    return folder


CONTEXTS = ["What animal did Hugo Goldley keep?", "Where did Linus Greenby live? ", "", "It was", "one " * 60]


def test_loglikelihoods_are_those_of_lm_evals_own_model() -> None:
    requests = [ask(context, end) for context in CONTEXTS for end in (" He kept a grey heron.", " Lottie", "She was")]
    greedy = ours().generate_until([ask(context, {"until": ["."]}) for context in CONTEXTS[:2]])
    requests += [ask(context, text) for context, text in zip(CONTEXTS[:2], greedy, strict=True)]
    expected = THEIRS().loglikelihood(requests, disable_tqdm=True)
    for answer, reference in zip(ours(method="greedy").loglikelihood(requests), expected, strict=True):
        assert answer[0] == pytest.approx(reference[0], abs=1e-4)
        assert answer[1] == reference[1]
    assert {flag for _, flag in expected} == {False, True}


def test_rolling_loglikelihoods_too() -> None:
    texts = [ask("Greta Featherbank lived in the mill."), ask("She was followed by a heron. " * 30), ask("x")]
    expected = THEIRS().loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours(method="greedy").loglikelihood_rolling(texts, disable_tqdm=True) == pytest.approx(expected, abs=1e-3)


def test_generations_too() -> None:
    settings = [
        {"until": [".", "?"], "max_gen_toks": 12},
        {"until": "a", "do_sample": False, "temperature": 0.0, "max_gen_toks": 9},
    ]
    requests = [ask(context, asked) for context in (*CONTEXTS[:2], "It was") for asked in settings]
    assert ours(method="greedy").generate_until(requests) == THEIRS().generate_until(requests, disable_tqdm=True)


def test_the_contrast_scores_and_writes() -> None:
    model = ours(alpha=0.2)
    [(score, greedy)] = model.loglikelihood([ask(CONTEXTS[0], " He kept")])
    assert score == pytest.approx(DEMO().score(CONTEXTS[0], " He kept", Contrastive(0.2))[0])
    assert isinstance(greedy, bool)
    text = DEMO().generate(CONTEXTS[0], Contrastive(0.2), stop=".")[0].text
    assert model.generate_until([ask(CONTEXTS[0], {"until": ["."]})]) == [text]
    assert model.get_model_info()["method"]["scoring"]["alpha"] == 0.2


def test_what_a_task_asks_of_sampling_joins_the_method() -> None:
    request = [ask(CONTEXTS[0], {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 3.0})]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(ours(method="contrastive", alpha=1e-5).generate_until(request))
    assert drawn[0] == drawn[1] != drawn[2]
    assert ours(alpha=1e-5, seed=4).generate_until(request) == ours(alpha=1e-5, seed=4).generate_until(request)
    with pytest.raises(SettingsError, match="asks for num_beams"):
        ours().generate_until([ask("It was", {"do_sample": True, "temperature": 1.0, "num_beams": 2})])
    assert ours(method="greedy", draft_tokens=2).generate_until(request[:0]) == []


def test_a_task_stops_at_strings_that_hold_special_tokens() -> None:
    tokenizer = qwen_tokenizer()
    ids = tokenizer("ab\n<|im_start|>user")["input_ids"]
    decoder = Decoder(architectures.chain(ids, len(tokenizer)), tokenizer)
    model = DescantLM(decoder=decoder, method="greedy", max_length=64)
    for until, text in (("\n<|im_start|>", "b"), ("<|im_start|>user", "b\n")):
        assert model.generate_until([ask("a", {"until": [until], "max_gen_toks": len(ids)})]) == [text]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alhpa": 0.1}, "there is no option alhpa"),
        ({"expert": "gpt2"}, "decoder is a loaded pair"),
        ({"method": "greedy", "alpha": 0.1}, "would have no effect"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"method": "nucleus"}, "there is no method"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ours(**settings)


def test_the_longest_text_is_as_long_as_the_positions_are_scaled() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    tokenizer = DEMO().tokenizer
    expert = architectures.build("qwen2", vocab_size=len(tokenizer), max_position_embeddings=32, rope_parameters=rope)
    model = ours(decoder=Decoder(expert, tokenizer), method="greedy", max_length=None)
    assert model.max_length == 128
    long = [ask("It was " * 40, " so")]
    assert 32 < len(model.tok_encode(long[0].args[0])) < 128
    [expected] = HFLM(pretrained=expert, tokenizer=tokenizer, max_length=128).loglikelihood(long, disable_tqdm=True)
    assert model.loglikelihood(long)[0][0] == pytest.approx(expected[0], abs=1e-4)


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(PromptError, match="larger max_length"):
        ours().loglikelihood([ask("It", " was" * 80)])
    with pytest.raises(SettingsError, match="smaller max_gen_toks"):
        ours().generate_until([ask("It", {"until": [], "max_gen_toks": 64})])


def test_a_local_task_scores_the_same(tasks: Path) -> None:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = []
    for model in (ours(method="greedy"), THEIRS()):
        found = simple_evaluate(model, tasks=["rumour_choose", "rumour_write"], task_manager=manager, bootstrap_iters=0)
        results.append(found["results"])
    assert results[0] == results[1]
    assert results[0]["rumour_write"]["exact_match,none"] < 1  # the contrast's texts are others


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_the_one_line_command(alone: bool, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, amateur = demo_paths()
    arguments = f"--model descant --model_args expert={expert},amateur={amateur},method=contrastive,alpha=0.1"
    arguments += f" --include_path {tasks} --tasks rumour_choose,rumour_write --batch_size 8 --output_path {tmp_path}"
    command = [sys.executable, "-m", "descant.integrations.lm_eval", *arguments.split()]
    if alone:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    else:
        monkeypatch.setattr(sys, "argv", command[2:])
        # Its own tasks are thousands of files.
        monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
        cli_evaluate()
    [written] = tmp_path.rglob("results*.json")
    report = json.loads(written.read_text())
    assert report["config"]["method"]["scoring"] == describe(Contrastive(0.1))
    assert report["results"]["rumour_write"]["exact_match,none"] == 1.0
