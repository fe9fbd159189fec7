"""A small finished experiment for tests of the browse page, in the formats of docs/files.md and without a model."""

import json
from pathlib import Path

HOSTILE = 'a</script><img src=x onerror="window.hostile=1"><script>window.hostile=2</script><!--<b>bold</b> & "quoted"'
WORDS = ["maple", "river", "quiet", "copper", "lantern", "orchard", "signal", "marble"]
METHODS, ROUNDS, STEPS, CLUSTERS, N = ("dota", "uniform"), 2, 2, 3, 3
TRAIN = 24  # prompts
HELD_OUT = 6


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prompt(i: int, kind: str = "train") -> dict:
    text = f"Prompt {kind} {i}: say something about a {WORDS[i % 8]}."
    return {"prompt_id": f"{kind}-{i}", "messages": [{"role": "user", "content": text}]}


def text_of(method: str, number: int, step: int, i: int, j: int) -> str:
    if (method, number, step, i, j) == ("dota", 1, 1, 0, 0):
        return HOSTILE
    return f"{method} answers {j} in round {number}, step {step}: the {WORDS[(i + j) % 8]} is {'very ' * j}fine."


def write_experiment(root: Path) -> Path:
    """Write the experiment to `root` and return `root`.

    It has two methods, one seed, two rounds of two steps, three clusters and three responses per prompt. Response j of
    prompt i has reward i + j/2, logp −10·(j + 1) and j + 4 tokens. The first response to prompt 0 in dota's first round
    is hostile. Each round trains on the best and worst response of each prompt. Responses to eval prompts have reward i
    before training and i + 1.5·r after round r, minus 5 for prompt 0.
    """
    train = [prompt(i) for i in range(TRAIN)]
    write_lines(root / "prompts/train.jsonl", train)
    write_lines(root / "prompts/eval.jsonl", [prompt(i, "held") | {"chosen": "given"} for i in range(HELD_OUT)])
    points = [f"train-{i},{i % CLUSTERS},{i % CLUSTERS + 0.01 * i},{-(i % CLUSTERS) + 0.02 * i}" for i in range(TRAIN)]
    (root / "clusters.csv").write_text("\n".join(["prompt_id,cluster,x,y", *points]) + "\n")
    held = [f"held-{i},{i % CLUSTERS}" for i in range(HELD_OUT)]
    (root / "clusters_eval.csv").write_text("\n".join(["prompt_id,cluster", *held]) + "\n")
    for method in METHODS:
        pulls = [0] * CLUSTERS
        for number in range(1, ROUNDS + 1):
            folder = root / method / f"seed-0/round-{number}"
            trained = []
            for step in range(1, STEPS + 1):
                drawn = [4 * ((number - 1) * STEPS + step - 1) + k for k in range(4)]
                write_step(folder / f"step-{step}", method, number, step, drawn, pulls)
                trained += [pair(method, number, step, i) for i in drawn]
            write_lines(folder / "pairs.jsonl", trained)
            write_comparison(root, f"{method}/seed-0/round-{number}", number, f"{method} after round {number}")
    write_comparison(root, "initial", 0, "the initial policy")
    return root


def write_step(folder: Path, method: str, number: int, step: int, drawn: list[int], pulls: list[int]) -> None:
    write_lines(folder / "prompts.jsonl", [prompt(i) | {"cluster": i % CLUSTERS} for i in drawn])
    responses = {
        (i, j): {
            "response_id": j,
            "reward": i + j / 2,
            "n_tokens": j + 4,
            "logp": -10.0 * (j + 1),
            "logp_ref": -9.0 * (j + 1),
            "response": text_of(method, number, step, i, j),
            "token_ids": list(range(j + 4)),
            "sampler": "on_policy",
            "component": "policy",
            "finish_reason": "length" if j == 2 else "stop",
        }
        for i in drawn
        for j in range(N)
    }
    best_worst = {"best": N - 1, "worst": 0, "pfp": 20.0}
    rows = [
        prompt(i) | {"cluster": i % CLUSTERS} | best_worst | {"responses": [responses[i, j] for j in range(N)]}
        for i in drawn
    ]
    write_lines(folder / "pfp.jsonl", rows)
    for i in drawn:
        pulls[i % CLUSTERS] += 1
    arms = [
        {"cluster": c, "pulls": p, "count": p, "reward_sum": p / 2, "log_weight": 0.0, "score": 1.0 + c, "mean": 0.5}
        for c, p in enumerate(pulls)
    ]
    (folder / "arms.json").write_text(json.dumps({"round": number, "step": step, "arms": arms}))


def pair(method: str, number: int, step: int, i: int) -> dict:
    row = prompt(i) | {"cluster": i % CLUSTERS, "metric": "pfp", "score": 20.0}
    for side, j in (("chosen", N - 1), ("rejected", 0)):
        row |= {
            side: text_of(method, number, step, i, j),
            f"response_id_{side}": j,
            f"component_{side}": "policy",
            f"token_ids_{side}": list(range(j + 4)),
            f"reward_{side}": i + j / 2,
            f"n_{side}": j + 4,
            f"logp_{side}": -10.0 * (j + 1),
            f"logp_ref_{side}": -9.0 * (j + 1),
        }
    return row


def write_comparison(root: Path, policy: str, number: int, answer: str) -> None:
    folder = root / policy / "evaluation/temperature-0.7"
    rewards = {i: i + 1.5 * number - (5 if number and i == 0 else 0) for i in range(HELD_OUT)}
    samples = [
        {"prompt_id": f"held-{i}", "response_id": 0, "response": f"{answer}, prompt {i}", "n_tokens": 5}
        for i in rewards
    ]
    write_lines(folder / "samples.jsonl", samples)
    judgments = [
        {
            "prompt_id": f"held-{i}",
            "outcome": "tie" if reward == i else "win" if reward > i else "loss",
            "reward": reward,
            "reward_opponent": float(i),
            "feedback": reward / 10,
            "feedback_opponent": i / 10,
            "n_tokens": 5,
            "n_tokens_opponent": 5,
        }
        for i, reward in rewards.items()
    ]
    write_lines(folder / "against-initial.jsonl", judgments)
