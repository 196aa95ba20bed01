"""`descant score` prints the library's figures."""

from pathlib import Path

import pytest

from cli_runs import Run
from descant import Contrastive, Decoder, Likelihood, TopP

PROMPT = "The dog"


def test_one_line_a_continuation(run: Run, folders: tuple[Path, Path], decoder: Decoder) -> None:
    done = run("score", PROMPT, " sleeps", " on.\n", "--expert", folders[0])
    expected = decoder.score([PROMPT] * 2, [" sleeps", " on.\n"], scoring=Likelihood())
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [float(figure) for figure, _ in lines] == pytest.approx([float(x) for x in expected], abs=1e-5)
    assert [text for _, text in lines] == [" sleeps", " on.\\n"]


def test_json_under_a_method(run: Run, models: tuple[str, ...], decoder: Decoder) -> None:
    done = run("score", PROMPT, " sleeps", *models, "--json", "--alpha", "0.001", "--top-p", "0.9")
    [expected] = decoder.score(PROMPT, " sleeps", scoring=Contrastive(alpha=0.001), processors=(TopP(0.9),))
    [found] = done.objects
    assert found["token_ids"] == expected.token_ids
    finite = [None if value == -float("inf") else pytest.approx(value) for value in expected.logprobs]
    assert found["logprobs"] == finite
    assert found["method"]["scoring"]["alpha"] == 0.001
    assert found["method"]["processors"][0]["name"] == "TopP"


def test_bad_pairs_are_reported_and_the_others_scored(
    run: Run, folders: tuple[Path, Path], decoder: Decoder, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [
        '{"prompt": "The dog", "continuation": " sleeps"}',
        '{"prompt": "The dog", "continuation": ""}',
        "oops",
        '{"prompt": "Hello", "continuation": " world"}',
    ]
    file.write_text("\n".join(rows), encoding="utf-8")
    done = run("score", "--pairs", file, "--expert", folders[0], "--json")
    expected = decoder.score([PROMPT, "Hello"], [" sleeps", " world"], scoring=Likelihood())
    assert done.code == 3
    assert [row["index"] for row in done.objects] == [0, 1, 2, 3]
    assert ["error" in row for row in done.objects] == [False, True, True, False]
    assert [row["logprob"] for row in done.objects if "logprob" in row] == pytest.approx(
        [float(x) for x in expected], abs=1e-5
    )
    plain = run("score", "--pairs", file, "--expert", folders[0])
    assert (plain.code, len(plain.out.splitlines())) == (3, 2)
    assert [line.split(": ")[2] for line in plain.err.splitlines()] == ["pair 2", "pair 3"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([PROMPT], "at least one CONTINUATION"),
        ([PROMPT, "x", "--pairs", "f"], "exclude each other"),
        (["--pairs", "/nowhere"], "cannot read /nowhere"),
        ([PROMPT, "x", "--temperature", "0"], "no distribution to score"),
        ([PROMPT, "x", "--seed", "1"], "No such option: --seed"),
        ([PROMPT, "x", "--method", "greedy", "--alpha", "1"], "--alpha would have no effect"),
    ],
)
def test_usage_errors(run: Run, args: list[str], message: str) -> None:
    done = run("score", *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
