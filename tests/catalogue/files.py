"""Files that the cases start from (three prompts with two responses each), and files that YAML cannot contain."""

import gzip
import hashlib
import io
import json
import pickle
import zipfile

import numpy as np


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


IDS = ["p1", "p2", "p3"]
PROMPTS = [
    {"prompt_id": name, "messages": [{"role": "user", "content": f"question {name}"}], "cluster": 0} for name in IDS
]
RESPONSES = [
    {"prompt_id": name, "cluster": 0, "response_id": number, "response": "a" * (number + 1), "n_tokens": 3}
    | {"token_ids": [5, 6 + number, 1], "sampler": "policy", "component": "policy", "finish_reason": "stop"}
    for name in IDS
    for number in (0, 1)
]
KEYS = ("prompt_id", "cluster", "response_id")
REWARDS = [{key: row[key] for key in KEYS} | {"reward": float(row["response_id"])} for row in RESPONSES]
LOGPS = [{key: row[key] for key in KEYS} | {"n_tokens": 3, "logp": -6.0, "logp_ref": -6.5} for row in RESPONSES]
JOINED = [
    prompt
    | {"best": 1, "worst": 0, "pfp": 0.0}
    | {"responses": [a | b | c for a, b, c in zip(RESPONSES, REWARDS, LOGPS, strict=True) if a["prompt_id"] == name]}
    for prompt in PROMPTS
    for name in [prompt["prompt_id"]]
]
PAIRS = [
    {"prompt_id": name, "messages": [{"role": "user", "content": "a"}], "cluster": 0}
    | {f"{key}_{side}": value for side in ("chosen", "rejected") for key, value in sides.items()}
    for name in IDS
    for sides in [{"token_ids": [5, 6, 1], "logp_ref": -6.0, "reward": 1.0}]
]
UNUSABLE = ([[1, None, 1.0]], [])  # one judgment, whose first order has no valid answer


def joined(prompt: dict, response: dict) -> str:
    """Return pfp.jsonl with these values set in every prompt and every response."""
    return lines(*(row | prompt | {"responses": [r | response for r in row["responses"]]} for row in JOINED))


def clusters(prompts: list[str]) -> bytes:
    """Return a clusters.pkl with two clusters."""
    state = {"prompt_ids": prompts, "labels": np.array([0, 0, 1]), "centroids": np.eye(2, dtype=np.float32), "k": 2}
    return pickle.dumps(state | {"inertia": 1.0, "inertias": {}}, protocol=4)


def arms(count: int) -> str:
    """Return an arms.json for `count` clusters."""
    one = {"pulls": 1, "count": 1.0, "reward_sum": 0.5, "log_weight": 0.0, "score": 1.0}
    return json.dumps({"arms": [one] * count})


def wheel() -> bytes:
    """Return a wheel that contains a broken GGUF file; its bytes are always the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {
            "tiny/broken.gguf": "GGUF",
            "tiny_model-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
            "tiny_model-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "tiny_model-1.0.dist-info/RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


class Poison:
    """An object whose unpickling calls `print`."""

    def __reduce__(self):
        return print, ("poison",)


FILES = {
    "prompts.jsonl": lines(*PROMPTS),
    "generations.jsonl": lines(*RESPONSES),
    "rewards.jsonl": lines(*REWARDS),
    "logprobs.jsonl": lines(*LOGPS),
    "pfp.jsonl": lines(*JOINED),
    "pairs.jsonl": lines(*PAIRS),
    "clusters.pkl": clusters(IDS),
    "rows.jsonl": lines(*({"prompt": f"question {number}"} for number in range(8))),
    "my_rewards.py": "def helpful(prompts, responses):\n    return [len(response) for response in responses]\n",
    "judge.txt": "{conversation} {response_a} {response_b}",
    "wheels/tiny_model-1.0-py3-none-any.whl": wheel(),
}
SHA256 = hashlib.sha256(wheel()).hexdigest()
MADE = {
    "poison": pickle.dumps(Poison()),
    "torn clusters": FILES["clusters.pkl"][:50],
    "clusters of other prompts": clusters(["q1", "q2", "q3"]),
    "five arms": arms(5),
    "torn generations": FILES["generations.jsonl"][:-40],
    "generations of other prompts": lines(*(row | {"prompt_id": f"other-{row['prompt_id']}"} for row in RESPONSES)),
    "generations of one prompt": lines(*RESPONSES[:2]),
    "two prompts": lines(*PROMPTS[:2]),
    "log-probabilities of two prompts": lines(*LOGPS[:4]),
    "log-probabilities as text": lines(*(row | {"logp": "low"} for row in LOGPS)),
    "rewards not by prompt": lines(*REWARDS[::2], *REWARDS[1::2]),
    "rewards as text": lines(*(row | {"reward": "high"} for row in REWARDS)),
    "equal rewards": joined({"best": None, "worst": None, "pfp": None}, {"reward": 1.0}),
    "identical responses": joined({"best": None, "worst": None, "pfp": None}, {"response": "a"}),
    "invalid judgments": lines(
        *(
            row
            | {"best": None, "worst": None, "pfp": None}
            | {
                "responses": [
                    r | {"reward": None, "beats": [], "judged": j}
                    for r, j in zip(row["responses"], UNUSABLE, strict=True)
                ]
            }
            for row in JOINED
        )
    ),
    "truncated responses": joined({}, {"finish_reason": "length"}),
    "torn gzip": gzip.compress(lines(*({"prompt": str(n)} for n in range(99))).encode(), mtime=0)[:-20],
    "latin-1": '{"prompt": "café"}\n'.encode("latin-1"),
    "latin-1 table": "prompt\ncafé\n".encode("latin-1"),
    "huge integer": b'{"prompt": ' + b"9" * 5000 + b"}\n",
    "deep nesting": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "no text": b"\xff\xfe",
}
# Default flags of each program. A case's own flags come later and override them.
FLAGS = {
    "fetch_model": "--manifest out/manifest.json",
    "import_policy": "--model models/llama/manifest.json --output out/policy.pt",
    "prepare_prompts": "--packaged none --model models/llama/manifest.json --train out/train.jsonl"
    " --eval out/eval.jsonl --provenance out/sources.json --chat out/chat.json",
    "cluster_prompts": "--model models/llama/manifest.json --prompts prompts.jsonl --eval prompts.jsonl --k 2"
    " --clusters out/clusters.pkl --table out/c.csv --eval-table out/h.csv --cost out/cost.json",
    "allocate": "--prompts prompts.jsonl --clusters clusters.pkl --output out/drawn.jsonl --seed 0 --round 1 --step 1"
    " --steps 1 --budget 2",
    "generate": "--model models/llama/manifest.json --policy models/llama/manifest.json --prompts prompts.jsonl"
    " --output out/generations.jsonl --cost out/cost.json --seed 0 --stream s --max-new-tokens 4 --dtype float32",
    "copy_step": "--prompts prompts.jsonl --shared-prompts shared.jsonl --shared-rows rewards.jsonl"
    " --shared-cost cost.json --output out/rewards.jsonl --cost out/cost.json",
    "reward": "--prompts prompts.jsonl --generations generations.jsonl --output out/rewards.jsonl --cost out/cost.json",
    "logprobs": "--model models/llama/manifest.json --policy models/llama/manifest.json --prompts prompts.jsonl"
    " --reference models/llama/manifest.json --generations generations.jsonl --output out/logprobs.jsonl"
    " --cost out/cost.json --dtype float32",
    "pfp": "--prompts prompts.jsonl --generations generations.jsonl --rewards rewards.jsonl --logprobs logprobs.jsonl"
    " --output out/pfp.jsonl",
    "update_arms": "--clusters clusters.pkl --pfp pfp.jsonl --output out/arms.json --seed 0 --round 1 --step 1",
    "select_pairs": "--pfp pfp.jsonl --output out/pairs.jsonl --seed 0 --round 1",
    "mix_pairs": "--model models/llama/manifest.json --policy models/llama/manifest.json --pairs pairs.jsonl --seed 0"
    " --reference models/llama/manifest.json --round 2 --output out/mixed_pairs.jsonl --cost out/cost.json",
    "train": "--model models/llama/manifest.json --policy models/llama/manifest.json --pairs pairs.jsonl"
    " --output out/policy.pt --metrics out/training.jsonl --speed out/speed.csv --cost out/cost.json --seed 0"
    " --round 1 --dtype float32",
    "compare_samples": "--prompts prompts.jsonl --samples generations.jsonl --opponent generations.jsonl"
    " --output out/judgments.jsonl --cost out/cost.json --evaluator.function my_rewards:helpful"
    " --feedback.function my_rewards:helpful",
    "evaluate_samples": "--name polite --prompts prompts.jsonl --samples generations.jsonl"
    " --opponent generations.jsonl --output out/judgments.jsonl --cost out/cost.json"
    " --evaluator.function my_rewards:helpful",
    "measure_perplexity": "--model models/llama/manifest.json --policy models/llama/manifest.json --text text.jsonl"
    " --max-tokens 64 --output out/perplexity.jsonl --cost out/cost.json --dtype float32",
    "compute_power": "--pilot pilot.csv",
    "simulate_tabular": "--output out/tabular.csv --cost out/cost.json --samplers unif --seeds 1 --empirical.steps 2",
    "figures/plot_tabular": "",
}
