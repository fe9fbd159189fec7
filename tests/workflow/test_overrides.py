"""The commands with --config in docs/config.md give the right plans with the default config."""

import re

import pytest

from documented import ROOT, commands_of, dry_run, project_in

# Words that calls of programs must contain, by the first key in the command. Some belong to neighboring settings.
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


def test_every_documented_override_is_tested():
    assert LISTED.keys() == EXPECTED.keys()


@pytest.mark.parametrize("key", EXPECTED)
def test_override_changes_only_the_named_settings(tmp_path, key):
    calls: dict[str, list[str]] = {}
    for call in dry_run(project_in(tmp_path), LISTED[key]).split("Shell command:")[1:]:  # some calls have several lines
        if program := re.search(r"workflow/scripts/(?!_)(\w+)\.py", call):
            calls.setdefault(program[1], []).append(call)
    for program, expected in EXPECTED[key].items():
        for words in expected:
            assert any(words in call for call in calls[program]), (words, calls[program][:2])


def test_functions_of_the_user_get_the_beta_of_the_round(tmp_path):
    """Metrics that ignore β have no such flag, so a change of β does not run them again."""
    project = project_in(tmp_path)
    (project / "metrics.py").write_text("def weight(pairs, rng):\n    return pairs['beta'] * pairs['reward_chosen']\n")
    common = "compare: [dota]\nrounds: 2\ntrain: {beta_rule: schedule, beta_schedule: {values: [0.5, 0.2]}}\n"
    betas = {}
    for name, metric in {"own": "metrics:weight", "gap": "reward_gap"}.items():
        (project / f"{name}.yaml").write_text(f'{common}methods: {{dota: {{pairs: {{metric: "{metric}"}}}}}}\n')
        plan = dry_run(project, f"snakemake --cores 1 --configfile mine.yaml {name}.yaml")
        calls = [line for line in plan.splitlines() if "select_pairs.py" in line]
        betas[name] = {re.search(r"--round (\d)", c)[1]: re.findall(r"--beta (\S+)", c) for c in calls}
    assert betas == {"own": {"1": ["0.5"], "2": ["0.2"]}, "gap": {"1": [], "2": []}}


def test_later_config_replaces_a_sum_of_losses(tmp_path):
    """Snakemake alone would add the losses of both files."""
    project = project_in(tmp_path)
    (project / "more.yaml").write_text("train: {loss: {dpo: 1.0, nll: 0.2}, beta: 0.2}\n")
    (project / "other.yaml").write_text("train: {loss: {ipo: 1.0}}\n")
    files = "--configfile mine.yaml more.yaml other.yaml"
    for words, loss in [
        (files, '{"ipo": 1.0}'),
        (f"{files} --config 'train={{loss: {{sppo: 2.0}}}}'", '{"sppo": 2.0}'),
    ]:
        plan = dry_run(project, f"snakemake --cores 1 {words}")
        assert f"--loss '{loss}'" in plan and "--beta 0.2 " in plan and "nll" not in plan
