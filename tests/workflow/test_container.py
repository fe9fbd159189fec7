"""`snakemake --sdm apptainer` runs jobs in a container image. A script replaces Apptainer."""

import sys

import pytest

from conftest import Workdir

# Like Apptainer, it starts the command in the working directory with the image's PATH instead of Snakemake's.
APPTAINER = """#!/bin/sh
if [ "$1" = --version ]; then echo "apptainer version 1.3.6"; exit; fi
echo "$@" | head -n 1 >> {calls}
while [ "$1" != bash ]; do shift; done
PATH={image}:/usr/bin:/bin exec "$@"
"""
PYTHON = """#!/bin/sh
echo "$1" >> {programs}
exec {python} "$@"
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put an `apptainer` on PATH that records its arguments and programs in its folder; return the folder."""
    folder = tmp_path / "apptainer"
    (folder / "image").mkdir(parents=True)
    python = PYTHON.format(programs=folder / "programs", python=sys.executable)
    apptainer = APPTAINER.format(calls=folder / "calls", image=folder / "image")
    for path, text in ((folder / "apptainer", apptainer), (folder / "image/python", python)):
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Set PREFLOOP_IMAGE to an empty file."""
    path = tmp_path / "image.sif"
    path.touch()
    monkeypatch.setenv("PREFLOOP_IMAGE", str(path))
    return path


def test_every_job_runs_in_the_image(workdir: Workdir, calls, image, sockets):
    """This includes jobs that would otherwise start from a warm process outside the container."""
    target = "results/tiny/dota/seed-0/round-1/step-1/generations.jsonl"
    done = workdir.run(target, "--sdm", "apptainer", "--apptainer-args=--nv", "--config", "warm_start=true")
    assert done.returncode == 0, done.stdout
    commands = (calls / "calls").read_text().splitlines()
    programs = [path.rpartition("/")[2] for path in (calls / "programs").read_text().splitlines()]
    stages = ["allocate.py", "cluster_prompts.py", "fetch_model.py", "generate.py", "prepare_prompts.py"]
    assert sorted(programs) == stages and len(commands) == len(stages)
    assert all(" --nv " in command and f" {image} bash -c" in command for command in commands)
    assert (workdir.path / target).stat().st_size > 0
    assert list(sockets.iterdir()) == []


def test_profile_can_enable_containers(workdir: Workdir, calls, image):
    """The keys are those in docs/cluster.md."""
    (workdir.path / "profile").mkdir()
    keys = 'software-deployment-method: apptainer\napptainer-args: "--nv"\n'
    (workdir.path / "profile/profile.yaml").write_text(keys)
    done = workdir.run("results/tiny/prompts/train.jsonl", "--workflow-profile", "profile")
    assert done.returncode == 0, done.stdout
    commands = (calls / "calls").read_text().splitlines()
    assert commands
    assert all(" --nv " in command and f" {image} bash -c" in command for command in commands)


def test_missing_image_is_refused_before_any_job(workdir: Workdir, calls, monkeypatch):
    monkeypatch.setenv("PREFLOOP_IMAGE", "missing.sif")
    done = workdir.run("--dry-run", "--sdm", "apptainer")
    assert done.returncode != 0
    assert "--sdm apptainer: missing.sif: no such file, expected an image; build it" in done.stdout
    assert not (calls / "calls").exists()


def test_image_is_ignored_without_apptainer(workdir: Workdir, monkeypatch):
    """Snakemake's plan then has no image."""
    monkeypatch.setenv("PREFLOOP_IMAGE", "missing.sif")
    done = workdir.run("--dry-run")
    assert done.returncode == 0, done.stdout
    assert "containers: ignored" not in done.stdout
