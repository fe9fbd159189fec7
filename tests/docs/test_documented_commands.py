"""Snakemake can plan every command of its that a page names, in a folder without results."""

import pytest

from documented import ROOT, commands_of, dry_run, project_in, written

# A dry-run of these is none, or needs an image.
PLANS_NOTHING = {"--report", "--conda-create-envs-only", "--version", "--sdm"}
OVERRIDES = commands_of(ROOT / "docs/config.md")  # planned, and looked into, by test_overrides.py
COMMANDS = [
    command
    for command in written()
    if command.startswith("snakemake ") and not PLANS_NOTHING.intersection(command.split()) and command not in OVERRIDES
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_planned(tmp_path, command):
    dry_run(project_in(tmp_path), command)
