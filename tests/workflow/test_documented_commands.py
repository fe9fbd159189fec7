"""Every command of Snakemake that a page names is one that Snakemake plans, in a folder where nothing was made yet."""

import pytest
import yaml

from documented import ROOT, commands_of, dry_run, project_in, written

TABLE = yaml.safe_load((ROOT / "tests/documented_commands.yaml").read_text(encoding="utf-8"))
OVERRIDES = commands_of(ROOT / "docs/config.md")  # planned, and looked into, by test_overrides.py
COMMANDS = [c for c in written() if c.startswith("snakemake ") and c not in TABLE and c not in OVERRIDES]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_planned(tmp_path, command):
    dry_run(project_in(tmp_path), command)
