"""Embed the prompts, cluster the training prompts with k-means, and assign the eval prompts to clusters."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from tyro.conf import arg

from _program import run
from prefloop.config.prompt_settings import KMeansConfig
from prefloop.core.costs import CostMeter
from prefloop.core.csv_files import write_frame
from prefloop.core.jsonl import read_rows
from prefloop.core.progress import Summary
from prefloop.data.clusters import assign, cluster, elbow, embed, inertias_by_k, plane, write_clusters
from prefloop.models.devices import default_device
from prefloop.models.loading import load_encoder
from prefloop.models.manifests import parameter_count


def main(
    *,
    model: Path,
    prompts: Path,
    eval_prompts: Annotated[Path, arg(name="eval")],
    clusters: Path,
    table: Path,
    eval_table: Path,
    cost: Path,
    settings: Annotated[KMeansConfig, arg(name="")],
    threads: int = 1,
) -> Summary:
    """Embed and cluster prompts.

    Args:
        model: Manifest of the embedding model: the base policy, or any encoder.
        prompts: Training prompts.
        eval_prompts: Eval prompts; centroids do not depend on them.
        clusters: Output path for clusters.pkl.
        table: Output path for clusters.csv: prompt_id, cluster, x, y.
        eval_table: Output path for the clusters of the eval prompts, as CSV: prompt_id, cluster.
        cost: Output path for the cost.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("cluster_prompts", parameter_count(model), default_device())
    rows, evaluated = (read_rows(path, ["prompt_id", "messages"]) for path in (prompts, eval_prompts))
    network, tokenizer = load_encoder(model, meter.device)
    embeddings, tokens = embed(network, tokenizer, texts_of(rows), settings.batch_size)
    others, more_tokens = embed(network, tokenizer, texts_of(evaluated), settings.batch_size)
    meter.forward(tokens + more_tokens)
    k, seed = settings.k, settings.seed
    inertias = inertias_by_k(embeddings, settings.k_max, seed) if k == "elbow" else {}
    labels, centroids, inertia = cluster(embeddings, elbow(inertias) if k == "elbow" else k, seed)
    ids = [row["prompt_id"] for row in rows]
    state = {"prompt_ids": ids, "labels": labels, "centroids": centroids, "k": len(centroids)}
    write_clusters(clusters, state | {"inertia": inertia, "inertias": inertias})
    x, y = plane(embeddings, seed).T
    write_frame(table, pd.DataFrame({"prompt_id": ids, "cluster": labels, "x": x, "y": y}))
    eval_ids = [row["prompt_id"] for row in evaluated]
    write_frame(eval_table, pd.DataFrame({"prompt_id": eval_ids, "cluster": assign(others, centroids)}))
    meter.write(cost)
    what = f"{len(rows):,} prompts, {len(centroids)} clusters"
    return Summary(what, meter.tokens_in, "token", f"inertia {inertia:.4g}", meter.seconds)


def texts_of(rows: list[dict]) -> list[str]:
    """The messages of each prompt, joined to one text."""
    return ["\n\n".join(message["content"] for message in row["messages"]) for row in rows]


run(main)
