"""Metrics, losses, allocations, β rules, rewards and figures of the user work from files in another folder."""

import re

import pytest

from conftest import Workdir
from prefloop.core.jsonl import read_rows
from prefloop.models.policies import read_policy

FUNCTIONS = {
    "metric": "def longer(pairs, rng):\n    return pairs['reward_chosen'] + pairs['reward_rejected']\n",
    "allocation": "import numpy as np\n\ndef first(arms, budget, rng, settings):\n"
    "    return np.eye(1, len(arms.score), dtype=int)[0] * budget\n",
    "loss": "def linear(beta, margin):\n    return -beta * margin\n",
    "beta_rule": "from prefloop.methods.beta_rules import Constant\n\nclass Halved(Constant):\n"
    "    rule = 'halved'\n\n    def __init__(self, settings, round_index):\n"
    "        super().__init__(settings, round_index)\n        self.beta = settings.beta / 2\n",
    "figure": "import matplotlib.pyplot as plt\nimport pandas as pd\n\ndef rounds(experiment):\n"
    "    picture, _ = plt.subplots()\n    data = pd.DataFrame({'round': range(experiment.rounds)})\n"
    "    return picture, data, 'The rounds.'\n",
    "reward": "def length(prompts, responses):\n    return [len(response) for response in responses]\n",
}
# The first stage that a change of each function reruns.
STAGES = {"metric": "update_arms", "allocation": "allocate", "loss": "train", "beta_rule": "train"}
STAGES |= {"reward": "reward", "figure": "plot_rounds"}
ORDER = ["prepare_prompts", "cluster_prompts", "allocate", "generate", "reward", "update_arms", "train", "plot_rounds"]
POLICY = "results/tiny/dota/seed-0/round-1/policy.pt"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model_folders) -> Workdir:
    """Run one round of two steps with functions from a folder outside the working directory."""
    directory = Workdir(tmp_path_factory.mktemp("run"), model_folders["llama"])
    own = tmp_path_factory.mktemp("own")
    for name, text in FUNCTIONS.items():
        (own / f"{name}.py").write_text(text)
    directory.own = own
    directory.configure(
        compare=["dota"],
        rounds=1,
        methods={
            "dota": {
                "bandit": {"metric": f"{own}/metric.py:longer", "allocation": f"{own}/allocation.py:first"},
                "pairs": {"metric": f"{own}/metric.py:longer"},
                "train": {"loss": f"{own}/loss.py:linear", "beta_rule": f"{own}/beta_rule.py:Halved"},
            }
        },
        feedback={"function": f"{own}/reward.py:length"},
        figures=[f"{own}/figure.py:rounds"],
        tables=[],
    )
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


def test_own_functions_are_used(ran):
    run = ran.path / "results/tiny/dota/seed-0/round-1"
    assert {row["cluster"] for row in read_rows(run / "step-2/prompts.jsonl")} == {0}
    pairs = read_rows(run / "pairs.jsonl")
    assert [row["score"] for row in pairs] == sorted((row["score"] for row in pairs), reverse=True)
    assert all(row["metric"].endswith("metric.py:longer") for row in pairs)
    assert all(row["reward_chosen"] > row["reward_rejected"] for row in pairs)
    first = read_rows(run / "training.jsonl")[0]
    assert first["loss"] == pytest.approx(0, abs=1e-6), "the linear loss is 0 at margin 0"
    assert first["beta"] == pytest.approx(0.05)
    assert read_policy(ran.path / POLICY)["beta_state"]["rule"] == "halved"
    assert (ran.path / "results/tiny/figures/rounds.rst").read_text().startswith("The rounds.")
    assert (ran.path / "results/tiny/figures/rounds.pdf").stat().st_size > 100


@pytest.mark.parametrize("name", FUNCTIONS)
def test_editing_a_function_reruns_only_its_stages(ran, name):
    path = ran.own / f"{name}.py"
    text = path.read_text()
    try:
        path.write_text(f'"""Edited."""\n{text}# edited\n')
        assert ran.jobs() == set()
        path.write_text(f"EDITED = 1\n{text}")
        listed = ran.run("--dry-run", "--printshellcmds").stdout
        # Rules that share a cluster job are indented.
        job = re.compile(r"^( *)rule (\w+):\n(?:\1    .*\n)*?\1    reason: Params have changed", re.MULTILINE)
        changed = {rule for _, rule in job.findall(listed)}
        assert STAGES[name] in changed
        assert min(map(ORDER.index, changed & set(ORDER))) == ORDER.index(STAGES[name])
    finally:
        path.write_text(text)
