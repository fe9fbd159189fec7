"""Every stage refuses sequences that are longer than the model's positions before it starts."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import ROOT, TINY, merge
from conversations import asks
from prefloop.config.model_limits import known_positions
from prefloop.config.validation import checked
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.models.positions import check_positions, check_vocabulary, max_positions, position_limit


def config(limit: int | None, **rope) -> SimpleNamespace:
    settings = SimpleNamespace(max_position_embeddings=limit, rope_parameters=rope)
    settings.get_text_config = lambda: settings
    return settings


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_limit_comes_from_the_config(manifests, architecture):
    assert max_positions(manifests[architecture]) == (512 if architecture == "llama" else 256)


@pytest.mark.parametrize(
    ("limit", "rope", "expected"),
    [
        (4096, {"rope_type": "default"}, 4096),
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),
        (32768, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (131072, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 131072),
        (None, {}, None),
        (-1, {}, None),
    ],
)
def test_scaled_rotary_positions_raise_the_limit(limit, rope, expected):
    assert position_limit(config(limit, **rope)) == expected


def test_sequence_of_exactly_the_limit_is_accepted(manifests):
    check_positions(manifests["gpt2"], 256)
    with pytest.raises(InputError, match="come to 257 tokens, and the model has 256 positions; lower max_new_tokens"):
        check_positions(manifests["gpt2"], 257)


@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_limit_is_known_without_transformers(model_folders, architecture):
    assert known_positions(str(model_folders[architecture])) == (512 if architecture == "llama" else 256)
    assert known_positions("owner/name") is None


@pytest.mark.parametrize("section", ["generation", "evaluation"])
def test_config_without_room_for_a_prompt_raises(model_folders, section):
    config = merge(TINY, {"policy": {"model": str(model_folders["gpt2"])}})
    checked(merge(config, {section: {"max_new_tokens": 255}}))
    message = (
        f"^config: {section}.max_new_tokens: 256, but policy.model has 256 positions for a prompt and its response"
    )
    with pytest.raises(InputError, match=message):
        checked(merge(config, {section: {"max_new_tokens": 256}}))


LONG = [5] * 200  # has a prompt of more than 100 tokens
ROW = {"prompt_id": "p", "messages": asks("a" * 100), "cluster": 0}
SIDES = {f"{key}_{side}": v for side in ("chosen", "rejected") for key, v in [("token_ids", LONG), ("logp_ref", -1.0)]}
FILES = {
    "prompts.jsonl": [ROW | {"chosen": "b" * 200, "rejected": "c"}],
    "generations.jsonl": [{"prompt_id": "p", "cluster": 0, "response_id": 0, "token_ids": LONG}],
    "pairs.jsonl": [ROW | SIDES | {"reward_chosen": 1.0, "reward_rejected": 0.0}],
}
TRAINING = "--output out/policy.pt --metrics out/t.jsonl --speed out/s.csv --cost out/cost.json --dtype float32"
COMMON = "--prompts prompts.jsonl --output out/rows.jsonl --cost out/cost.json"
STAGES = {
    "generate": f"{COMMON} --policy MODEL --seed 0 --stream s --max-new-tokens 200 --engine transformers",
    "logprobs": f"{COMMON} --generations generations.jsonl --policy MODEL --reference MODEL",
    "measure_kl": f"{COMMON} --policy MODEL --reference MODEL --seed 0 --stream s --max-new-tokens 200",
    "fine_tune": f"{TRAINING} --prompts prompts.jsonl --manifest out/model/manifest.json",
    "train": f"{TRAINING} --policy MODEL --pairs pairs.jsonl --seed 0 --round 1",
}


GRADIENTS = "--policy MODEL --pfp pfp.jsonl --output out/rows.jsonl --cost out/cost.json --seed 0 --lora.r 2"
UNKNOWN = {"logprobs": "generations.jsonl", "train": "pairs.jsonl", "measure_gradients": "pfp.jsonl"}


@pytest.mark.parametrize("token", [10**6, -1, 10**30])
@pytest.mark.parametrize("stage", UNKNOWN)
def test_unknown_token_raises_with_one_line(manifests, tmp_path, stage, token):
    """Otherwise torch would raise an index error or, on a GPU, end the process. Users can edit these files."""
    ids = {"token_ids": [5, token, 6]}
    response = {"response": "a", "sampler": "policy", "component": "policy", "finish_reason": "stop", "n_tokens": 3}
    response |= ids | {"cluster": 0, "prompt_id": "p", "logp": -1.0, "logp_ref": -1.0}
    responses = [response | {"response_id": i, "reward": float(i), "response": "a" * (i + 1)} for i in (0, 1)]
    write_rows(tmp_path / "prompts.jsonl", [ROW])
    write_rows(tmp_path / "generations.jsonl", responses)
    sides = SIDES | {"token_ids_chosen": [5], "token_ids_rejected": ids["token_ids"]}
    write_rows(tmp_path / "pairs.jsonl", [ROW | sides | {"reward_chosen": 1.0, "reward_rejected": 0.0}])
    write_rows(tmp_path / "pfp.jsonl", [ROW | {"best": 1, "worst": 0, "pfp": 0.0, "responses": responses}])
    flags = STAGES | {"measure_gradients": GRADIENTS}
    words = f"--model MODEL {flags[stage]}".replace("MODEL", str(manifests["llama"])).split()
    command = [sys.executable, str(ROOT / f"workflow/scripts/{stage}.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(rf"error: {UNKNOWN[stage]}.*: token_ids\w* has {token}, but the model of .* has tokens 0 to ", last)
    assert not (tmp_path / "out/rows.jsonl").exists()


def test_tokens_of_the_vocabulary_are_accepted(manifests, tmp_path):
    config = json.loads((manifests["llama"].parent / "config.json").read_text())
    rows = [{"token_ids": []}, {"token_ids": [0, config["vocab_size"] - 1]}]
    check_vocabulary(manifests["llama"], rows, ["token_ids", "token_ids_explored"], tmp_path)
    for value in ("x", [1, "2"], [config["vocab_size"]]):
        with pytest.raises(InputError, match=", line 1: token_ids_explored"):
            check_vocabulary(manifests["llama"], [{"token_ids_explored": value}], ["token_ids_explored"], tmp_path)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("architecture", ["gpt2", "qwen"])
def test_stage_refuses_too_long_sequences_with_one_line(manifests, tmp_path, stage, architecture):
    for name, rows in FILES.items():
        write_rows(tmp_path / name, rows)
    words = f"--model MODEL {STAGES[stage]}".replace("MODEL", str(manifests[architecture])).split()
    command = [sys.executable, str(ROOT / f"workflow/scripts/{stage}.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {manifests[architecture]}: the longest prompt and its response come to ")
    assert "the model has 256 positions" in last
    assert "Traceback" not in done.stderr
    assert not [path for path in Path(tmp_path, "out").rglob("*") if path.suffix in (".jsonl", ".pt")]
