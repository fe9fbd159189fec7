"""Embed the prompts, cluster those to train on with k-means, and say which cluster each held-out one is nearest to."""

from pathlib import Path

import pandas as pd
import torch

from _program import run
from prefloop.chat import load_tokenizer
from prefloop.clusters import assign, cluster, elbow, embed, plane, write_clusters
from prefloop.costs import CostMeter
from prefloop.manifests import parameter_count, trusted
from prefloop.models import default_device
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, read_rows, whole
from prefloop.startup import import_transformers


def main(
    *,
    model: Path,
    prompts: Path,
    held_out: Path,
    clusters: Path,
    table: Path,
    held_out_table: Path,
    cost: Path,
    k: str,
    k_max: int = 30,
    seed: int = 0,
    batch_size: int = 32,
    threads: int = 1,
) -> Summary:
    """Embed and cluster prompts.

    Args:
        model: Manifest of the embedding model: the base policy, or any encoder.
        prompts: Training prompts.
        held_out: Prompts of the evaluation, which no centroid depends on.
        clusters: Where clusters.pkl goes.
        table: Where clusters.csv goes: prompt_id, cluster, x, y.
        held_out_table: Where the clusters of the held-out prompts go, as CSV: prompt_id, cluster.
        cost: Where the cost goes.
        k: Number of clusters, or elbow.
        k_max: Largest k that elbow tries.
        seed: Of k-means.
        batch_size: Prompts embedded at once.
        threads: CPU threads.
    """
    if k != "elbow" and not (k.isdecimal() and int(k)):
        raise InputError(f"clusters.k: {k!r}, expected a whole number of 1 or more, or elbow")
    torch.set_num_threads(threads)
    meter = CostMeter("cluster", parameter_count(model), default_device())
    rows, evaluated = (read_rows(path, ["prompt_id", "messages"]) for path in (prompts, held_out))
    tokenizer = load_tokenizer(model.parent, trusted(model))
    network = import_transformers().AutoModel.from_pretrained(
        model.parent, dtype=torch.float32, trust_remote_code=trusted(model)
    )
    network.to(default_device()).eval()
    embeddings, tokens = embed(network, tokenizer, texts_of(rows), batch_size)
    others, more_tokens = embed(network, tokenizer, texts_of(evaluated), batch_size)
    meter.forward(tokens + more_tokens)
    inertias = {}
    if k == "elbow":
        candidates = range(1, min(k_max, len(rows)) + 1)
        with Progress("cluster (elbow)", len(candidates), "clustering") as progress:
            for candidate in candidates:
                inertias[candidate] = cluster(embeddings, candidate, seed)[2]
                progress.update()
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
    with whole(held_out_table) as partial:
        frame = pd.DataFrame({"prompt_id": [row["prompt_id"] for row in evaluated]})
        frame.assign(cluster=assign(others, centroids)).to_csv(partial, index=False)
    meter.write(cost)
    what, found = f"{len(rows):,} prompts, {len(centroids)} clusters", f"inertia {inertia:.4g}"
    return Summary(what, meter.tokens_in, "token", found, meter.seconds)


def texts_of(rows: list[dict]) -> list[str]:
    return ["\n\n".join(message["content"] for message in row["messages"]) for row in rows]


run(main)
