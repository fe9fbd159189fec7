"""Broken models, policies, manifests and states raise one line that names the file, and run no code."""

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from limits import limited
from mutations import is_short_line
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.feedback.server_judge import AnswerCache
from prefloop.models.chat import load_tokenizer, read_format
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_base, load_policy
from prefloop.models.manifests import check_weights, load_name, parameter_count
from prefloop.models.policies import read_policy
from prefloop.models.positions import generation_config, max_positions
from prefloop.models.weight_files import count_parameters
from prefloop.training.checkpoint import STATE_FORMAT, read_state

MEGABYTE = 10**6
DEEP = "[" * 10_000 + "]" * 10_000


def line_of(load: Callable[[], Any]) -> str:
    """Return the message of the InputError that `load` raises."""
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert is_short_line(message)
    assert "weights_only" not in message
    assert "Weights only" not in message
    return message


class Code:
    """An object whose unpickling would run a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


class Zeros:
    """An object whose small pickle expands to many bytes."""

    def __reduce__(self) -> tuple:
        return bytearray, (2**29,)


def first_weight(content: dict, value: Any) -> dict:
    """Return a policy whose first weight is replaced by `value`."""
    return content | {"state_dict": content["state_dict"] | {next(iter(content["state_dict"])): value}}


def adapter(content: dict, **differences: Any) -> dict:
    return content | {"adapter": content["adapter"] | differences}


# A change of the content of policy.pt, and part of the error message.
POLICIES: dict[str, tuple[Callable[[dict], Any], str]] = {
    "list": (lambda c: [c], "expected a mapping, found list"),
    "code": (lambda c: c | {"round": Code()}, "not a readable policy.pt"),
    "another format": (lambda c: c | {"format": 1}, "not a policy of format"),
    "no base model": (lambda c: {k: v for k, v in c.items() if k != "base_model"}, "damaged: no base_model"),
    "no adapter": (lambda c: {k: v for k, v in c.items() if k != "adapter"}, "damaged: no adapter"),
    "bytearray": (lambda c: c | {"beta_state": {"a": Zeros()}}, "it contains a bytearray"),
    "number as base model": (lambda c: c | {"base_model": 7}, "base_model is 7"),
    "list as state_dict": (lambda c: c | {"state_dict": [1]}, r"state_dict is \[1\]"),
    "empty state_dict": (lambda c: c | {"state_dict": {}}, "an empty state_dict"),
    "list as beta_state": (lambda c: c | {"beta_state": [1]}, r"beta_state is \[1\]"),
    "NaN": (lambda c: first_weight(c, torch.tensor([1.0, float("nan")])), "NaN or infinite"),
    "infinity": (lambda c: first_weight(c, torch.tensor([1.0, float("inf")])), "NaN or infinite"),
    "text as weight": (lambda c: first_weight(c, "x"), "is not a weight"),
    "number as name": (lambda c: c | {"state_dict": {1: torch.ones(1)}}, "1 in its state_dict is not a weight"),
    "sparse weight": (lambda c: first_weight(c, torch.eye(2).to_sparse()), "is not a weight"),
    "weight without values": (lambda c: first_weight(c, torch.ones(2, device="meta")), "is not a weight"),
    "complex weight": (lambda c: first_weight(c, torch.ones(2, dtype=torch.complex64)), "is not a weight"),
    "view of 4 TB": (lambda c: first_weight(c, torch.ones(1).expand(10**12)), "is not a weight"),
    "another shape": (lambda c: first_weight(c, torch.ones(3)), "1 of its weights do not fit"),
    "text as adapter": (lambda c: c | {"adapter": "lora"}, "adapter is 'lora'"),
    "adapter without a rank": (lambda c: c | {"adapter": {"alpha": 1.0}}, "expected numbers r, alpha and dropout"),
    "huge rank": (lambda c: adapter(c, r=10**9), "adapter.r is 1000000000"),
    "rank of 0": (lambda c: adapter(c, r=0), "adapter.r is 0"),
    "text as rank": (lambda c: adapter(c, r="4"), "expected numbers r, alpha and dropout"),
    "NaN as alpha": (lambda c: adapter(c, alpha=float("nan")), "expected numbers r, alpha and dropout"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_broken_policy_is_refused(manifests, trained, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    change, problem = POLICIES[name]
    content = torch.load(trained("lora"), weights_only=True)
    torch.save(change(content), tmp_path / "policy.pt")
    with pytest.raises(InputError, match=problem):
        load_policy(manifests["llama"], tmp_path / "policy.pt", torch.float32, "cpu")
    line = line_of(lambda: load_policy(manifests["llama"], tmp_path / "policy.pt", torch.float32, "cpu"))
    assert line.startswith(f"{tmp_path / 'policy.pt'}: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"PK\x03\x04 torn", "a third"])
def test_torn_policy_is_refused(manifests, trained, tmp_path, content):
    whole = trained("full").read_bytes()
    (tmp_path / "policy.pt").write_bytes(whole[: len(whole) // 3] if isinstance(content, str) else content)
    line = line_of(lambda: load_policy(manifests["llama"], tmp_path / "policy.pt", torch.float32, "cpu"))
    assert "not a readable policy.pt" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_model_with_non_finite_weights_is_not_fetched(model_folders, tmp_path, value, dtype):
    """Otherwise a damaged or diverged model would write NaN or noise in later stages."""
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    state = load_file(path)
    fetch(str(tmp_path / "model"), tmp_path / "whole")
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    state[name] = state[name].to(dtype)
    save_file(state, path, {"format": "pt"})
    fetch(str(tmp_path / "model"), tmp_path / "whole")
    state[name] = state[name].float()
    state[name][1, 1] = value
    state[name] = state[name].to(dtype)
    save_file(state, path, {"format": "pt"})
    line = line_of(lambda: fetch(str(tmp_path / "model"), tmp_path / "fetched"))
    assert line.endswith(f"{name} has values that are NaN or infinite; download the model again, or name another")
    assert list((tmp_path / "fetched").iterdir()) == []


@pytest.mark.parametrize("member", ["data.pkl", "version", "byteorder", "data/0"])
def test_compressed_policy_is_refused_without_decompression(trained, tmp_path, member):
    """A member is 200 MB of compressed zeros. torch would decompress it, `version` even six times at once."""
    path = tmp_path / "policy.pt"
    with zipfile.ZipFile(trained("lora")) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            is_bomb = name.split("/", 1)[1] == member
            content = bytes(200 * MEGABYTE) if is_bomb else source.read(name)
            target.writestr(name, content, zipfile.ZIP_DEFLATED if is_bomb else zipfile.ZIP_STORED)
            del content
    with limited(memory_bytes=50 * MEGABYTE):
        assert "its parts are compressed" in line_of(lambda: read_policy(path))


# The content of manifest.json, and part of the error message of all readers.
MANIFESTS: dict[str, tuple[bytes | dict, str]] = {
    "empty": (b"", "not JSON"),
    "list": (b"[]", "expected a JSON object, found list"),
    "not UTF-8": (b'{"source": "\xff"}', "not JSON"),
    "deep": (DEEP.encode(), "nested too deeply"),
    "long number": (b'{"parameters": ' + b"9" * 5000 + b"}", "not JSON"),
    "text as parameters": ({"parameters": "many"}, "parameters: 'many' found, expected a number"),
    "negative parameters": ({"parameters": -1}, "parameters: -1 found"),
    "true as parameters": ({"parameters": True}, "parameters: True found"),
    "list as active parameters": ({"active_parameters": [1]}, r"active_parameters: \[1\] found"),
    "number as source": ({"source": 3}, "source: 3 found, expected text"),
    "mapping as commit": ({"commit": {}}, "commit: {} found"),
    "list as files": ({"files": ["model.safetensors"]}, "files: .* found, expected a mapping"),
    "null as checksum": ({"sha256": None}, "sha256: None found"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_broken_manifest_is_refused(manifests, tmp_path, name):
    content, problem = MANIFESTS[name]
    shutil.copytree(manifests["llama"].parent, tmp_path / "model")
    manifest = tmp_path / "model/manifest.json"
    whole = json.loads(manifest.read_text())
    manifest.write_bytes(content if isinstance(content, bytes) else json.dumps(whole | content).encode())
    for reader in (parameter_count, load_name, lambda path: load_base(path, torch.float32)):
        with pytest.raises(InputError, match=problem):
            reader(manifest)
        assert str(manifest) in line_of(lambda reader=reader: reader(manifest))


def test_manifest_with_a_long_file_name_is_refused(tmp_path):
    write_json(tmp_path / "manifest.json", {"files": {"x" * 300 + ".safetensors": "0" * 64}})
    assert "no such file" in line_of(lambda: check_weights(tmp_path / "manifest.json"))


@pytest.mark.parametrize("reader", [parameter_count, load_name])
def test_manifest_without_a_field_is_refused(tmp_path, reader):
    write_json(tmp_path / "manifest.json", {"files": {}})
    assert ": missing, expected " in line_of(lambda: reader(tmp_path / "manifest.json"))


def header(content: dict | str, length: int | None = None) -> bytes:
    """Return a safetensors file with this header and 8 bytes of weights."""
    text = (content if isinstance(content, str) else json.dumps(content)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
SAFETENSORS = {
    "empty": b"",
    "short": b"\x01\x02",
    "torn header": struct.pack("<Q", 200) + b'{"a": {"dtype": "F32", "shape"',
    "header beyond the file": header({"a": TENSOR}, 10**15),
    "longest header": header({"a": TENSOR}, 2**64 - 1),
    "no JSON": header("nothing"),
    "list": header("[]"),
    "deep": header(DEEP),
    "negative shape": header({"a": TENSOR | {"shape": [-2]}}),
    "overflowing shape": header({"a": TENSOR | {"shape": [2**62, 2**62]}}),
    "text as shape": header({"a": TENSOR | {"shape": "2"}}),
    "no shape": header({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "weights beyond the file": header({"a": TENSOR | {"shape": [200], "data_offsets": [0, 800]}}),
    "overlapping weights": header({"a": TENSOR, "b": TENSOR}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_broken_safetensors_are_not_fetched(model_folders, tmp_path, name):
    shutil.copytree(model_folders["llama"], tmp_path / "source")
    (tmp_path / "source/model.safetensors").write_bytes(SAFETENSORS[name])
    line = line_of(lambda: fetch(str(tmp_path / "source"), tmp_path / "out"))
    assert "model.safetensors: not a complete safetensors file; download it again (" in line
    assert not list((tmp_path / "out").iterdir())


INDEXES = {
    "empty": {},
    "list": {"weight_map": ["model.safetensors"]},
    "number": {"weight_map": {"a": 1}},
    "parent folder": {"weight_map": {"a": "../elsewhere.safetensors"}},
    "absolute path": {"weight_map": {"a": "/elsewhere.safetensors"}},
    "long name": {"weight_map": {"a": "x" * 300}},
}


@pytest.mark.parametrize("name", INDEXES)
def test_broken_index_is_not_fetched(model_folders, tmp_path, name):
    """Paths out of the folder are refused even if the file exists."""
    shutil.copytree(model_folders["llama"], tmp_path / "source")
    (tmp_path / "source/model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    write_json(tmp_path / "source/model.safetensors.index.json", INDEXES[name])
    line = line_of(lambda: fetch(str(tmp_path / "source"), tmp_path / "out"))
    assert any(part in line for part in ("index.json: weight_map is", "is not a file in this folder", "is not there"))


# Changed files of a fetched model folder, and their new content.
FOLDERS: dict[str, tuple[str, Any]] = {
    "config without a type": ("config.json", {}),
    "config that is a list": ("config.json", []),
    "deep config": ("config.json", DEEP),
    "text as size": ("config.json", {"hidden_size": "wide"}),
    "negative size": ("config.json", {"hidden_size": -4}),
    "no heads": ("config.json", {"num_attention_heads": 0}),
    "list as layers": ("config.json", {"num_hidden_layers": [2]}),
    "unknown type": ("config.json", {"model_type": "none"}),
    "number as type": ("config.json", {"model_type": 3}),
    "unknown activation": ("config.json", {"hidden_act": "boom"}),
    "empty tokenizer": ("tokenizer.json", "{}"),
    "torn tokenizer": ("tokenizer.json", '{"version": "1.0", "model"'),
    "tokenizer that is a list": ("tokenizer.json", "[]"),
    "tokenizer_config that is a list": ("tokenizer_config.json", "[]"),
    "tokenizer_config with odd types": ("tokenizer_config.json", '{"tokenizer_class": 3, "eos_token": []}'),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_broken_model_folder_is_refused(manifests, tmp_path, name):
    file, content = FOLDERS[name]
    shutil.copytree(manifests["llama"].parent, tmp_path / "model", symlinks=False)
    path = tmp_path / "model" / file
    if isinstance(content, dict) and content:
        content = json.loads(path.read_text()) | content
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert str(tmp_path / "model") in line_of(lambda: load_base(tmp_path / "model/manifest.json", torch.float32))


def test_pickled_weights_of_a_fetched_model_are_not_read(manifests, tmp_path):
    """A pytorch_model.bin replaces the weights."""
    shutil.copytree(manifests["llama"].parent, tmp_path / "model")
    manifest = tmp_path / "model/manifest.json"
    (tmp_path / "model/model.safetensors").unlink()
    torch.save({"a": Code()}, tmp_path / "model/pytorch_model.bin")
    assert "model.safetensors: no such file" in line_of(lambda: load_base(manifest, torch.float32))
    write_json(manifest, json.loads(manifest.read_text()) | {"files": {}})
    assert "no causal language model" in line_of(lambda: load_base(manifest, torch.float32))


@pytest.mark.parametrize("content", [b"", b"torn", "code", "list"])
def test_broken_pickled_checkpoint_is_not_fetched(model_folders, tmp_path, content):
    shutil.copytree(model_folders["llama"], tmp_path / "source")
    (tmp_path / "source/model.safetensors").unlink()
    path = tmp_path / "source/pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"code": {"a": Code()}, "list": {"a": [1]}}[content], path)
    assert str(tmp_path / "source") in line_of(lambda: fetch(str(tmp_path / "source"), tmp_path / "out"))


@pytest.mark.parametrize("content", ["", "[]", DEEP, '{"eos_token_id": {"a": []}, "temperature": "hot"}'])
def test_broken_generation_config_is_read_or_raises_with_one_line(manifests, tmp_path, content):
    shutil.copytree(manifests["llama"].parent, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(content)
    try:
        generation_config(tmp_path / "model/manifest.json")
    except InputError as error:
        assert is_short_line(str(error))


@pytest.mark.parametrize("content", ["", "[]", DEEP, '{"model_type": []}'])
def test_maximum_position_of_a_broken_config_raises(manifests, tmp_path, content):
    shutil.copytree(manifests["llama"].parent, tmp_path / "model")
    (tmp_path / "model/config.json").write_text(content)
    assert "config.json: transformers cannot read it" in line_of(
        lambda: max_positions(tmp_path / "model/manifest.json")
    )


def test_invalid_number_of_experts_is_refused(model_folders, tmp_path):
    shutil.copytree(model_folders["llama"], tmp_path / "source")
    config = json.loads((tmp_path / "source/config.json").read_text()) | {"num_experts_per_tok": "two"}
    write_json(tmp_path / "source/config.json", config)
    assert "config.json: 'two' experts per token" in line_of(lambda: count_parameters(tmp_path / "source"))


CHATS = {
    "template_kwargs is [1]": {"template_kwargs": [1], "date": None},
    "missing 'date'": {"template_kwargs": {}},
    "date is 3": {"template_kwargs": {}, "date": 3},
    "template_date: 'soon'": {"template_kwargs": {}, "date": "soon"},
}


@pytest.mark.parametrize("problem", CHATS)
def test_broken_chat_format_is_refused(tmp_path, problem):
    write_json(tmp_path / "chat.json", CHATS[problem])
    assert problem in line_of(lambda: read_format(tmp_path / "chat.json"))


@pytest.mark.parametrize(
    "gone", ["fingerprint", "steps", "weights", "optimizer", "schedule", "extra_state", "resumed", "shards"]
)
def test_damaged_training_state_is_not_used(tmp_path, gone):
    """Training then starts from the beginning and prints the reason."""
    state: dict[str, Any] = {"format": STATE_FORMAT, "fingerprint": "a", "steps": [], "seconds": 1.0, "resumed": 0}
    state |= {"shards": ""} | {name: {} for name in ("weights", "optimizer", "schedule", "extra_state")}
    torch.save(state, tmp_path / "state.pt")
    assert read_state(tmp_path / "state.pt", "a") == (state, "")
    for damaged in ({k: v for k, v in state.items() if k != gone}, state | {gone: "x" if gone != "fingerprint" else 1}):
        torch.save(damaged, tmp_path / "state.pt")
        assert read_state(tmp_path / "state.pt", "a") == (None, "is damaged")


ANSWERS = {
    "no object": "[]",
    "not JSON": "",
    "deep": DEEP,
    "number as answer": '{"answer": 1, "prompt_tokens": 1, "completion_tokens": 1}',
    "negative tokens": '{"answer": "A", "prompt_tokens": -1, "completion_tokens": 1}',
}


@pytest.mark.parametrize("name", ANSWERS)
def test_broken_cached_answer_is_refused(tmp_path, name):
    cache = AnswerCache(tmp_path, "http://localhost/v1")
    path = cache.path({"model": "m"})
    path.parent.mkdir()
    path.write_text(ANSWERS[name])
    assert line_of(lambda: cache.read({"model": "m"})).startswith(str(path))


def test_tokenizer_of_an_empty_folder_is_refused(tmp_path: Path):
    assert "no tokenizer that transformers can load" in line_of(lambda: load_tokenizer(tmp_path))
