"""Weights that changed since they were fetched are refused, and unchanged weights are hashed at most once."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from prefloop.core.errors import InputError
from prefloop.core.files import sha256_of
from prefloop.feedback.reward_model import load_classifier
from prefloop.models import manifests as module
from prefloop.models.loading import load_base
from prefloop.models.manifests import check_weights


@pytest.fixture
def manifest(manifests, tmp_path) -> Path:
    """The manifest of a fetched model whose weights are a file in its folder, older than the manifest."""
    shutil.copytree(manifests["llama"].parent, tmp_path / "model")
    time.sleep(0.05)  # file times have a limited resolution
    os.utime(tmp_path / "model/manifest.json")
    return tmp_path / "model/manifest.json"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Records the names of hashed files."""
    hashed: list[str] = []
    monkeypatch.setattr(module, "sha256_of", lambda path: (hashed.append(path.name), sha256_of(path))[1])
    return hashed


def flip_a_bit(path: Path) -> None:
    """Change one bit of the last weight, but keep size and modification time."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "load", [lambda path: load_base(path, torch.float32), lambda path: load_classifier(path, "no classifier")]
)
def test_changed_weights_are_refused(manifest, load):
    load(manifest)
    flip_a_bit(manifest.with_name("model.safetensors"))
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"model.safetensors: its sha256 is \w{12}…, and .*manifest.json has \w{12}…"
        ):
            load(manifest)


def test_changed_target_of_a_link_is_refused(manifest, tmp_path):
    """fetch_model links the files of a local folder."""
    path = manifest.with_name("model.safetensors").rename(tmp_path / "elsewhere")
    manifest.with_name("model.safetensors").symlink_to(path)
    check_weights(manifest)
    flip_a_bit(path)
    with pytest.raises(InputError, match="damaged or was changed"):
        check_weights(manifest)


def test_unchanged_weights_are_not_hashed(manifest, hashed):
    load_base(manifest, torch.float32)
    assert hashed == []


def test_copied_weights_are_hashed_once(manifest, hashed):
    """As in a copied results folder. The manifest keeps its modification time, which Snakemake compares."""
    shutil.copy(manifest.with_name("model.safetensors"), manifest.with_name("copy"))
    manifest.with_name("copy").replace(manifest.with_name("model.safetensors"))
    before = manifest.stat()
    for _ in range(3):
        time.sleep(0.05)
        check_weights(manifest)
    assert hashed == ["model.safetensors"]
    assert manifest.stat().st_mtime_ns == before.st_mtime_ns


def test_missing_weights_are_refused(manifest):
    manifest.with_name("model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file, but .*manifest.json lists it"):
        check_weights(manifest)
