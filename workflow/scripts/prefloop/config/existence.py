"""Checks that the files, model folders and functions in a config exist, before any job starts.

Snakemake imports this module at every start, so it imports nothing heavy and runs no code of the user.
"""

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from prefloop.config.declarations import bare, hints, metadata_of
from prefloop.config.resolve import asked, feedback_functions, model_sources, of_method, trained_here
from prefloop.config.reward_functions import uncallable_rewards
from prefloop.config.settings import MethodConfig
from prefloop.config.source_names import (
    HUB,
    HUB_SOURCE,
    SAVED_FILES,
    SOURCE_FORM,
    configured_sources,
    is_rows_function,
    suffix_of,
)
from prefloop.core.files import find_file
from prefloop.core.metadata import Choice
from prefloop.core.own_functions import is_own, own_files, split
from prefloop.core.registry import chosen_words
from prefloop.models.fetch import PACKAGE, PACKAGE_FORM, no_model
from prefloop.models.sources import hub_model

TEXT_SUFFIXES = (".txt", ".jsonl", ".jsonl.gz")
# Resources that the SLURM plugin or Snakemake reads. Other names are accepted unless they look like one of these.
RESOURCES = [
    *["slurm_account", "slurm_partition", "slurm_extra", "slurm_cluster", "clusters", "constraint", "qos", "gres"],
    *["gpu", "gpu_model", "nodes", "tasks", "tasks_per_node", "tasks_per_gpu", "cpus_per_task", "cpus_per_gpu", "mpi"],
    *["mem", "mem_mb", "mem_mib", "mem_mb_per_cpu", "disk", "disk_mb", "disk_mib", "runtime", "tmpdir"],
]


def absent(config: dict) -> list[str]:
    """Return one line per file, model or function in the config that does not exist."""
    if not config["compare"]:  # a simulation of theory reads no files
        return []
    sections = {f"reward_models.{name}": config["reward_models"][name] for name in trained_here(config)}
    sections |= {"prompts": config["prompts"], "evaluation.prompts": config["evaluation"]["prompts"]}
    problems = [
        problem
        for where, section in sections.items()
        for settings in configured_sources(section)
        for problem in absent_prompts(f"{where}.source{'s' * bool(section.get('sources'))}", settings["source"])
    ]
    problems += [problem for source in model_sources(config).values() for problem in absent_model(source)]
    problems += absent_text(config["evaluation"]["perplexity"]["text"])
    problems += absent_start(config["policy"]["start"], Path("results", config["name"]))
    for feedback in asked(config):
        template = feedback["judge"]["template"]
        if feedback["kind"] == "judge" and not find_file(template).is_file():
            problems.append(f"judge.template: {template}: no such file, expected a judge's template")
    problems += absent_functions(config) or uncallable_rewards(config)
    return list(dict.fromkeys(problems))


def absent_prompts(where: str, source: str) -> list[str]:
    """Return why a source of prompts cannot be read, as far as its name shows."""
    path = Path(source)
    if source == "packaged":
        return []
    if source.startswith(HUB):
        return [] if HUB_SOURCE.fullmatch(source) else [f"{where}: {source}: expected hub:owner/name[@revision]"]
    if is_rows_function(source):
        return absent_function(where, source)
    if path.is_dir() and not suffix_of(source):
        saved = any((path / name).is_file() for name in SAVED_FILES)
        return (
            [] if saved else [f"{where}: {source}: a folder without {' or '.join(SAVED_FILES)}, expected {SOURCE_FORM}"]
        )
    if not suffix_of(source):
        return [f"{where}: {source}: expected {SOURCE_FORM}"]
    return [] if path.is_file() else [f"{where}: {source}: no such file{similar(path)}"]


def absent_text(source: str | None) -> list[str]:
    """Return why a file of plain text cannot be read, as far as its name shows."""
    if source is None or source == "packaged":
        return []
    key, path = "evaluation.perplexity.text", Path(source)
    if not source.endswith(TEXT_SUFFIXES):
        return [f"{key}: {source}: expected packaged, or a .txt or .jsonl file"]
    return [] if path.is_file() else [f"{key}: {source}: no such file{similar(path)}"]


def absent_model(source: str) -> list[str]:
    """Return why a model's source is not a package with a checksum, a model folder or an id of the hub."""
    if source.startswith("pypi:"):
        return [] if PACKAGE.fullmatch(source) else [f"model {source}: expected {PACKAGE_FORM}"]
    folder = Path(source)
    if folder.is_dir():
        problem = no_model(folder)
        return [f"model {source}: {problem}"] if problem else []
    if source.startswith((".", "/", "~")):
        return [f"model {source}: no such folder{similar(folder)}"]
    if hub_model(source):
        return []
    return [
        f"model {source}: expected a local folder, the hub's owner/name or owner/name@revision, or "
        "pypi:package==version/path"
    ]


def absent_start(start: str | None, results: Path) -> list[str]:
    """Return why policy.start is not a file of another run. `results` is the experiment's own folder."""
    path = Path(start or "")
    if start is None:
        return []
    if path.is_dir():
        return [f"policy.start: {start}: a folder, expected a policy.pt; for a model folder, set policy.model"]
    if not path.is_file():
        return [f"policy.start: {start}: no such file, expected the policy.pt of another run{similar(path)}"]
    if path.resolve().is_relative_to(results.resolve()):
        return [f"policy.start: {start}: a result of this experiment; give the experiment that continues it a new name"]
    return []


def absent_functions(config: dict) -> list[str]:
    """Return errors of the user's functions: feedback, figures, and those that replace a registry's word."""
    functions = [("figures", figure) for figure in config["figures"]]
    functions += [(key, function) for function, key in feedback_functions(config).items()]
    for method in config["compare"]:
        settings = of_method(config, method)
        functions += [
            (f"{section}.{key}", word)
            for section, key in function_settings()
            for word in chosen_words(settings[section][key])
        ]
    return [problem for key, function in functions if is_own(function) for problem in absent_function(key, function)]


def function_settings() -> list[tuple[str, str]]:
    """Return (section, key) of each setting of a method that accepts a function of the user."""
    return [
        (section, key)
        for section, section_hint in hints(MethodConfig).items()
        for key, hint in hints(bare(section_hint)).items()
        if any(isinstance(item, Choice) and item.functions for item in metadata_of(hint))
    ]


def absent_function(key: str, function: str) -> list[str]:
    """Return why a function of the user cannot be called, according to the source of its module."""
    module, name = split(function)
    files = own_files(function)
    if not files:
        if module.endswith(".py"):
            return [f"{key}: {module}: no such file{similar(Path(module))}"]
        if installed(module.split(".")[0]):
            return []
        file = Path(f"{module.replace('.', '/')}.py")
        return [
            f"{key}: no module {module}: expected {file} in the working directory, or a package that is installed "
            f"where Snakemake runs{similar(file)}"
        ]
    file = files[-1]
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return [f"{key}: {relative(file)}{line}: not Python ({getattr(error, 'msg', error)})"]
    relative_imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level)
    if module.endswith(".py") and (node := next(relative_imports, None)):
        return [
            f"{key}: {relative(file)}, line {node.lineno}: a relative import, which only modules can have; name the "
            f"module instead of its file, such as package.{file.stem}:{name}"
        ]
    names = defined(tree)
    if name in names or "*" in names:
        return []
    close = difflib.get_close_matches(name, sorted(names), n=1)
    hint = f"did you mean {close[0]}?" if close else f"found there: {', '.join(sorted(names)) or 'nothing'}"
    return [f"{key}: {relative(file)} has no {name}; {hint}"]


def relative(file: Path) -> Path:
    """Return a path relative to the working directory if it is inside, else unchanged."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def defined(tree: ast.Module) -> set[str]:
    """Return the names that a module may define. * means that other names are known only by running it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names | ({"*"} if "__getattr__" in names else set())


def installed(package: str) -> bool:
    """Whether a package can be imported. A folder without __init__.py, which Python also imports, does not count."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def similar(path: Path) -> str:
    """Return a hint at a file with a similar name in the folder of a missing file; empty if there is none."""
    there = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def misspelled_in_profile(
    default: Iterable[str] | None, by_rule: Mapping[str, Iterable[str]], rules: Set[str]
) -> list[str]:
    """Return one line per misspelled resource or rule of a profile. Snakemake and SLURM ignore unknown names."""
    sections = {
        "default-resources": default or (),
        **{f"set-resources: {rule}": names for rule, names in by_rule.items()},
    }
    problems = [
        f"profile: {section}: {name}: unknown resource; did you mean {close[0]}?"
        for section, names in sections.items()
        for name in names
        if name not in RESOURCES and (close := difflib.get_close_matches(name, RESOURCES, n=1, cutoff=0.8))
    ]
    return problems + [
        f"profile: set-resources: {rule}: unknown rule; did you mean {close[0]}?"
        for rule in by_rule
        if not {rule, rule.removesuffix("_shard")} & rules  # rules of shards exist only if a config has shards
        and (close := difflib.get_close_matches(rule, sorted(rules), n=1, cutoff=0.8))
    ]
