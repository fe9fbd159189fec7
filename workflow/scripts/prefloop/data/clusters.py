"""Clusters of prompts: embeddings, k-means, and a pickle file that may contain only arrays and builtins."""

import pickle
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.core.progress import Progress
from prefloop.core.seeds import rng_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONE_START_ABOVE = 20_000  # prompts; up to this number, the best of ten starts is used
NUMBERS = ("i4", "i8", "f4", "f8")  # dtypes that arrays in the pickle may have


def embed(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    batch_size: int,
    max_tokens: int = 512,
) -> tuple[np.ndarray, int]:
    """Embed texts by their mean-pooled last hidden states.

    Padding does not count. Texts are read without a chat template, because all prompts would share its words.

    Returns:
        tuple: L2-normalized embeddings, float32 [texts, width], and the number of tokens read.
    """
    import torch

    from prefloop.models.batching import batches_by_length, right_pad

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
    """Cluster L2-normalized embeddings [prompts, width] by k-means: labels [prompts], centroids [k, width], inertia.

    With up to 20,000 prompts, the best of ten k-means++ starts is kept. With more, one start is found in a sample
    (20,000 prompts, or 50 per cluster if that is more), and Lloyd's algorithm makes at most 20 passes over all prompts.

    Raises:
        InputError: k is larger than the number of prompts.
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


def one_thread() -> AbstractContextManager:
    """Limit scikit-learn to one thread: with several, the order of sums, and so the last bit, would vary."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def assign(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the index of the nearest centroid [k, width] for each embedding [prompts, width]: int64 [prompts]."""
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(embeddings, centroids).astype(np.int64)


def inertias_by_k(embeddings: np.ndarray, k_max: int, seed: int) -> dict[int, float]:
    """Return the inertia of k-means for every k from 1 to `k_max`, or to the number of prompts if that is smaller."""
    candidates, inertias = range(1, min(k_max, len(embeddings)) + 1), {}
    with Progress("cluster (elbow)", len(candidates), "clustering") as progress:
        for k in candidates:
            inertias[k] = cluster(embeddings, k, seed)[2]
            progress.update()
    return inertias


def elbow(inertias: dict[int, float]) -> int:
    """Return the k at which the inertia curve is farthest below the straight line between its ends."""
    ks = np.array(sorted(inertias))
    values = np.array([inertias[k] for k in ks])
    if len(ks) < 3 or values[0] == values[-1]:
        return int(ks[0])
    x = (ks - ks[0]) / (ks[-1] - ks[0])
    y = (values - values[-1]) / (values[0] - values[-1])
    return int(ks[np.argmax(1 - x - y)])


def plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Return the first two principal components of the embeddings, for a map: float64 [prompts, 2]."""
    from sklearn.decomposition import PCA

    if min(embeddings.shape) < 2:
        return np.zeros((len(embeddings), 2))
    return PCA(2, random_state=seed).fit_transform(embeddings.astype(np.float64))


class StoredType:
    """A pickled numpy dtype, which must be one of NUMBERS."""

    def __init__(self, word: str, align: bool = False, copy: bool = True) -> None:
        if word not in NUMBERS:
            raise pickle.UnpicklingError(f"refused an array of {word!r}")
        self.word = word

    def __setstate__(self, state: tuple) -> None:
        self.numpy = np.dtype({"<": "<", ">": ">"}[state[1]] + self.word)


class StoredArray:
    """A pickled numpy array, rebuilt from its bytes.

    numpy's own unpickling trusts the file: a malicious one could write anywhere in memory.
    """

    def __init__(self, *arguments: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.numpy).reshape(shape, order="F" if fortran else "C").copy()


# Replacements for the only names that occur in a pickle of arrays and builtins.
STORED = {
    ("numpy", "ndarray"): StoredArray,
    ("numpy", "dtype"): StoredType,
    ("numpy._core.multiarray", "_reconstruct"): StoredArray,
    ("numpy.core.multiarray", "_reconstruct"): StoredArray,
}


class ArraysOnly(pickle.Unpickler):
    """An unpickler for arrays of numbers and builtin containers. It refuses any other class before its code runs."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STORED:
            raise pickle.UnpicklingError(f"refused {module}.{name}")
        return STORED[module, name]


def write_clusters(path: Path, value: dict) -> None:
    """Write clusters.pkl: {prompt_ids, labels [prompts], centroids [k, width], k, inertia}."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        pickle.dump(value, file, protocol=4)


def read_clusters(path: Path) -> dict:
    """Read clusters.pkl without executing code from it.

    Raises:
        InputError: The file is damaged, contains more than arrays and builtins, or lacks a key.
    """
    try:
        with Path(path).open("rb") as file:
            value = ArraysOnly(file).load()
    except Exception as error:  # a damaged pickle can raise any exception
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not a readable clusters file ({why}); run rule cluster_prompts again") from error
    if not isinstance(value, dict) or not {"prompt_ids", "labels", "k"} <= value.keys():
        raise InputError(f"{path}: not a clusters file: expected prompt_ids, labels and k")
    return {name: item.values if isinstance(item, StoredArray) else item for name, item in value.items()}
