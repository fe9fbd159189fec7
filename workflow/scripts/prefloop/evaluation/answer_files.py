"""Samples in the answer formats of other benchmarks, so that their judges can compare policies."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from prefloop.feedback.judgments import as_text


def first_samples(samples: Sequence[dict]) -> list[dict]:
    """The first sample of each prompt, because these benchmarks have one answer per instruction."""
    firsts: dict[str, dict] = {}
    for row in samples:
        firsts.setdefault(row["prompt_id"], row)
    return list(firsts.values())


def alpaca_eval_answers(prompts: Mapping[str, dict], samples: Sequence[dict], generator: str) -> str:
    """The file that `alpaca_eval --model_outputs` reads: a list of instruction, output and generator.

    AlpacaEval (arXiv 2404.04475) joins the outputs of two models by the text of the instruction. A row has the field
    `dataset` if prompts.keep keeps the source column of that name.

    Args:
        prompts: Rows of prompts/eval.jsonl by prompt_id.
        samples: Rows of samples.jsonl.
        generator: Name of the policy.
    """
    rows = []
    for sample in first_samples(samples):
        prompt = prompts[sample["prompt_id"]]
        kept = {name: value for name, value in meta_of(prompt).items() if name == "dataset"}
        texts = {"instruction": as_text(prompt["messages"]), "output": sample["response"]}
        rows.append(kept | texts | {"generator": generator})
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


def arena_hard_answers(prompts: Mapping[str, dict], samples: Sequence[dict], generator: str) -> str:
    """The file that Arena-Hard-Auto 2.0 (arXiv 2406.11939) reads from `model_answer`: one answer per line.

    `uid` is the source column of that name if prompts.keep keeps it, and the prompt_id otherwise. `tstamp` is 0 and
    `ans_id` is a hash, so two runs write the same file. `token_len` counts tokens of the policy's tokenizer.

    The arguments are those of `alpaca_eval_answers`.
    """
    lines = []
    for sample in first_samples(samples):
        prompt = prompts[sample["prompt_id"]]
        uid, answer = meta_of(prompt).get("uid", sample["prompt_id"]), {"answer": sample["response"]}
        row = {
            "uid": uid,
            "ans_id": sha256(f"{generator}\n{uid}".encode()).hexdigest()[:22],
            "model": generator,
            "messages": [*prompt["messages"], {"role": "assistant", "content": answer}],
            "tstamp": 0.0,
            "metadata": {"token_len": sample["n_tokens"]},
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def meta_of(prompt: dict) -> dict:
    """The source columns that the row of a prompt keeps; empty if there are none."""
    meta = prompt.get("meta")
    return meta if isinstance(meta, dict) else {}


# By name: (prompts, samples, generator) -> text of the file.
ANSWER_FORMATS: dict[str, Callable[[Mapping[str, dict], Sequence[dict], str], str]] = {
    "alpaca_eval": alpaca_eval_answers,
    "arena_hard": arena_hard_answers,
}
