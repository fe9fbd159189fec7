"""JSON documents and tensor files: atomic writes, and read errors that name the file."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickletools import genops
from typing import Any

from prefloop.core.errors import InputError

PROJECT = Path(__file__).parents[4]
PARTIAL = re.compile(r"\..+\.\d+", re.DOTALL)  # temporary names of `atomic_write`, without the suffix
SUFFIX = ".partial"
MIN_FREE = 2**20  # bytes that Snakemake needs at least for its records of a start
MAX_JSON = 1 << 28  # bytes of a file with one object; the largest, from runs with many arms, have a few MB


def find_file(path: Path) -> Path:
    """Return `path` if it exists, else the file of the project with this relative path."""
    return Path(path) if Path(path).exists() else PROJECT / path


def check_own_folder(folder: Path) -> None:
    """Create Snakemake's own folder and check that it is writable. Snakemake itself would end in a traceback.

    Raises:
        InputError: The disk is full or read-only, or the folder belongs to another user.
    """
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(MIN_FREE))
    except OSError as error:
        raise InputError(
            f"{folder.resolve()}: {error.strerror}, but Snakemake keeps its records there; make room, or start in "
            "another folder with --directory"
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to `path` only if the block ends without an error.

    Temporary files that killed processes left in the folder are deleted.

    Args:
        path (Path): The file. Missing folders are created.
        durable (bool): Wait until the file and its name are on the disk, so that they survive a power failure.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_partials(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    descriptor = open_locked(partial)
    try:
        yield partial
        if durable:
            os.fsync(descriptor)
        partial.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def open_locked(path: Path) -> int:
    """Create and lock a file. The returned descriptor holds the lock until it is closed or the process ends."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a disk without locks, where `sweep_partials` deletes nothing
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return descriptor
        os.close(descriptor)  # `sweep_partials` deleted the file between the two calls


def sweep_partials(folder: Path) -> None:
    """Delete temporary files of `atomic_write` that no running process on any machine has locked."""
    for name in os.listdir(folder):  # noqa: PTH208 (many times faster than pathlib in a folder with many answers)
        if not (name.endswith(SUFFIX) and PARTIAL.fullmatch(name.removesuffix(SUFFIX))):
            continue
        with contextlib.suppress(OSError):  # locked, deleted, owned by another user, or on a disk without locks
            descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (folder / name).unlink()
            finally:
                os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict, durable: bool = False) -> None:
    """Write one JSON document atomically; `durable` as for `atomic_write`."""
    with atomic_write(path, durable) as partial:
        partial.write_bytes(json_bytes(value))


def json_bytes(value: dict) -> bytes:
    """Return the bytes that `write_json` writes."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: The text is not JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> dict:
    """Read one JSON object.

    Raises:
        InputError: The file is missing, is not a JSON object, or is so large that it would fill the memory.
    """
    try:
        if (size := Path(path).stat().st_size) > MAX_JSON:
            raise InputError(f"{path}: {size} bytes, expected a JSON object of at most {MAX_JSON}; recreate it")
        value = parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected one JSON object") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_tensors(path: Path, value: dict) -> None:
    """Write tensors and builtins with torch.save, atomically and durably.

    torch.save gets an open file: from a path it would store the file's temporary name in the archive.

    Raises:
        OSError: The disk is full or not writable.
    """
    import torch

    with atomic_write(path, durable=True) as partial, partial.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # raised when torch closes an archive that it could not write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_tensors(path: Path) -> dict:
    """Read a file of `write_tensors` without executing code from it.

    Tensors are memory-mapped: their values are read from the disk on first use. Changing them does not change the file.

    Raises:
        InputError: The file is missing or damaged, or contains more than tensors and builtins.
    """
    import torch

    try:
        check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for a bad file
        # torch's own message is omitted, because it advises to let the file run code.
        reason = f"damaged, or more than tensors: {type(error).__name__}"
        raise InputError(f"{path}: not a readable {Path(path).name} ({reason}); recreate it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def check_archive(path: Path) -> None:
    """Check that reading an archive of torch.save takes no more memory than the file's size. torch does not check this.

    torch.save does not compress, so compressed archives are refused. Bytearrays are refused because a few bytes of a
    pickle can create one of any length.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: Reading the file could take more memory, or it is not an archive of torch.save.
    """
    if not zipfile.is_zipfile(path):
        Path(path).stat()
        reason = "not a complete archive of torch.save"
        raise InputError(f"{path}: not a readable {Path(path).name} ({reason}); recreate it")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > Path(path).stat().st_size:
            raise InputError(f"{path}: its parts are compressed or overlap, unlike those of torch.save; recreate it")
        for member in members:
            if not member.filename.endswith("/data.pkl"):
                continue
            with archive.open(member) as file:
                if any(str(value).endswith(" bytearray") for code, value, _ in genops(file) if code.name == "GLOBAL"):
                    raise InputError(f"{path}: it contains a bytearray, expected tensors and builtins; recreate it")


def checksums(*paths: Path | None) -> list[str]:
    """Return the SHA-256 of each file that is not None."""
    return [sha256_of(path) for path in paths if path is not None]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
