"""A run with programs forked from the warm process gives the same files as a run with new processes."""

from pathlib import Path

import pytest

from conftest import Workdir

TARGET = "results/tiny/uniform/seed-0/round-1/policy.pt"
# Files with times, folders or the setting itself.
MEASURED = (".cost.json", ".log", ".status.json", "training_speed.csv", "plan.json", "adapter_config.json")
MEASURED += ("settings.json",)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of results/ without measured times, logs and paths of the working directory."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(MEASURED)}


@pytest.fixture
def runs(tmp_path, sockets, model_folders) -> dict[str, Path]:
    """Run with and without warm_start; return the working directories. `sockets` has the sockets."""
    folders = {}
    for warm in ("true", "false"):
        folder = tmp_path / f"run-{warm}"
        folder.mkdir()
        done = Workdir(folder, model_folders["llama"]).run(TARGET, "--config", f"warm_start={warm}")
        assert done.returncode == 0, done.stdout
        folders[warm] = folder
    return folders


def test_warm_start_gives_the_same_files(runs, sockets):
    assert contents(runs["true"]) == contents(runs["false"])
    logs = [path for path in (runs["true"] / "results/logs").rglob("*.log")]
    assert logs and not [path for path in logs if "debug:" in path.read_text()]
    assert list(sockets.glob("*/lock"))


def test_changing_warm_start_reruns_nothing(finished):
    assert finished.jobs("--config", "warm_start=false") == set()


def test_programs_are_forked_except_vllm_and_torchrun(workdir):
    """torchrun runs a training with several processes."""

    def commands(*settings: str) -> str:
        done = workdir.run(TARGET, "--dry-run", "--printshellcmds", "--config", *settings)
        assert done.returncode == 0, done.stdout
        return done.stdout

    usual = commands()
    programs = (
        "prepare_prompts",
        "cluster_prompts",
        "allocate",
        "generate",
        "reward",
        "logprobs",
        "select_pairs",
        "train",
    )
    for program in programs:
        assert f"_start.py {workdir.clone}/workflow/scripts/{program}.py" in usual
    assert "_start.py" not in commands("warm_start=false")
    other = commands("generation={engine: vllm}", "train={processes: 2}")
    assert f"python {workdir.clone}/workflow/scripts/generate.py" in other
    assert f"--standalone {workdir.clone}/workflow/scripts/train.py" in other
