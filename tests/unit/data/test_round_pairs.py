"""select_pairs reads its files row by row and gives the same pairs as a computation in memory."""

import json
import runpy
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows
from prefloop.data.pairs import all_pairs
from prefloop.data.pfp_rows import BATCH
from prefloop.data.round_pairs import read_pairs, scan_pairs, training_row
from steps import prompt_of, write_step

STEPS, PROMPTS, RESPONSES = 2, 3 * BATCH + 1, 3


def made_up(rng: np.random.Generator, step: int, prompts: int, tokens: int = 5) -> list[dict]:
    """Return responses with all fields; rewards are whole numbers, so that some are tied."""
    return [
        {
            "prompt_id": f"step {step}, prompt {i} é",
            "cluster": i % 4,
            "response_id": number,
            "reward": int(rng.integers(4)),
            "n_tokens": tokens,
            "logp": -float(rng.integers(1, 90)) / 7,
            "logp_ref": -float(rng.integers(1, 90)) / 7,
            "response": f"é\n {number}",
            "token_ids": rng.integers(0, 50000, tokens).tolist(),
            "sampler": "policy_reference",
            "component": "reference" if number and i % 3 else "policy",
        }
        for i in range(prompts)
        for number in range(RESPONSES)
    ]


@pytest.fixture
def steps(tmp_path) -> tuple[list[Path], list[list[dict]]]:
    """The pfp.jsonl of every step, and the responses of every step."""
    rng = np.random.default_rng(0)
    rows = [made_up(rng, step, PROMPTS) for step in range(STEPS)]
    return [write_step(tmp_path / f"step-{step}", rows[step]) for step in range(STEPS)], rows


def in_memory(rows: list[list[dict]], least_gap: int) -> list[dict]:
    """Return the expected rows of pairs.jsonl in any order, by trying every two responses of a prompt."""
    found = []
    everything = [row for step in rows for row in step]
    for w, l in permutations(everything, 2):  # noqa: E741
        gap = w["reward"] - l["reward"]
        if w["prompt_id"] != l["prompt_id"] or gap <= 0 or gap < least_gap:
            continue
        row = prompt_of(w["prompt_id"]) | {"cluster": w["cluster"]}
        for side, response in (("chosen", w), ("rejected", l)):
            names = {"": "response", "response_id_": "response_id", "component_": "component", "reward_": "reward"}
            names |= {"token_ids_": "token_ids", "n_": "n_tokens", "logp_": "logp", "logp_ref_": "logp_ref"}
            row |= {f"{prefix}{side}": response[field] for prefix, field in names.items()}
        sampled = [r for r in everything if r["prompt_id"] == w["prompt_id"] and r["component"] == "reference"]
        if sampled:
            own = [response for response in (w, l) if response["component"] == "reference"]
            row["token_ids_explored"] = (own or sampled)[0]["token_ids"]
        found.append(row | {"metric": "pfp", "score": l["logp"] - w["logp"]})
    return found


def select_pairs(monkeypatch, paths: list[Path], output: Path, *flags: str, number: int = 1) -> list[dict]:
    arguments = ["--pfp", *map(str, paths), "--output", str(output), "--seed", "0", "--round", str(number), *flags]
    monkeypatch.setattr(sys, "argv", ["select_pairs", *arguments])
    runpy.run_path(str(ROOT / "workflow/scripts/select_pairs.py"), run_name="select_pairs")
    return read_rows(output)


def as_text(row: dict) -> str:
    return json.dumps(row, sort_keys=True)


@pytest.mark.parametrize("least_gap", [1, 2])
def test_pairs_match_a_plain_computation_in_memory(monkeypatch, tmp_path, steps, least_gap):
    """Covers several steps and batches, ties, non-ASCII text, and prompts with responses of the reference."""
    paths, rows = steps
    expected = in_memory(rows, least_gap)
    pairs = select_pairs(monkeypatch, paths, tmp_path / "pairs.jsonl", "--min-gap", str(least_gap))
    assert [row["score"] for row in pairs] == sorted((row["score"] for row in expected), reverse=True)
    assert sorted(map(as_text, pairs)) == sorted(map(as_text, expected))
    few = select_pairs(monkeypatch, paths, tmp_path / "few.jsonl", "--min-gap", str(least_gap), "--top-n", "7")
    assert few == pairs[:7]


def test_pairs_read_again_match_the_scanned_ones(steps):
    paths, _ = steps
    pairs = scan_pairs(paths)
    order = np.random.default_rng(0).permutation(len(pairs))
    again = list(read_pairs(pairs, order))
    assert [pair.prompt["prompt_id"] for pair in again] == [pairs.prompt_ids[i] for i in order]
    assert [pair.chosen["logp"] for pair in again] == pairs.columns["logp_chosen"][order].tolist()
    assert [pair.rejected["reward"] for pair in again] == pairs.columns["reward_rejected"][order].tolist()
    assert [pair.best_worst for pair in again] == pairs.columns["best_worst"][order].tolist()
    assert 0 < pairs.columns["best_worst"].sum() < len(pairs)


def test_identical_responses_are_counted_in_the_log(monkeypatch, tmp_path, capsys):
    rows = [
        {"prompt_id": "a", "response_id": i, "response": text, "reward": reward, "n_tokens": 2, "logp": -1.0}
        for i, (text, reward) in enumerate([("x", 1.0), ("x", 2.0), ("y", 2.0)])
    ]
    pairs = select_pairs(monkeypatch, [write_step(tmp_path, rows)], tmp_path / "pairs.jsonl")
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [("y", "x")]
    assert "1 pairs tied, 1 between identical responses, 1 ordered;" in capsys.readouterr().out
    path = write_step(tmp_path, rows[:2])
    with pytest.raises(SystemExit, match="0 ordered.*only identical responses have different rewards: raise"):
        select_pairs(monkeypatch, [path], tmp_path / "none.jsonl")


def test_pairs_with_a_truncated_response_are_dropped_if_asked(monkeypatch, tmp_path, capsys):
    rows = [
        {"prompt_id": "a", "response_id": i, "reward": float(i), "n_tokens": 2, "logp": -1.0, "finish_reason": reason}
        for i, reason in enumerate(["stop", "length", "stop"])
    ]
    path, output = write_step(tmp_path, rows), tmp_path / "pairs.jsonl"
    assert len(select_pairs(monkeypatch, [path], output)) == 3
    assert "drop_truncated" not in capsys.readouterr().out
    (pair,) = select_pairs(monkeypatch, [path], output, "--drop-truncated", "True")
    assert (pair["response_id_chosen"], pair["response_id_rejected"]) == (2, 0)
    assert "pairs.drop_truncated dropped 2" in capsys.readouterr().out
    path = write_step(tmp_path, rows[:2])
    with pytest.raises(SystemExit, match="every pair has a truncated response: raise generation.max_new_tokens"):
        select_pairs(monkeypatch, [path], output, "--drop-truncated", "True")


def test_first_round_may_have_its_own_metric(monkeypatch, tmp_path, steps):
    """Round 1 selects the same pairs as with metric random, and later rounds are not changed."""
    paths, _ = steps
    output, seeded = tmp_path / "pairs.jsonl", ("--metric", "less_is_more", "--first-metric", "random", "--top-n", "9")
    for number, plain in ((1, "random"), (2, "less_is_more")):
        pairs = select_pairs(monkeypatch, paths, output, *seeded, number=number)
        assert {row["metric"] for row in pairs} == {plain}
        assert select_pairs(monkeypatch, paths, output, "--metric", plain, "--top-n", "9", number=number) == pairs


def test_pairing_depends_on_seed_round_and_prompt(monkeypatch, tmp_path, capsys):
    """One pair per prompt. The order of steps does not matter, and another round draws other pairs."""
    rng = np.random.default_rng(0)
    rows = [
        {"prompt_id": f"p{i}", "response_id": j, "reward": reward, "n_tokens": 2, "logp": -1.0}
        for i in range(30)
        for j, reward in enumerate(rng.permutation(8).tolist())
    ]
    paths = [write_step(tmp_path / "a", rows[:120]), write_step(tmp_path / "b", rows[120:])]
    flags = "--metric", "reward_gap", "--pairing", "sweet_spot"

    def drawn(paths: list[Path], number: int = 1) -> dict[str, tuple[float, float]]:
        pairs = select_pairs(monkeypatch, paths, tmp_path / "pairs.jsonl", *flags, number=number)
        return {row["prompt_id"]: (row["reward_chosen"], row["reward_rejected"]) for row in pairs}

    first = drawn(paths)
    assert "0 pairs tied, 30 by sweet_spot;" in capsys.readouterr().out
    assert len(first) == 30
    assert {best for best, _ in first.values()} == {7}
    assert drawn(paths[::-1]) == first
    assert drawn(paths, number=2) != first


def test_training_row_has_the_prefix_of_the_longer_response():
    usual = {"logp": -1.0, "component": "policy", "token_ids": []}
    long = {"response_id": 0, "response": "long", "reward": 1.0, "n_tokens": 5, "logp_ref": -9.0} | usual
    short = {"response_id": 1, "response": "short", "reward": 0.0, "n_tokens": 2, "logp_ref": -3.0} | usual
    prompt = prompt_of("a") | {"cluster": 0, "best": 0, "worst": 1}
    (plain,), _ = all_pairs([prompt | {"responses": [long, short]}])
    assert not [name for name in training_row(plain) if "prefix" in name]
    long["logp_ref_prefixes"], short["logp_ref_prefixes"] = {"2": -4.0, "3": -6.0}, {}
    (pair,), _ = all_pairs([prompt | {"responses": [long, short]}])
    row = training_row(pair)
    assert (row["logp_ref_prefix_chosen"], row["logp_ref_prefix_rejected"]) == (-4.0, -3.0)
    del long["logp_ref_prefixes"]["2"]
    with pytest.raises(InputError, match="prompt a: logp_ref_prefixes of response 0 lack 2 tokens"):
        training_row(pair)
