"""Clusters of prompts: embeddings, k-means, and a pickle that can hold arrays and nothing else."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefloop.progress import Progress
from prefloop.rows import InputError, whole
from prefloop.seeds import rng_for

ONE_START_ABOVE = 20_000  # prompts; below, the best of ten starts, each until it settles
NUMBERS = ("i4", "i8", "f4", "f8")  # numpy's words for what arrays in the pickle may hold


def embed(model, tokenizer, texts: Sequence[str], batch_size: int, max_tokens: int = 512) -> tuple[np.ndarray, int]:
    """Mean of the last hidden states over a text's tokens, L2-normalised: float32 [texts, width]; and tokens read.

    Padding does not count. Texts are read without a chat template, whose words all prompts share.
    """
    import torch

    from prefloop.batching import batches_by_length, right_pad

    encoded = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    result = np.zeros((len(texts), model.config.get_text_config().hidden_size), dtype=np.float32)
    with torch.no_grad(), Progress("cluster (embedding)", len(texts), "prompt") as progress:
        for batch in batches_by_length([len(e) for e in encoded], batch_size):
            ids, mask = (
                t.to(model.device) for t in right_pad([encoded[i] for i in batch], tokenizer.pad_token_id or 0)
            )
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            pooled = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            result[batch] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
            progress.update(len(batch), sum(len(encoded[i]) for i in batch))
    return result, sum(map(len, encoded))


def cluster(embeddings: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """k-means of L2-normalised embeddings [prompts, width]: labels [prompts], centroids [k, width], inertia.

    Lloyd's algorithm. With many prompts it goes 20 times over all of them from one start, which k-means++ finds in a
    sample of 50 prompts a cluster.
    Raises InputError if k is larger than the number of prompts.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus

    if k > len(embeddings):
        raise InputError(
            f"clusters.k is {k}, but there are only {len(embeddings)} training prompts to cluster; lower it"
        )
    start, starts, iterations = "k-means++", 10, 300
    with one_thread():
        if len(embeddings) > ONE_START_ABOVE:
            sample = rng_for(seed, "cluster").permutation(len(embeddings))[: max(ONE_START_ABOVE, 50 * k)]
            start, starts, iterations = kmeans_plusplus(embeddings[sample], k, random_state=seed)[0], 1, 20
        fitted = KMeans(k, init=start, n_init=starts, max_iter=iterations, random_state=seed).fit(embeddings)
    return fitted.labels_.astype(np.int64), fitted.cluster_centers_.astype(np.float32), float(fitted.inertia_)


def one_thread():
    """Within it scikit-learn has one thread: with three or more, sums come in an order of chance, and so a last bit."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def assign(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The nearest centroid [k, width] of each embedding [prompts, width]: int64 [prompts], as k-means labels."""
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(embeddings, centroids).astype(np.int64)


def elbow(inertias: dict[int, float]) -> int:
    """The k where the curve of inertia bends most: farthest below the straight line between its ends."""
    ks = np.array(sorted(inertias))
    values = np.array([inertias[k] for k in ks])
    if len(ks) < 3 or values[0] == values[-1]:
        return int(ks[0])
    x = (ks - ks[0]) / (ks[-1] - ks[0])
    y = (values - values[-1]) / (values[0] - values[-1])
    return int(ks[np.argmax(1 - x - y)])


def plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """The two first principal components of the embeddings, for a map: float64 [prompts, 2]."""
    from sklearn.decomposition import PCA

    if min(embeddings.shape) < 2:
        return np.zeros((len(embeddings), 2))
    return PCA(2, random_state=seed).fit_transform(embeddings.astype(np.float64))


class StoredType:
    """A pickled numpy dtype, which may be one of NUMBERS."""

    def __init__(self, word: str, align: bool = False, copy: bool = True):
        if word not in NUMBERS:
            raise pickle.UnpicklingError(f"refused an array of {word!r}")
        self.word = word

    def __setstate__(self, state: tuple):
        self.numpy = np.dtype({"<": "<", ">": ">"}[state[1]] + self.word)


class StoredArray:
    """A pickled numpy array, made again from its bytes.

    numpy's own way back believes what a file says of an array's insides: a bad file could write anywhere in memory.
    """

    def __init__(self, *arguments):
        self.values = np.empty(0)

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.numpy).reshape(shape, order="F" if fortran else "C").copy()


# What stands for the only names that a pickle of arrays and builtins has.
STORED = {
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): StoredType,
    ("numpy._core.multiarray", "_reconstruct"): StoredArray,
    ("numpy.core.multiarray", "_reconstruct"): StoredArray,
}


class ArraysOnly(pickle.Unpickler):
    """An unpickler for arrays of numbers and builtin containers; any other class is refused before it can run."""

    def find_class(self, module: str, name: str):
        if (module, name) not in STORED:
            raise pickle.UnpicklingError(f"refused {module}.{name}")
        return STORED[module, name]


def write_clusters(path: Path, value: dict) -> None:
    """Write clusters.pkl: {prompt_ids, labels [prompts], centroids [k, width], k, inertia}."""
    with whole(path) as partial, partial.open("wb") as file:
        pickle.dump(value, file, protocol=4)


def read_clusters(path: Path) -> dict:
    """Read clusters.pkl without executing anything in it; InputError if it holds more than arrays."""
    try:
        with Path(path).open("rb") as file:
            value = ArraysOnly(file).load()
    except Exception as error:  # pickle raises whatever a bad file's bytes run into
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a readable clusters file ({why}); run rule cluster again") from error
    if not isinstance(value, dict) or not {"prompt_ids", "labels", "k"} <= value.keys():
        raise InputError(f"{path}: not a clusters file: expected prompt_ids, labels and k")
    return {name: item.values if isinstance(item, StoredArray) else item for name, item in value.items()}
