"""Embed the training prompts and cluster them with k-means."""

from pathlib import Path

import pandas as pd
import torch

from _program import run
from prefloop.chat import load_tokenizer
from prefloop.clusters import cluster, elbow, embed, plane, write_clusters
from prefloop.costs import CostMeter
from prefloop.models import default_device, parameter_count
from prefloop.rows import read_json, read_rows, whole


def main(
    *,
    model: Path,
    prompts: Path,
    clusters: Path,
    table: Path,
    cost: Path,
    k: str,
    k_max: int = 30,
    seed: int = 0,
    batch_size: int = 32,
    threads: int = 1,
) -> None:
    """Embed and cluster prompts.

    Args:
        model: Manifest of the embedding model: the base policy, or any encoder.
        prompts: Training prompts.
        clusters: Where clusters.pkl goes.
        table: Where clusters.csv goes: prompt_id, cluster, x, y.
        cost: Where the cost goes.
        k: Number of clusters, or elbow.
        k_max: Largest k that elbow tries.
        seed: Of k-means.
        batch_size: Prompts embedded at once.
        threads: CPU threads.
    """
    from transformers import AutoModel

    torch.set_num_threads(threads)
    meter = CostMeter("cluster", parameter_count(model), default_device())
    remote = read_json(model).get("trust_remote_code", False)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    tokenizer = load_tokenizer(model.parent, remote)
    network = AutoModel.from_pretrained(model.parent, dtype=torch.float32, trust_remote_code=remote)
    texts = ["\n\n".join(message["content"] for message in row["messages"]) for row in rows]
    embeddings, tokens = embed(network.to(default_device()).eval(), tokenizer, texts, batch_size)
    meter.forward(tokens)
    inertias = {}
    if k == "elbow":
        candidates = range(1, min(k_max, len(rows)) + 1)
        inertias = {candidate: cluster(embeddings, candidate, seed)[2] for candidate in candidates}
    labels, centroids, inertia = cluster(embeddings, elbow(inertias) if k == "elbow" else int(k), seed)
    ids = [row["prompt_id"] for row in rows]
    write_clusters(
        clusters,
        {
            "prompt_ids": ids,
            "labels": labels,
            "centroids": centroids,
            "k": len(centroids),
            "inertia": inertia,
            "inertias": inertias,
        },
    )
    x, y = plane(embeddings, seed).T
    with whole(table) as partial:
        frame = pd.DataFrame({"prompt_id": ids, "cluster": labels, "x": x, "y": y})
        frame.to_csv(partial, index=False, float_format="%.6g")
    print(f"cluster: {len(rows)} prompts in {len(centroids)} clusters, inertia {inertia:.4g}")
    meter.write(cost)


run(main)
