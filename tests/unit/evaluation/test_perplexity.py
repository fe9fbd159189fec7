"""Perplexity of plain text: hand-computed windows, losses of transformers, and the program's rows."""

import json
import math
import re
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from conftest import ROOT
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.evaluation.perplexity import Window, cut_windows, score_windows, start_token
from prefloop.models.loading import load_policy
from prefloop.models.response_logprobs import prepare_scorer
from tiny import ARCHITECTURES

BOS = 0
TOKENS = [5, 9, 33, 7, 40, 41, 42, 43, 44, 45, 3]
SHORT = [8, 8, 20]
PACKAGED = ROOT / "workflow/texts/plain.jsonl"


def test_windows_by_hand():
    assert cut_windows([1, 2, 3, 4, 5, 6, 7], 0, 4) == [
        Window([0], [1, 2, 3]),
        Window([3], [4, 5, 6]),
        Window([6], [7]),
    ]
    assert cut_windows([1, 2, 3, 4, 5, 6, 7], 0, 4, context=2) == [
        Window([0], [1, 2, 3]),
        Window([2, 3], [4, 5]),
        Window([4, 5], [6, 7]),
    ]
    assert cut_windows([1, 2, 3], 0, 4) == [Window([0], [1, 2, 3])]
    assert cut_windows([], 0, 4) == []


@pytest.mark.parametrize("max_tokens", range(2, 14))
def test_every_token_is_scored_once(max_tokens):
    """The context of a window precedes it in the document, and no window exceeds the maximum length."""
    for context in range(1, max_tokens):
        windows, done = cut_windows(TOKENS, BOS, max_tokens, context), [BOS]
        for window in windows:
            assert len(window.context) + len(window.scored) <= max_tokens
            assert window.context == done[-len(window.context) :]
            assert len(window.context) == min(context, len(done))
            done += window.scored
        assert done == [BOS, *TOKENS]


def scores(model, windows, batch_size=8) -> list[float]:
    return score_windows(prepare_scorer(model), windows, batch_size, CostMeter("measure_perplexity"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_match_transformers_loss(manifests, architecture):
    """The model's own loss for labels, with one window per document and all windows in one batch."""
    manifest = manifests[architecture]
    model, tokenizer = load_policy(manifest, manifest, torch.float32, "cpu")
    documents, start = [TOKENS, SHORT], start_token(tokenizer)
    with torch.no_grad():
        ids = [torch.tensor([[start, *tokens]]) for tokens in documents]
        losses = [model(input_ids=row, labels=row).loss.item() for row in ids]
    windows = [window for tokens in documents for window in cut_windows(tokens, start, 64)]
    expected = [-loss * len(tokens) for loss, tokens in zip(losses, documents, strict=True)]
    assert scores(model, windows) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_scores_of_several_windows_match_transformers_loss(manifests, trained, parameters):
    """Context tokens have label −100. A token scored twice or in the wrong window would change the sum."""
    model, _ = load_policy(manifests["llama"], trained(parameters), torch.float32, "cpu")
    untrained, _ = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    windows, expected = cut_windows(TOKENS, BOS, 6, context=2), []
    assert len(windows) == 3
    for context, scored in windows:
        labels = torch.tensor([[-100] * len(context) + scored])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([context + scored]), labels=labels).loss.item()
        expected.append(-loss * len(scored))
    assert scores(model, windows) == pytest.approx(expected, rel=1e-5)
    assert scores(model, windows, batch_size=1) == pytest.approx(expected, rel=1e-5)
    assert scores(untrained, windows) != pytest.approx(expected, rel=1e-2)


def test_start_is_bos_or_eos():
    assert start_token(SimpleNamespace(bos_token_id=0, eos_token_id=1)) == 0
    assert start_token(SimpleNamespace(bos_token_id=None, eos_token_id=1)) == 1
    with pytest.raises(InputError, match="models/m: its tokenizer has neither BOS nor EOS"):
        start_token(SimpleNamespace(bos_token_id=None, eos_token_id=None, name_or_path="models/m"))


@pytest.fixture
def program(monkeypatch, tmp_path, manifests):
    """Runs measure_perplexity.py with a policy, a text and flags; returns rows and cost."""

    def run(policy, text, **flags) -> tuple[list[dict], dict]:
        given = {"model": manifests["llama"], "policy": policy, "text": text, "dtype": "float32", "max-tokens": 64}
        given |= {"output": tmp_path / "out/perplexity.jsonl", "cost": tmp_path / "out/cost.json"} | flags
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["measure_perplexity.py", *words])
        runpy.run_path(str(ROOT / "workflow/scripts/measure_perplexity.py"))
        return read_rows(tmp_path / "out/perplexity.jsonl"), json.loads((tmp_path / "out/cost.json").read_text())

    return run


def test_each_document_is_a_row(program, tmp_path, manifests, capsys):
    """Rows have UTF-8 bytes, tokens without BOS, and the log-probability summed over the document's windows."""
    texts = ["the reply is good", "", "a " * 90 + "é"]
    write_rows(tmp_path / "own.jsonl", [{"body": text, "n": float(i)} for i, text in enumerate(texts)])
    rows, cost = program(manifests["llama"], tmp_path / "own.jsonl", column="body")
    assert [row["document"] for row in rows] == [1, 3]
    assert [row["n_bytes"] for row in rows] == [17, 182]
    model, tokenizer = load_policy(manifests["llama"], manifests["llama"], torch.float32, "cpu")
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (texts[0], texts[2])]
    assert [row["n_tokens"] for row in rows] == list(map(len, encoded))
    windows = [cut_windows(tokens, BOS, 64) for tokens in encoded]
    assert len(windows[0]) == 1 and len(windows[1]) > 1
    for row, part in zip(rows, windows, strict=True):
        assert row["logp"] == pytest.approx(sum(scores(model, part)), rel=1e-5)
    read = sum(len(w.context) + len(w.scored) - 1 for part in windows for w in part)
    parameters = json.loads(manifests["llama"].read_text())["parameters"]
    assert (cost["stage"], cost["tokens_in"], cost["tokens_out"]) == ("measure_perplexity", read, 0)
    assert cost["flops"] == 2 * parameters * read
    loss = -sum(row["logp"] for row in rows) / sum(map(len, encoded))
    out = capsys.readouterr().out
    assert f"perplexity {math.exp(loss):.4g}, " in out and "; 1 empty documents left out" in out


def test_text_file_is_one_document(program, tmp_path, manifests):
    (tmp_path / "own.txt").write_text("\ufeffthe reply\n\nis good\n", encoding="utf-8")
    rows, _ = program(manifests["llama"], tmp_path / "own.txt")
    assert [(row["document"], row["n_bytes"]) for row in rows] == [(1, 19)]


def test_packaged_text_does_not_depend_on_batches(program, trained):
    """A longer context changes log-probabilities but not the number of tokens."""
    policy = trained("lora")
    rows, _ = program(policy, PACKAGED)
    assert len(rows) == len(PACKAGED.read_text().splitlines()) == 12
    one_by_one, _ = program(policy, PACKAGED, **{"batch-size": 1})
    assert [row["logp"] for row in one_by_one] == pytest.approx([row["logp"] for row in rows], rel=1e-5)
    wider, cost = program(policy, PACKAGED, context=32)
    assert [row["n_tokens"] for row in wider] == [row["n_tokens"] for row in rows]
    assert [row["logp"] for row in wider] != pytest.approx([row["logp"] for row in rows], rel=1e-4)
    assert cost["tokens_in"] > sum(row["n_tokens"] for row in rows)


@pytest.mark.parametrize(
    ("file", "content", "flags", "message"),
    [
        ("a.txt", b" \n", {}, "a.txt: no text, expected a document"),
        ("a.txt", "café".encode("latin-1"), {}, "a.txt: not UTF-8 .*save it as UTF-8"),
        ("a.jsonl", b'{"body": "a"}\n', {}, "a.jsonl, line 1: missing text; found body"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', {}, "a.jsonl, line 2: text is 3, expected text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, "a.jsonl, line 1: text has half a surrogate pair"),
        ("a.txt", b"good", {"max-tokens": 513}, "perplexity.max_tokens: 513, and .* has 512 positions; lower it"),
        ("a.txt", b"good", {"context": 64}, "perplexity.context: 64, expected less than max_tokens, 64"),
    ],
)
def test_unusable_text_raises(program, tmp_path, manifests, file, content, flags, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(SystemExit) as error:
        program(manifests["llama"], tmp_path / file, **flags)
    assert re.search(message, str(error.value)), error.value
    assert not (tmp_path / "out/perplexity.jsonl").exists()
