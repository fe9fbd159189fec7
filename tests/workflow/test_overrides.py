"""--config on the command line: the commands of docs/config.md, planned on the embedded default."""

import re

import pytest

from documented import ROOT, commands_of, dry_run, project_in

# By the first key that a command names: what must stand in some call of a program, its neighbors' settings included.
EXPECTED = {
    "seeds": {"train": ["--seed 2 "], "generate": ["--temperature 0.9 ", "results/default/"]},
    "rounds": {"train": ["--round 5 "], "allocate": ["--budget 24 ", "--alpha 0.1 "]},
    "policy": {"fetch_model": ["--source Qwen/Qwen3-0.6B "], "train": ["--lora.r 16 "]},
    "feedback": {
        "reward": ["--feedback.function my_rewards:helpful "],
        "compare_samples": ["prefloop.feedback.lexicons:afinn "],
    },
    "compare": {"allocate": ["--allocation top_k ", "--alpha 1.0 ", "--budget 16 ", "--allocation proportional "]},
}
LISTED = {re.search(r"--config '?(\w+)=", c)[1]: c for c in commands_of(ROOT / "docs/config.md") if "--config " in c}


def test_every_listed_override_is_planned_here():
    assert LISTED.keys() == EXPECTED.keys()


@pytest.mark.parametrize("key", EXPECTED)
def test_an_override_changes_what_it_names_and_keeps_what_stands_beside_it(tmp_path, key):
    calls: dict[str, list[str]] = {}
    for call in dry_run(project_in(tmp_path), LISTED[key]).split("Shell command:")[1:]:  # some have several lines
        if program := re.search(r"workflow/scripts/(?!_)(\w+)\.py", call):
            calls.setdefault(program[1], []).append(call)
    for program, expected in EXPECTED[key].items():
        for words in expected:
            assert any(words in call for call in calls[program]), (words, calls[program][:2])
