"""Memory and time of the stages without a model on large inputs, and time to plan a large experiment.

    OMP_NUM_THREADS=2 python benchmarks/scale.py [--only select_pairs] [--folder /a/large/disk]

Rows are made up, but have a realistic size: responses have 64 to 192 token ids and three quarters as many words. Every
stage is the pipeline's program in a separate process. Seconds include its start-up, and memory is its largest resident
set. The output is a Markdown table with medians of three runs (minimum–maximum), or a single run if it takes longer
than
`LONG`. The files take 6 GB in a temporary folder, which is created in `--folder`.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "workflow/scripts"
sys.path.insert(0, str(SCRIPTS))

from prefloop.core.jsonl import write_rows  # noqa: E402
from prefloop.data.arms_file import write_arms  # noqa: E402
from prefloop.data.clusters import write_clusters  # noqa: E402
from prefloop.data.pfp_rows import join_step  # noqa: E402
from prefloop.methods.bandit import Arms, update_arms  # noqa: E402

PROMPTS, RESPONSES, CLUSTERS, WIDTH = 250_000, 4, 1_000, 384
POOL = 200_000  # prompts to draw from, and embeddings
REPEATS, LONG = 3, 30  # seconds; stages that take longer run once
METHODS = ["dota", "dota_as_released", "uniform", "quad", "online_dpo", "xpo", "gshf", "mixp"]
METHODS += ["less_is_more", "difficulty"]
CLUSTER = f"""
import sys, numpy as np
sys.path.insert(0, {str(SCRIPTS)!r})
from prefloop.data.clusters import cluster, plane
embeddings = np.load(sys.argv[1])
labels, centroids, inertia = cluster(embeddings, {CLUSTERS}, seed=0)
plane(embeddings, seed=0)
print(f"inertia {{inertia:.0f}}, {{len(np.unique(labels))}} clusters")
"""
PEER = f"""
import sys, numpy as np
from sklearn.cluster import KMeans
fitted = KMeans({CLUSTERS}, random_state=0, n_init=1, max_iter=20).fit(np.load(sys.argv[1]))
print(f"inertia {{fitted.inertia_:.0f}}")
"""


def texts(rng: np.random.Generator, count: int) -> list[tuple[list[int], str]]:
    """(token ids, text) of `count` made-up responses."""
    words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9))) for _ in range(5000)]
    sizes = rng.integers(64, 193, count)
    return [
        (rng.integers(0, 49152, n).tolist(), " ".join(words[i] for i in rng.integers(0, 5000, 3 * n // 4)))
        for n in sizes
    ]


def prompt_rows(pool: list, count: int) -> Iterator[dict]:
    for i in range(count):
        content = f"{i}: {pool[i % len(pool)][1][:300]}"
        yield {
            "prompt_id": f"p{i:012x}",
            "messages": [{"role": "user", "content": content}],
            "cluster": i % CLUSTERS,
        }


def response_rows(pool: list, rng: np.random.Generator, prompts: int, responses: int) -> Iterator[tuple[dict, ...]]:
    """Rows of generations, rewards and log-probabilities for every response to every prompt."""
    for i in range(prompts):
        drawn = rng.integers(len(pool), size=responses)
        rewards, logps = rng.normal(size=responses).tolist(), (-rng.gamma(20, 10, responses)).tolist()
        for response_id, (choice, reward, logp) in enumerate(zip(drawn, rewards, logps, strict=True)):
            ids, text = pool[choice]
            key = {"prompt_id": f"p{i:012x}", "cluster": i % CLUSTERS, "response_id": response_id}
            response = {"response": text, "token_ids": ids, "sampler": "policy", "component": "policy"}
            yield (
                key | response | {"finish_reason": "stop", "n_tokens": len(ids)},
                key | {"reward": reward},
                key | {"n_tokens": len(ids), "logp": logp, "logp_ref": logp + 1},
            )


def write_step(folder: Path, rng: np.random.Generator, prompts: int, responses: int) -> None:
    """The files of a step: inputs and output of rule pfp."""
    folder.mkdir()
    pool = texts(rng, 2000)
    paths = [folder / f"{name}.jsonl" for name in ("prompts", "generations", "rewards", "logprobs")]
    write_rows(paths[0], prompt_rows(pool, prompts))
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w")) for path in paths[1:]]
        for rows in response_rows(pool, rng, prompts, responses):
            for file, row in zip(files, rows, strict=True):
                file.write(json.dumps(row) + "\n")
    write_rows(folder / "pfp.jsonl", join_step(*paths))


def write_round(folder: Path, rng: np.random.Generator) -> None:
    """A step with a million responses."""
    write_step(folder / "round", rng, PROMPTS, RESPONSES)


def write_steps(folder: Path, rng: np.random.Generator) -> None:
    """A step of usual size, and a step that annotated the whole pool."""
    write_step(folder / "small", rng, 10_000, 2)
    write_step(folder / "large", rng, POOL, 2)


def write_pool(folder: Path, rng: np.random.Generator) -> None:
    """All training prompts, and those that an earlier step has annotated."""
    pool = texts(rng, 2000)
    write_rows(folder / "train.jsonl", prompt_rows(pool, POOL))
    write_rows(folder / "used.jsonl", prompt_rows(pool, 10_000))


def write_bandit(folder: Path, rng: np.random.Generator) -> None:
    """clusters.pkl of the pool, and arms.json of an earlier step."""
    labels = np.arange(POOL) % CLUSTERS
    centroids = rng.standard_normal((CLUSTERS, WIDTH)).astype(np.float32)
    ids = [f"p{i:012x}" for i in range(POOL)]
    state = {"prompt_ids": ids, "labels": labels, "centroids": centroids, "k": CLUSTERS, "inertia": 0.0, "inertias": {}}
    write_clusters(folder / "clusters.pkl", state)
    arms = update_arms(Arms.fresh(CLUSTERS), labels[:10_000], rng.random(10_000), 1.0)
    write_arms(folder / "arms.json", arms, round=1, step=1)


def write_source(folder: Path, rng: np.random.Generator) -> None:
    """A million prompts in a file of each format, and a tokenizer of single bytes to count their tokens."""
    import pyarrow as pa
    from pyarrow import parquet
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pool = texts(rng, 2000)
    schema = pa.schema({"prompt": pa.string()})
    with (
        gzip.open(folder / "source.jsonl.gz", "wt", compresslevel=1) as packed,
        (folder / "source.jsonl").open("w") as plain,
        parquet.ParquetWriter(folder / "source.parquet", schema) as table,
    ):
        rows = ({"prompt": row["messages"][0]["content"]} for row in prompt_rows(pool, 1_000_000))
        while part := list(islice(rows, 100_000)):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            packed.write(lines)
            plain.write(lines)
            table.write_table(pa.Table.from_pylist(part, schema))
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters | {"<end>": 256}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder / "model")
    (folder / "model/manifest.json").write_text("{}")


def write_embeddings(folder: Path, rng: np.random.Generator) -> None:
    """Directions around 3,000 topics of uneven size, similar to embeddings of prompts."""
    centres = rng.standard_normal((3000, WIDTH), dtype=np.float32)
    topics = rng.choice(3000, POOL, p=rng.dirichlet(np.full(3000, 0.5)))
    found = centres[topics]
    found += 0.8 * rng.standard_normal(found.shape, dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    np.save(folder / "embeddings.npy", found)


def write_plan(folder: Path, rng: np.random.Generator) -> None:
    """A working directory with an experiment of 10 methods, 5 seeds, 3 rounds and 8 steps, and no results."""
    for name in ["Snakefile", "rules", "workflow", "experiments", "environment.yml", "profiles"]:
        (folder / name).symlink_to(ROOT / name)
    config = (ROOT / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config)
    large = {"name": "large", "seeds": list(range(5)), "rounds": 3, "steps": 8, "compare": METHODS}
    (folder / "large.yaml").write_text(json.dumps(large | {"bandit": {"reuse": True}}))


def program(name: str, flags: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / f"{name}.py"), *flags.split()]


SEED = "--seed 0 --round 1"
STEP = f"{SEED} --step 2 --clusters clusters.pkl --arms arms.json"
JOIN = " ".join(f"--{name} round/{name}.jsonl" for name in ("prompts", "generations", "rewards", "logprobs"))
ALLOCATE = f"{STEP} --steps 8 --prompts train.jsonl --used used.jsonl --budget 10000"
READ = "--packaged none --model model/manifest.json --train t.jsonl --eval e.jsonl --chat c.json --provenance s.json"
PLAN = ["--dry-run", "--quiet", "all", "--cores", "2", "--configfile", "config.yaml", "large.yaml"]
# By name: (function that writes its files, description, command, allowed seconds, allowed GB).
WORK = {
    "pfp": (
        [write_round],
        "1,000,000 responses to 250,000 prompts, with their rewards and log-probabilities",
        program("pfp", f"{JOIN} --output joined.jsonl"),
        (None, 1),
    ),
    "select_pairs": (
        [write_round],
        "1,000,000 responses, the 100,000 best of 1,500,000 pairs by PFP",
        program("select_pairs", f"{SEED} --pfp round/pfp.jsonl --metric pfp --top-n 100000 --output pairs.jsonl"),
        (60, 1),
    ),
    "allocate": (
        [write_bandit, write_pool],
        "10,000 of 200,000 prompts, 1,000 clusters, proportional",
        program("allocate", f"{ALLOCATE} --allocation proportional --output drawn.jsonl"),
        (5, None),
    ),
    "allocate thompson": (
        [write_bandit, write_pool],
        "the same by Thompson sampling",
        program("allocate", f"{ALLOCATE} --allocation thompson --output drawn.jsonl"),
        (5, None),
    ),
    "update_arms": (
        [write_bandit, write_steps],
        "a step of 10,000 prompts with 2 responses each, 1,000 clusters",
        program("update_arms", f"{STEP} --pfp small/pfp.jsonl --output arms_2.json"),
        (5, None),
    ),
    "update_arms all": (
        [write_bandit, write_steps],
        "a step of all 200,000 prompts with 2 responses each",
        program("update_arms", f"{STEP} --pfp large/pfp.jsonl --output arms_2.json"),
        (5, None),
    ),
    **{
        f"prepare_prompts {suffix}": (
            [write_source],
            f"1,000,000 rows of a {suffix} file, near-duplicates included",
            program("prepare_prompts", f"--source source{suffix} --max-prompt-tokens 10000 {READ}"),
            (None, 1),
        )
        for suffix in (".jsonl", ".jsonl.gz", ".parquet")
    },
    "cluster": (
        [write_embeddings],
        "k-means of 200,000 × 384 embeddings, k = 1,000, and their map",
        [sys.executable, "-c", CLUSTER, "embeddings.npy"],
        (120, 2),
    ),
    "KMeans": (
        [write_embeddings],
        "the same iterations from a start by k-means++ over all embeddings, without the map",
        [sys.executable, "-c", PEER, "embeddings.npy"],
        (None, None),
    ),
    "dry-run": (
        [write_plan],
        "10 methods × 5 seeds × 3 rounds × 8 steps",
        [sys.executable, "-m", "snakemake", *PLAN],
        (30, None),
    ),
}


def measure(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak GB (10⁹ bytes) of memory, and the last printed line, of a command that must succeed."""
    with (folder / "printed").open("w+") as printed:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=folder, stdout=printed, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        lines = printed.read().strip().splitlines()
    if child.returncode:
        raise SystemExit("\n".join(lines[-20:]))
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, lines[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = [name for name in WORK if name != "KMeans"]
    parser.add_argument(
        "--only", nargs="+", choices=list(WORK), default=usual, help="stages to run; all except KMeans if not given"
    )
    parser.add_argument("--folder", type=Path, help="folder in which the temporary folder is created")
    chosen = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ["numpy", "scikit-learn", "transformers", "snakemake"])
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}\n"
    )
    print("| stage | input | seconds | allowed | GB | allowed |\n|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        written, said = set(), []
        for name in chosen.only:
            writers, what, command, (seconds_allowed, memory_allowed) = WORK[name]
            for write in [write for write in writers if write not in written]:
                write(Path(temporary), np.random.default_rng(0))
                written.add(write)
            runs = [measure(command, Path(temporary))]
            while len(runs) < REPEATS and runs[0][0] < LONG:
                runs.append(measure(command, Path(temporary)))
            times, memory = sorted(run[0] for run in runs), max(run[1] for run in runs)
            spread = f" ({times[0]:.1f}–{times[-1]:.1f})" if len(times) > 1 else ""
            cells = [name, what, f"{statistics.median(times):.1f}{spread}", seconds_allowed, f"{memory:.2f}"]
            print("| " + " | ".join(str(cell or "") for cell in [*cells, memory_allowed]) + " |", flush=True)
            said.append(f"{name}: {runs[0][2]}")
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
