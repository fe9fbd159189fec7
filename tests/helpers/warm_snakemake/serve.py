"""The process from which `snakemake_runs.run_snakemake` forks Snakemake.

It imports Snakemake, its plugins and the packages that rules and configs need. It imports no rule or config of the
project, because clones have their own versions of them.
"""

from importlib import import_module
from pathlib import Path

from prefloop.core.forked_program import serve_programs

SCRIPTS = Path(__file__).parents[3] / "workflow/scripts"
PACKAGES = (
    "snakemake.cli",
    "snakemake.profiles",
    "snakemake.report.html_reporter",
    "snakemake.storage",
    "snakemake_executor_plugin_slurm",
    "smart_open",
    "pydantic.dataclasses",
)


def import_packages() -> None:
    """Import packages. A missing one ends this process, and its client raises an error."""
    for name in PACKAGES:
        import_module(name)


if __name__ == "__main__":
    serve_programs(import_packages, SCRIPTS)
