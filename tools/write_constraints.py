"""Print the versions of all packages that environment.yml and tests/requirements.txt need, with dependencies."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def direct() -> list[str]:
    """The direct requirements, as `name==version`."""
    (pip,) = [part["pip"] for part in environment() if isinstance(part, dict)]
    lines = (ROOT / "tests/requirements.txt").read_text().splitlines()
    return [*pip, *(line for line in lines if line and not line.startswith("#"))]


def environment() -> list:
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def closure(requirements: list[str]) -> dict[str, str]:
    """Names and versions of the installed packages that requirements need, including dependencies."""
    found, queue = {}, [Requirement(line) for line in requirements]
    while queue:
        wanted = queue.pop()
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key in found or wanted.name == "pip":  # every environment has its own pip
                continue
            try:
                package = distribution(wanted.name)
            except PackageNotFoundError:  # libraries for accelerators, which only other builds of torch need
                continue
            found[key] = re.sub(r"\+.*", "", package.version)
            needed = map(Requirement, package.requires or [])
            queue += [need for need in needed if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name: version for (name, _), version in found.items()}


if __name__ == "__main__":
    print("# Every package of make's .venv on Linux with Python 3.11; written by `make constraints`, used by pip's -c.")
    print("\n".join(f"{name}=={version}" for name, version in sorted(closure(direct()).items())))
