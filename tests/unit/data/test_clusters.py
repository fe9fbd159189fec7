"""Clusters: planted groups are found, and loading the pickle cannot run code."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

import tiny
from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.data.clusters import assign, cluster, elbow, embed, plane, read_clusters, write_clusters
from prefloop.models.chat import load_tokenizer


def planted(groups: int = 4, each: int = 25) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = np.eye(groups, 8)
    points = np.repeat(centres, each, axis=0) + rng.normal(0, 0.05, (groups * each, 8))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_planted_groups_are_found():
    labels, centroids, inertia = cluster(planted(), 4, seed=0)
    groups = labels.reshape(4, 25)
    assert all(len(set(group)) == 1 for group in groups)
    assert len(set(labels)) == 4
    assert centroids.shape == (4, 8)
    assert inertia < 5


def test_eval_prompts_go_to_the_nearest_centroid():
    points = planted()
    labels, centroids, _ = cluster(points, 4, seed=0)
    assert (assign(points, centroids) == labels).all()
    assert assign(centroids[[2, 0]] + 0.01, centroids).tolist() == [2, 0]


def test_elbow_finds_the_planted_number():
    assert elbow({k: cluster(planted(), k, seed=0)[2] for k in range(2, 11)}) == 4


def test_more_clusters_than_prompts_is_an_error():
    with pytest.raises(InputError, match="clusters.k is 200, but there are only 100"):
        cluster(planted(), 200, seed=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny BERT: an encoder that is not a language model."""
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("bert"), tiny.tokenizer(chat=False)
    config = BertConfig(**tiny.SIZES, vocab_size=len(words), max_position_embeddings=128)
    BertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_embeddings_do_not_depend_on_padding(kind, model_folders, encoder):
    folder = model_folders["llama"] if kind == "decoder" else encoder
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), load_tokenizer(folder)
    texts = ["good", "a much longer text than the other one, which pads it"]
    together, tokens = embed(model, tokenizer, texts, batch_size=2)
    alone = np.concatenate([embed(model, tokenizer, [text], batch_size=1)[0] for text in texts])
    assert tokens == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1])
    with torch.no_grad():
        hidden = model(torch.tensor([tokenizer(texts[0])["input_ids"]])).last_hidden_state[0].mean(dim=0)
    assert together[0] == pytest.approx((hidden / hidden.norm()).numpy(), abs=1e-5)


def test_many_prompts_are_clustered_from_one_start(monkeypatch):
    monkeypatch.setattr("prefloop.data.clusters.ONE_START_ABOVE", 50)
    labels, _, _ = cluster(planted(), 4, seed=0)
    assert all(len(set(group)) == 1 for group in labels.reshape(4, 25))


def test_many_threads_give_the_same_bytes():
    """scikit-learn's own k-means with four threads is not deterministic: on this data, two of five runs differed."""
    program = (
        "import sys, hashlib, numpy as np\n"
        "from prefloop.data.clusters import cluster\n"
        "points = np.random.default_rng(0).standard_normal((5000, 64), dtype=np.float32)\n"
        "for _ in range(5): print(hashlib.sha256(cluster(points, 20, seed=0)[1].tobytes()).hexdigest())\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "4", "PYTHONPATH": str(ROOT / "workflow/scripts")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == 5
    assert len(set(done.stdout.split())) == 1


def test_projection_has_two_coordinates():
    assert plane(planted(), seed=0).shape == (100, 2)


def test_file_restores_arrays_and_other_objects_are_refused(tmp_path):
    path = tmp_path / "clusters.pkl"
    labels, centroids, inertia = cluster(planted(), 4, seed=0)
    ids = [str(i) for i in range(100)]
    write_clusters(path, {"prompt_ids": ids, "labels": labels, "centroids": centroids, "k": 4, "inertia": inertia})
    again = read_clusters(path)
    assert (again["labels"] == labels).all()
    assert again["prompt_ids"] == ids

    class Poison:
        def __reduce__(self):
            return (path.with_name("ran").write_text, ("executed",))

    path.write_bytes(pickle.dumps({"prompt_ids": [], "labels": Poison(), "k": 1}))
    with pytest.raises(InputError, match="refused"):
        read_clusters(path)
    assert not path.with_name("ran").exists()
    for bad in (b"", b"not a pickle", pickle.dumps([1, 2])):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"clusters\.pkl"):
            read_clusters(path)
