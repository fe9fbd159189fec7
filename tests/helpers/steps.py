"""Write the files of a made-up step from one row per response."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from prefloop.core.jsonl import by_prompt, write_rows
from prefloop.data.pfp_rows import join_step

FIELDS = {
    "generations": ["response", "token_ids", "sampler", "component", "finish_reason"],
    "rewards": ["reward", "beats", "judged"],
    "logprobs": ["n_tokens", "logp", "logp_ref"],
}
# Flags for prepare_prompts that put its outputs into the working directory.
PROMPT_OUTPUTS = ["--train", "train.jsonl", "--eval", "eval.jsonl"]
PROMPT_OUTPUTS += ["--provenance", "sources.json", "--chat", "chat.json"]
USUAL = {"cluster": 0, "token_ids": [], "sampler": "policy", "component": "policy", "logp_ref": -1.0}


def write_step(
    folder: Path,
    responses: Iterable[dict],
    prompts: Sequence[dict] | None = None,
    orders: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a step's prompts, generations, rewards and log-probabilities, and pfp.jsonl unless `orders` are given.

    Args:
        folder: Output folder.
        responses: Rows with prompt_id, response_id, reward, n_tokens, logp, and values that differ from `USUAL`.
        prompts: Rows with prompt_id and messages; made by `prompt_of` if None.
        orders: Row order per file, for files whose order differs from that of `responses`.

    Returns:
        The path of pfp.jsonl.
    """
    rows = [USUAL | {"response": f"response {row['response_id']}"} | row for row in responses]
    groups = by_prompt(rows)
    paths = [folder / f"{name}.jsonl" for name in ("prompts", *FIELDS)]
    prompts = [prompt_of(prompt_id) for prompt_id in groups] if prompts is None else prompts
    write_rows(paths[0], (prompt | {"cluster": groups[prompt["prompt_id"]][0]["cluster"]} for prompt in prompts))
    for path, (name, fields) in zip(paths[1:], FIELDS.items(), strict=True):
        names = ["prompt_id", "cluster", "response_id", *fields]
        order = (orders or {}).get(name, range(len(rows)))
        write_rows(path, ({field: rows[i][field] for field in names if field in rows[i]} for i in order))
    if orders is None:
        write_rows(folder / "pfp.jsonl", join_step(*paths))
    return folder / "pfp.jsonl"


def prompt_of(prompt_id: str) -> dict:
    """Return a prompt with the text `<id>?`."""
    return {"prompt_id": prompt_id, "messages": [{"role": "user", "content": f"{prompt_id}?"}]}
