"""Random mutations of model folders and policies: a model or a one-line error.

CI runs the same examples each time. For more, random examples: FUZZ_EXAMPLES=20000 pytest tests/unit -k fuzz
"""

import copy
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mutations import as_json, as_objects, fuzzing, is_short_line, mutated, torn
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.models.chat import read_format
from prefloop.models.loading import add_trained, load_base
from prefloop.models.manifests import check_weights, load_name, parameter_count, read_manifest
from prefloop.models.policies import average_policies, check_base, is_trained, read_policy
from prefloop.models.weight_files import count_parameters
from prefloop.training.checkpoint import STATE_FORMAT, read_state

DTYPES = ["F32", "F64", "BF16", "F16", "I64", "BOOL", "U8", "F8_E4M3", "F4", "C64", "X"]


def is_read(read: Callable[[], Any]) -> bool:
    """Return whether `read` succeeds; False if it raises a one-line InputError."""
    try:
        read()
    except InputError as error:
        assert is_short_line(str(error)), str(error)
        assert "weights_only" not in str(error)
        return False
    return True


def torn_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for bytes of which a few are changed, or which end too early."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        changed = bytearray(content)
        for _ in range(draw(st.integers(0, 4))):
            changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(changed[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else changed)

    return strategy()


@pytest.fixture(scope="module")
def model(manifests, tmp_path_factory) -> Path:
    """The manifest of a copied model without checksums, which a user who edits files could remove."""
    folder = tmp_path_factory.mktemp("fuzzed") / "model"
    shutil.copytree(manifests["llama"].parent, folder)
    manifest = folder / "manifest.json"
    write_json(manifest, json.loads(manifest.read_text()) | {"files": {}})
    return manifest


DOCUMENTS = ["manifest.json", "model.safetensors.index.json", "config.json", "chat.json"]


@given(data=st.data())
@fuzzing(400)
def test_fuzzed_manifests(manifests, tmp_path_factory, data):
    """Mutates manifest.json and other JSON files of a model and its chat format."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed manifests"
    if not folder.exists():
        shutil.copytree(manifests["llama"].parent, folder)
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
    valid = {
        name: json.loads((manifests["llama"].parent / name).read_text()) for name in ("manifest.json", "config.json")
    }
    valid |= {"model.safetensors.index.json": {"metadata": {}, "weight_map": {"a": "shard.safetensors"}}}
    valid |= {"chat.json": {"template_kwargs": {"x": 1}, "date": "2026-01-31"}}
    valid["manifest.json"] |= {"files": {"shard.safetensors": "0" * 64}, "active_parameters": 7, "commit": "a" * 40}
    valid["config.json"] |= {"num_experts_per_tok": 2}
    edited = data.draw(st.sampled_from(DOCUMENTS))
    for name, content in valid.items():
        text = as_json(content)
        if name == edited:
            text = as_json(data.draw(mutated(content))) if data.draw(st.booleans()) else data.draw(torn(text))
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
    manifest = folder / "manifest.json"
    for reader in (read_manifest, parameter_count, load_name, check_weights):
        is_read(lambda reader=reader: reader(manifest))
    is_read(lambda: check_base({"base_model": "x"}, manifest, Path("policy.pt")))
    is_read(lambda: count_parameters(folder))
    is_read(lambda: read_format(folder / "chat.json"))


def split(safetensors: bytes) -> tuple[dict, bytes]:
    """Return the header and the weights of a safetensors file."""
    (length,) = struct.unpack("<Q", safetensors[:8])
    return json.loads(safetensors[8 : 8 + length]), safetensors[8 + length :]


@given(data=st.data())
@fuzzing(400)
def test_fuzzed_safetensors_headers(model, data):
    """If a header is accepted, the model loads, or is refused because it is another model."""
    path = model.with_name("model.safetensors")
    whole = path.with_name("whole.bin")
    if not whole.exists():
        shutil.copy(path, whole)
    header, weights = split(whole.read_bytes())
    how = data.draw(st.sampled_from(["header", "header", "tensor", "text", "bytes"]))
    if how == "bytes":
        content = data.draw(torn_bytes(whole.read_bytes()[:3000])) + data.draw(st.sampled_from([b"", weights]))
    else:
        if how == "header":
            header = data.draw(mutated(header))
        elif how == "tensor":
            name = data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))
            header[name] = data.draw(mutated(header[name]))
            if isinstance(header[name], dict) and data.draw(st.booleans()):
                header[name]["dtype"] = data.draw(st.sampled_from(DTYPES))
        text = as_json(header) if how != "text" else data.draw(torn(as_json(header)))
        encoded = text.encode(errors="surrogatepass")
        length = data.draw(st.sampled_from([len(encoded)] * 9 + [0, len(encoded) - 1, 10**8, 2**63, 2**64 - 1]))
        content = struct.pack("<Q", length) + encoded + weights
    path.write_bytes(content)
    if is_read(lambda: count_parameters(model.parent)):
        is_read(lambda: load_base(model, torch.float32))


def pickled(value: Any) -> bytes:
    """Return the bytes that torch.save writes for a value."""
    file = BytesIO()
    torch.save(value, file)
    return file.getvalue()


WEIGHTS = [torch.tensor(1.0), torch.ones(3), torch.tensor([float("nan")]), torch.ones(2, dtype=torch.complex64)]
WEIGHTS += [torch.ones(1).expand(10**12), torch.eye(2).to_sparse(), torch.empty(0), torch.ones(2, device="meta")]
WEIGHTS += [torch.nn.Parameter(torch.ones(2, 2)), torch.arange(4), torch.ones(2, dtype=torch.float8_e4m3fn)]
OTHERS = ["x", None, 1, [torch.ones(2)], {"a": torch.ones(2)}]


def mutated_policy(draw: st.DrawFn, content: dict) -> bytes:
    """Return a policy.pt or saved state with changed values, weights, archive members or bytes."""
    how = draw(st.sampled_from(["values", "values", "weights", "archive", "bytes"]))
    if how == "bytes":
        return draw(torn_bytes(pickled(content)))
    if how == "archive":
        return mutated_archive(draw, pickled(content))
    weights = next(name for name in ("state_dict", "weights") if name in content)
    if how == "weights":
        state = dict(content[weights])
        for name in draw(st.lists(st.sampled_from(sorted(state)), min_size=1, max_size=3, unique=True)):
            tensor = state[name]
            changed = [tensor.half(), tensor.unsqueeze(0), tensor[:1], tensor.flatten(), tensor * float("inf")]
            state[name] = draw(st.sampled_from([*changed, *WEIGHTS, *OTHERS]))
        return pickled(content | {weights: state})
    tree = draw(mutated(content | {weights: "@weights"}))
    assume("@deep" not in repr(tree))  # torch.save cannot write deeply nested lists
    changed = as_objects(tree)
    if isinstance(changed, dict) and changed.get(weights) == "@weights":
        changed[weights] = content[weights]
    return pickled(changed)


def mutated_archive(draw: st.DrawFn, content: bytes) -> bytes:
    """Return an archive of torch.save with one member compressed, torn, empty, large, missing or renamed."""
    source, file = zipfile.ZipFile(BytesIO(content)), BytesIO()
    edited = draw(st.sampled_from(source.namelist()))
    how = draw(st.sampled_from(["pack", "tear", "empty", "zeros", "drop", "rename"]))
    with zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            member, packing = source.read(name), zipfile.ZIP_STORED
            if name == edited:
                if how == "drop":
                    continue
                if how == "tear" and member:
                    member = draw(torn_bytes(member))
                if how in ("pack", "zeros"):
                    packing = zipfile.ZIP_DEFLATED
                if how in ("empty", "zeros"):
                    member = b"" if how == "empty" else bytes(2**22)
                if how == "rename":
                    name += "x"
            target.writestr(name, member, packing)
    return file.getvalue()


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_fuzzed_policies(manifests, trained, tmp_path, parameters):
    """An accepted policy fits its model and can be averaged with another one."""
    path, manifest = tmp_path / "policy.pt", manifests["llama"]
    assert is_trained(path)
    content = torch.load(trained(parameters), weights_only=True)
    base, _ = load_base(manifest, torch.float32)

    @given(data=st.data())
    @fuzzing(300)
    def check(data):
        path.write_bytes(mutated_policy(data.draw, content))
        if is_read(lambda: read_policy(path)):
            read = read_policy(path)
            if is_read(lambda: add_trained(copy.deepcopy(base), read, manifest, path)):
                average_policies(content, read, 0.5, base.state_dict())

    check()


def test_fuzzed_states(tmp_path):
    """A saved training state is used, or not used with a reason."""
    state: dict[str, Any] = {"format": STATE_FORMAT, "fingerprint": "a", "steps": [{}], "seconds": 1.0, "resumed": 0}
    state |= {"weights": {"a": torch.ones(2, 2)}, "optimizer": {"a": {}}, "schedule": {}, "extra_state": {}}
    path = tmp_path / "state.pt"

    @given(data=st.data())
    @fuzzing(100)
    def check(data):
        path.write_bytes(mutated_policy(data.draw, state))
        read, reason = read_state(path, "a")
        assert (read is None) == bool(reason)

    check()
