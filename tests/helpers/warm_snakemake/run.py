"""Run Snakemake in a fork of `serve.py`, as `python -m snakemake` does in a new process."""

import runpy
import sys
from pathlib import Path

import snakemake

if __name__ == "__main__":
    # The fork has imported modules of this clone. The Snakefile may belong to another one.
    for name in [name for name in sys.modules if name.split(".")[0] == "prefloop"]:
        del sys.modules[name]
    sys.path[0] = str(Path.cwd())
    sys.argv[0] = f"{snakemake.__path__[0]}/__main__.py"
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
