"""The browse page's table of clusters in every run, and maps of their prompts."""

import math
import statistics

from prefloop.browse.columns import Column, Draw, Rewards, Table, mean, reward_key
from prefloop.browse.experiment_files import Files
from prefloop.core.csv_files import csv_rows
from prefloop.core.files import read_json
from prefloop.core.jsonl import iterate_rows
from prefloop.feedback.judgments import as_text

EXAMPLES = 5  # number of prompts shown per cluster, nearest to its center on the map
POINTS = 2000  # per map


def cluster_columns(steps: tuple[str, ...]) -> tuple[Column, ...]:
    return (
        Column("clusters", "clusters of", "choice", help="a method with its own clusters, or all others"),
        Column("cluster", "cluster", "choice"),
        Column("method", "method", "choice"),
        Column("seed", "seed", "choice"),
        Column("size", "prompts", "number", digits=0, help="training prompts in the cluster"),
        Column("pulls", "pulls", "number", digits=0, help="prompts annotated"),
        Column("drawn", "pulls by step", "series", digits=0, ticks=steps),
        Column("reward", "reward", "number", help="mean reward of all annotated responses, by the feedback"),
        Column("rewards", "reward by step", "series", ticks=steps),
        Column("mean", "arm's mean", "number", help="mean normalized metric of its prompts (arms.json)"),
        Column("means", "arm's mean by step", "series", shown=False, ticks=steps),
        Column("score", "score", "number", shown=False, help="score by which the bandit would draw next (arms.json)"),
        Column("examples", "example prompts", "texts", help="the prompts nearest to the cluster's center on the map"),
    )


def clusters_and_maps(files: Files, rewards: Rewards) -> tuple[Table, list[dict]]:
    """Return a table of every arm in every run, and a map of each set of clusters.

    A map is {clusters, total, points}. A point is (x, y, cluster, text of the prompt).
    """
    experiment = files.experiment
    steps = [(r, s) for r in range(1, experiment.rounds + 1) for s in range(1, experiment.steps + 1)]
    pulls, learned = pulls_and_arms(files)
    rows, maps = [], []
    for path in filter(files.has, dict.fromkeys(files.clusters)):
        name = "all" if path.parent == experiment.root else path.parent.name
        prompts = list(csv_rows(path))
        nearest, points = nearest_to_centers(prompts), Draw(POINTS, "points")
        for row in prompts:
            points.add(row)
        texts = texts_of(files, {row["prompt_id"] for group in (points.rows, *nearest.values()) for row in group})
        shown = [(float(p["x"]), float(p["y"]), int(p["cluster"]), texts.get(p["prompt_id"])) for p in points.rows]
        maps.append({"clusters": name, "total": points.total, "points": shown})
        for cluster, examples in sorted(nearest.items()):
            keys = {"clusters": name, "cluster": cluster}
            keys["size"] = sum(int(row["cluster"]) == cluster for row in prompts)
            keys["examples"] = [texts[row["prompt_id"]] for row in examples if row["prompt_id"] in texts]
            for method in [m for m, own in zip(experiment.methods, files.clusters, strict=True) if own == path]:
                for seed in experiment.seeds:
                    step_keys = [(method, seed, cluster, r, s) for r, s in steps]
                    rows.append(keys | {"method": method, "seed": seed} | history(step_keys, pulls, learned, rewards))
    note = "The clusters of training prompts, which are the bandit's arms, with their rewards in every run."
    columns = cluster_columns(tuple(f"round {r}, step {s}" for r, s in steps))
    return Table("clusters", "Clusters", note, columns, rows, len(rows)), maps


def history(step_keys: list[tuple], pulls: dict[tuple, int], learned: dict[tuple, dict], rewards: Rewards) -> dict:
    """Return the pulls, rewards and means of an arm in a run. `step_keys` are the keys of its steps."""
    arms = [learned.get(key, {}) for key in step_keys]
    end: dict = next((arm for arm in reversed(arms) if arm), {})
    drawn = [pulls.get(key, 0) for key in step_keys]
    return {
        "pulls": sum(drawn),
        "drawn": drawn,
        "reward": mean([reward for key in step_keys for reward in rewards.get(key, [])]),
        "rewards": [mean(rewards.get(key, [])) for key in step_keys],
        "mean": end.get("mean"),
        "means": [arm.get("mean") for arm in arms],
        "score": end.get("score"),
    }


def texts_of(files: Files, wanted: set[str]) -> dict[str, str]:
    """Return the texts of these training prompts by prompt_id."""
    path = files.experiment.root / "prompts/train.jsonl"
    rows = iterate_rows(path, ["prompt_id", "messages"]) if files.has(path) else ()
    return {row["prompt_id"]: as_text(row["messages"]) for row in rows if row["prompt_id"] in wanted}


def pulls_and_arms(files: Files) -> tuple[dict[tuple, int], dict[tuple, dict]]:
    """Return the number of drawn prompts and the arm in arms.json, both by (method, seed, cluster, round, step)."""
    pulls: dict[tuple, int] = {}
    learned: dict[tuple, dict] = {}
    for keys, folder in files.experiment.step_folders():
        if files.has(folder / "prompts.jsonl"):
            for row in iterate_rows(folder / "prompts.jsonl", ["prompt_id", "cluster"]):
                key = reward_key(keys, row["cluster"])
                pulls[key] = pulls.get(key, 0) + 1
        if files.arms and files.has(folder / "arms.json"):
            learned |= {reward_key(keys, arm["cluster"]): arm for arm in read_json(folder / "arms.json")["arms"]}
    return pulls, learned


def nearest_to_centers(prompts: list[dict]) -> dict[int, list[dict]]:
    """Return for each cluster the rows of clusters.csv nearest to its center on the map."""
    groups: dict[int, list[dict]] = {}
    for row in prompts:
        groups.setdefault(int(row["cluster"]), []).append(row)
    nearest = {}
    for cluster, rows in groups.items():
        x, y = (statistics.fmean(float(row[axis]) for row in rows) for axis in "xy")
        distance = [math.hypot(float(row["x"]) - x, float(row["y"]) - y) for row in rows]
        nearest[cluster] = [rows[i] for i in sorted(range(len(rows)), key=distance.__getitem__)[:EXAMPLES]]
    return nearest
