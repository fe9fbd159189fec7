"""Answer files in the formats of other benchmarks."""

import json
import runpy
import sys

import pytest

from annotated_rows import answer, asks
from conftest import ROOT
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.answer_files import alpaca_eval_answers, arena_hard_answers

PROMPTS = {
    "p": {"prompt_id": "p", "messages": asks("Why?"), "meta": {"uid": "u7", "dataset": "koala", "other": 1}},
    "q": {"prompt_id": "q", "messages": [{"role": "system", "content": "Be brief."}, *asks("How?")]},
}
SAMPLES = [answer("q", 0, "So."), answer("q", 1, "Not."), answer("p", 0, "Becaüse.", n_tokens=4), answer("p", 1, "No.")]


def test_alpaca_eval_has_one_output_per_instruction():
    """Only the first sample of each prompt is used. The benchmark matches two models by the instruction."""
    assert json.loads(alpaca_eval_answers(PROMPTS, SAMPLES, "tiny-dota-seed-0")) == [
        {"instruction": "System: Be brief.\n\nUser: How?", "output": "So.", "generator": "tiny-dota-seed-0"},
        {"dataset": "koala", "instruction": "Why?", "output": "Becaüse.", "generator": "tiny-dota-seed-0"},
    ]


def test_arena_hard_has_one_line_per_question():
    lines = [json.loads(line) for line in arena_hard_answers(PROMPTS, SAMPLES, "g").splitlines()]
    assert [(line["uid"], line["model"], line["metadata"]) for line in lines] == [
        ("q", "g", {"token_len": 1}),
        ("u7", "g", {"token_len": 4}),
    ]
    assert lines[1]["messages"] == [*asks("Why?"), {"role": "assistant", "content": {"answer": "Becaüse."}}]
    assert len({line["ans_id"] for line in lines}) == 2
    assert arena_hard_answers(PROMPTS, SAMPLES, "g") == arena_hard_answers(PROMPTS, SAMPLES, "g"), (
        "the output is deterministic"
    )
    assert arena_hard_answers(PROMPTS, SAMPLES, "h") != arena_hard_answers(PROMPTS, SAMPLES, "g")


@pytest.mark.parametrize("known", [["p", "q"], ["p"]])
def test_program_writes_answers_to_known_prompts(tmp_path, monkeypatch, known):
    write_rows(tmp_path / "prompts.jsonl", [PROMPTS[name] for name in known])
    write_rows(tmp_path / "samples.jsonl", SAMPLES)
    files = {"prompts": "prompts.jsonl", "samples": "samples.jsonl", "output": "answers/g.json"}
    words = [word for key, file in files.items() for word in (f"--{key}", str(tmp_path / file))]
    monkeypatch.setattr(sys, "argv", ["write_answers", *words, "--generator", "g", "--form", "alpaca_eval"])
    monkeypatch.syspath_prepend(str(ROOT / "workflow/scripts"))
    if known == ["p"]:
        with pytest.raises(SystemExit, match="no prompt q"):
            runpy.run_path(str(ROOT / "workflow/scripts/write_answers.py"), run_name="__main__")
    else:
        runpy.run_path(str(ROOT / "workflow/scripts/write_answers.py"), run_name="__main__")
        assert (tmp_path / "answers/g.json").read_text() == alpaca_eval_answers(PROMPTS, SAMPLES, "g")
