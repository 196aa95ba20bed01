"""Models of other tokenizers from the command line."""

from pathlib import Path

import pytest

import architectures
from checkpoints import sentencepiece_tokenizer
from cli_runs import Run
from descant import Decoder, OtherTokenizer, VocabularyError


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    tokenizer = sentencepiece_tokenizer()
    architectures.build("llama", vocab_size=len(tokenizer), num_hidden_layers=1).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_tokenizers_are_bridged_on_request(run: Run, folders: tuple[Path, Path], foreign: Path) -> None:
    models = ("--expert", folders[0], "--amateur", foreign)
    settings = ("--max-new-tokens", "4", "--no-chat-template", "--json")
    refused = run("generate", "Hello", *models, *settings)
    assert refused.code == 2
    assert "--bridge-tokenizers" in refused.err
    [done] = run("generate", "Hello", *models, *settings, "--bridge-tokenizers").objects
    assert done["method"]["amateur"]["name"] == "OtherTokenizer"
    decoder = Decoder.from_pretrained(folders[0], amateur=OtherTokenizer(foreign))
    assert decoder.generate("Hello", max_new_tokens=4)[0].token_ids == done["token_ids"]
    with pytest.raises(VocabularyError, match="OtherTokenizer"):
        Decoder.from_pretrained(folders[0], amateur=foreign)


def test_a_draft_model_may_have_any_tokenizer(run: Run, folders: tuple[Path, Path], foreign: Path) -> None:
    settings = ("--method", "greedy", "--max-new-tokens", "6", "--no-chat-template", "--json")
    plain, drafted = (
        run("generate", "Hello", "--expert", folders[0], *settings, *more).objects[0]
        for more in ((), ("--draft-model", foreign, "--draft-confidence", "0"))
    )
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["method"]["strategy"]["draft"]["name"] == "OtherTokenizer"
    [same] = run("generate", "Hello", "--expert", folders[0], *settings, "--draft-model", folders[1]).objects
    assert same["token_ids"] == plain["token_ids"]
    assert same["method"]["strategy"]["draft"]["name"] == str(folders[1])


def test_compare_and_bench_know_of_bridges(run: Run, folders: tuple[Path, Path], foreign: Path) -> None:
    models = ("--expert", folders[0], "--amateur", foreign, "--bridge-tokenizers")
    assert "contrastive" in run("compare", "Hello", *models, "--max-new-tokens", "2", "--no-chat-template").out
    refused = run("bench", *models)
    assert refused.code == 2
    assert "--bridge-tokenizers" in refused.err
