"""What config names on this machine is there: files, model folders, functions. Found before any job, not after hours.

Snakemake reads this at every start, so nothing heavy is imported here and no module of a person's is run.
"""

import ast
import difflib
import gzip
import importlib.util
import zlib
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from pathlib import Path

from prefloop.config import HUB_ID, asked, model_sources, trained_here
from prefloop.fetch import PACKAGE, PACKAGE_FORM, no_model

# What the SLURM plugin reads, and what all of Snakemake knows. Other names pass unless they look like one of these.
RESOURCES = [
    *["slurm_account", "slurm_partition", "slurm_extra", "slurm_cluster", "clusters", "constraint", "qos", "gres"],
    *["gpu", "gpu_model", "nodes", "tasks", "tasks_per_node", "tasks_per_gpu", "cpus_per_task", "cpus_per_gpu", "mpi"],
    *["mem", "mem_mb", "mem_mib", "mem_mb_per_cpu", "disk", "disk_mb", "disk_mib", "runtime", "tmpdir"],
]
LIBRARY = Path(__file__).parent.parent  # where modules are found that come with the project


def absent(config: dict) -> list[str]:
    """A line for everything that config names and that is not there."""
    if not config["compare"]:  # theory alone reads nothing
        return []
    sources = {f"reward_models.{name}": config["reward_models"][name]["source"] for name in trained_here(config)}
    sources |= {"prompts": config["prompts"]["source"]}
    problems = [problem for where, source in sources.items() for problem in absent_prompts(f"{where}.source", source)]
    problems += [problem for source in model_sources(config).values() for problem in absent_model(source)]
    for feedback in asked(config):
        if feedback["kind"] == "function" and feedback["function"]:
            problems += absent_function(feedback["function"])
        template = feedback["judge"]["template"]
        if feedback["kind"] == "judge" and not Path(template).is_file():
            problems.append(f"judge.template: {template}: no such file, expected a judge's template")
    return list(dict.fromkeys(problems))


def absent_prompts(where: str, source: str) -> list[str]:
    """Why a source of prompts cannot be read, as far as its name tells."""
    if source == "packaged" or source.startswith("hub:"):
        return []
    if not source.endswith((".jsonl", ".jsonl.gz")):
        return [f"{where}: {source}: expected packaged, a .jsonl or .jsonl.gz file, or hub:owner/name"]
    return [] if Path(source).is_file() else [f"{where}: {source}: no such file{similar(Path(source))}"]


def lines_up_to(source: str, enough: int) -> int | None:
    """How many lines a file of prompts has, counted up to `enough`; None for what is no file here."""
    if not source.endswith((".jsonl", ".jsonl.gz")) or not Path(source).is_file():
        return None
    try:
        with (gzip.open if source.endswith(".gz") else open)(source, "rb") as lines:
            return sum(1 for _ in islice(lines, enough))
    except (OSError, EOFError, zlib.error):  # the stage that reads it says why
        return None


def absent_model(source: str) -> list[str]:
    """Why a model's source names no package with a checksum, no model folder, and nothing that the hub could have."""
    if source.startswith("pypi:"):
        return [] if PACKAGE.fullmatch(source) else [f"model {source}: expected {PACKAGE_FORM}"]
    folder = Path(source)
    if folder.is_dir():
        problem = no_model(folder)
        return [f"model {source}: {problem}"] if problem else []
    if source.startswith((".", "/", "~")):
        return [f"model {source}: no such folder{similar(folder)}"]
    if HUB_ID.fullmatch(source) or HUB_ID.fullmatch(f"owner/{source}"):
        return []
    return [f"model {source}: expected a local folder, the hub's owner/name, or pypi:package==version/path"]


def absent_function(function: str) -> list[str]:
    """Why `module:function` cannot be called, from the module's source alone where it lies beside Snakefile."""
    where, (module, _, name) = "feedback.function", function.partition(":")
    if module.endswith(".py"):
        return [f"{where}: {function}: a module is named without .py: write {module.removesuffix('.py')}:{name}"]
    parts = module.replace(".", "/")
    places = [Path(f"{parts}.py"), Path(parts, "__init__.py"), LIBRARY / f"{parts}.py"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        if installed(module.split(".")[0]):
            return []
        return [
            f"{where}: no module {module}: expected {parts}.py beside Snakefile, or a package that is installed where "
            f"Snakemake runs{similar(places[0])}"
        ]
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return [f"{where}: {file}{line}: not Python ({getattr(error, 'msg', error)})"]
    names = defined(tree)
    if name in names or "*" in names:
        return []
    close = difflib.get_close_matches(name, sorted(names), n=1)
    hint = f"did you mean {close[0]}?" if close else f"found there: {', '.join(sorted(names)) or 'nothing'}"
    return [f"{where}: {file} has no {name}; {hint}"]


def defined(tree: ast.Module) -> set[str]:
    """The names that a module may have once it is imported, * for those that only running it would tell."""
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
    """Whether a package can be imported here; a folder without code of its own, which Python takes for one, is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def similar(path: Path) -> str:
    """What lies beside a file that is not there, under nearly its name."""
    there = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def misspelt_in_profile(
    default: Iterable[str] | None, by_rule: Mapping[str, Iterable[str]], rules: Set[str]
) -> list[str]:
    """A line for each resource or rule of a profile that looks misspelt: Snakemake and SLURM pass over such a name."""
    places = {
        "default-resources": default or (),
        **{f"set-resources: {rule}": names for rule, names in by_rule.items()},
    }
    problems = [
        f"profile: {place}: {name}: unknown resource; did you mean {close[0]}?"
        for place, names in places.items()
        for name in names
        if name not in RESOURCES and (close := difflib.get_close_matches(name, RESOURCES, n=1, cutoff=0.8))
    ]
    return problems + [
        f"profile: set-resources: {rule}: unknown rule; did you mean {close[0]}?"
        for rule in by_rule
        if rule not in rules and (close := difflib.get_close_matches(rule, sorted(rules), n=1, cutoff=0.8))
    ]
