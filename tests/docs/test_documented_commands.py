"""Snakemake can plan every Snakemake command in the documentation, in a folder without results."""

import pytest

from documented import ROOT, commands_of, dry_run, project_in, written

# With these flags a dry-run plans nothing, or needs an image.
PLANS_NOTHING = {"--report", "--conda-create-envs-only", "--version", "--sdm"}
OVERRIDES = commands_of(ROOT / "docs/config.md")  # test_overrides.py plans these and checks their effect
COMMANDS = [
    command
    for command in written()
    if command.startswith("snakemake ") and not PLANS_NOTHING.intersection(command.split()) and command not in OVERRIDES
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_planned(tmp_path, command):
    dry_run(project_in(tmp_path), command)
