"""pairs and arms read their files row by row, and find what reading them whole finds."""

import json
import runpy
import sys
import tracemalloc
from itertools import permutations

import numpy as np
import pytest

from conftest import ROOT
from prefloop.pairs import BATCH, in_batches, iterate_responses, read_responses
from prefloop.rows import InputError, iterate_placed, read_rows, row_at, write_rows

STEPS, PROMPTS, RESPONSES = 2, 3 * BATCH + 1, 3


def made_up(rng: np.random.Generator, step: int, prompts: int, tokens: int = 5) -> list[dict]:
    """Responses with everything that the three files say of them; rewards are whole numbers, so that some are tied."""
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


FIELDS = {
    "rewards": ["reward"],
    "pfp": ["n_tokens", "logp", "logp_ref"],
    "generations": ["response", "token_ids", "sampler", "component"],
}


def write_step(folder, rows: list[dict], orders: dict | None = None) -> None:
    """The files of one step; `orders` are the rows' places in a file, where it has an order of its own."""
    for name, fields in FIELDS.items():
        names = ["prompt_id", "cluster", "response_id", *fields]
        order = (orders or {}).get(name, range(len(rows)))
        write_rows(folder / f"{name}.jsonl", ({field: rows[i][field] for field in names} for i in order))
    ids = dict.fromkeys(row["prompt_id"] for row in rows)
    messages = [[{"role": "user", "content": f"{prompt_id}?"}] for prompt_id in ids]
    write_rows(folder / "prompts.jsonl", ({"prompt_id": i, "messages": m} for i, m in zip(ids, messages, strict=True)))


def run_pairs(monkeypatch, folders: list, output, *flags: str) -> list[dict]:
    files = [
        word
        for name in ("prompts", *FIELDS)
        for word in (f"--{name}", *(str(folder / f"{name}.jsonl") for folder in folders))
    ]
    arguments = [*files, "--output", str(output), "--seed", "0", "--round", "1", *flags]
    monkeypatch.setattr(sys, "argv", ["pairs", *arguments])
    runpy.run_path(str(ROOT / "workflow/scripts/pairs.py"), run_name="pairs")
    return read_rows(output)


@pytest.fixture
def steps(tmp_path):
    rng = np.random.default_rng(0)
    rows = [made_up(rng, step, PROMPTS) for step in range(STEPS)]
    folders = [tmp_path / f"step-{step}" for step in range(STEPS)]
    for folder, step in zip(folders, rows, strict=True):
        write_step(folder, step)
    return folders, rows


def in_memory(rows: list[list[dict]], least_gap: int) -> list[dict]:
    """Rows of pairs.jsonl but for their order, from what the files were written from: every two of a prompt, tried."""
    found = []
    everything = [row for step in rows for row in step]
    for w, l in permutations(everything, 2):  # noqa: E741
        gap = w["reward"] - l["reward"]
        if w["prompt_id"] != l["prompt_id"] or gap <= 0 or gap < least_gap:
            continue
        row = {name: w[name] for name in ("prompt_id", "cluster")}
        row["messages"] = [{"role": "user", "content": f"{w['prompt_id']}?"}]
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


def in_words(row: dict) -> str:
    return json.dumps(row, sort_keys=True)


@pytest.mark.parametrize("least_gap", [1, 2])
def test_pairs_are_those_of_a_plain_computation_in_memory(monkeypatch, tmp_path, steps, least_gap):
    """Over several steps and batches, with ties, texts beyond ASCII, and responses of the reference in some prompts."""
    folders, rows = steps
    expected = in_memory(rows, least_gap)
    got = run_pairs(monkeypatch, folders, tmp_path / "pairs.jsonl", "--min-gap", str(least_gap))
    assert [row["score"] for row in got] == sorted((row["score"] for row in expected), reverse=True)
    assert sorted(map(in_words, got)) == sorted(map(in_words, expected))
    few = run_pairs(monkeypatch, folders, tmp_path / "few.jsonl", "--min-gap", str(least_gap), "--top-n", "7")
    assert few == got[:7]


def test_files_may_have_an_order_of_their_own(monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    rows = made_up(rng, 0, PROMPTS)
    for name in ("as-is", "shuffled"):
        (tmp_path / name).mkdir()
    write_step(tmp_path / "as-is", rows)
    write_step(tmp_path / "shuffled", rows, {name: rng.permutation(len(rows)) for name in ("pfp", "generations")})
    one, other = (run_pairs(monkeypatch, [tmp_path / n], tmp_path / f"{n}.jsonl") for n in ("as-is", "shuffled"))
    assert one == other


def test_rewards_of_a_prompt_that_lie_apart_are_refused(tmp_path):
    rows = made_up(np.random.default_rng(0), 0, 2)
    write_step(tmp_path, rows, {"rewards": [0, 3, 1, 2, 4, 5]})
    with pytest.raises(InputError, match="rewards.jsonl: the rows of prompt step 0, prompt 0 é do not stand together"):
        read_responses(tmp_path / "rewards.jsonl", tmp_path / "pfp.jsonl")


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """What is held while reading is a batch; four times the rows, and the peak stays within a fifth."""
    peaks = []
    for prompts in (10 * BATCH, 40 * BATCH):
        write_step(tmp_path, made_up(np.random.default_rng(0), 0, prompts, tokens=200))
        tracemalloc.start()
        for groups in in_batches(iterate_responses(*(tmp_path / f"{name}.jsonl" for name in FIELDS))):
            assert len(groups) <= BATCH
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_row_is_found_again_at_its_place(tmp_path):
    rows = [{"text": "é" * i + "\u2028\n"} for i in range(5)]
    write_rows(tmp_path / "rows.jsonl", rows)
    placed = list(iterate_placed(tmp_path / "rows.jsonl", ["text"]))
    with (tmp_path / "rows.jsonl").open("rb") as file:
        assert [row_at(file, place) for place, _ in reversed(placed)] == rows[::-1]
