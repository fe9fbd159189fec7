"""Functions of the user: some settings accept `module:function` or `path.py:function` instead of a registry's word.

A module is in the working directory or installed. A path is absolute or relative to the working directory.
Snakemake imports this module at every start, so it imports nothing heavy.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from prefloop.core.code_dependencies import SCRIPTS, code_hash, module_files
from prefloop.core.errors import InputError, SettingError

PATTERN = r"(?:[A-Za-z_][\w.]*|[^:]*\.py):[A-Za-z_]\w*"
EXPECTED = (
    "module:function or path.py:function, such as my_rewards:helpful for the function helpful of my_rewards.py in the "
    "working directory"
)


def is_own(word: object) -> bool:
    """Whether a setting names a function of the user instead of a word of a registry."""
    return isinstance(word, str) and re.fullmatch(PATTERN, word) is not None


def split(function: str) -> tuple[str, str]:
    """Return the module or path, and the name of the function in it."""
    module, _, name = function.rpartition(":")
    return module, name


def own_files(function: str) -> list[Path]:
    """Return the files of a function's module and of its packages; empty if it is installed or missing."""
    module, _ = split(function)
    if not module.endswith(".py"):
        return module_files(module, Path.cwd(), SCRIPTS)
    path = Path(module).expanduser()
    return [path] if path.is_file() else []


def own_code(function: str) -> str:
    """Return a hash of a function's module and of the modules that it imports; empty if the module is installed."""
    files = own_files(function)
    return code_hash(*files, root=folder_of_imports(function))[:16] if files else ""


def folder_of_imports(function: str) -> Path:
    """Return the folder from which a function's module imports other modules."""
    module, _ = split(function)
    return Path(module).expanduser().absolute().parent if module.endswith(".py") else Path.cwd()


@cache
def load_own(function: str, setting: str) -> Callable[..., Any]:
    """Import the function that a setting names.

    Raises:
        SettingError: The module cannot be imported or does not have this function.
    """
    module_name, name = split(function)
    folder = str(folder_of_imports(function))
    sys.path.insert(0, folder)
    try:
        module = import_module(module_name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        hint = f"; expected {module_name}.py in the working directory, or a package" if is_missing else ""
        raise SettingError(f"{setting}: cannot import {module_name} ({describe_exception(error)}){hint}") from error
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)  # for imports within its functions
    target = getattr(module, name, None)
    if not callable(target):
        problem = f"has no {name}" if target is None else f"has {type(target).__name__} {name}"
        raise SettingError(f"{setting}: module {module_name} {problem}, expected a function")
    return target


def import_module(name: str) -> ModuleType:
    """Import a module by its name, or a file by its path."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).expanduser().absolute()
    own_name = f"own_{path.stem}"  # so that it does not replace another module of the same name
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[own_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe_exception(error: BaseException) -> str:
    """Return an exception's type and message, and the line of the user's file that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    library_folders = [SCRIPTS, Path(os.__file__).parent]  # the project's, Python's and installed packages
    lines = [
        f"{file.name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if (file := Path(frame.filename)).is_absolute() and "site-packages" not in file.parts
        if not any(file.is_relative_to(folder) for folder in library_folders)
    ]
    return f"{text}, in {lines[-1]}" if lines else text
