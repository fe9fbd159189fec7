"""The plan of a sweep has one run per combination of values and runs shared stages once."""


def job_counts(workdir) -> dict[str, int]:
    """Return the number of jobs per rule in a dry run."""
    done = workdir.run("--dry-run")
    assert done.returncode == 0, done.stdout
    table = done.stdout.split("Job stats:")[1].split("total")[0]
    return {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[3:] if line.strip()}


def test_sweep_shares_stages(workdir):
    """dota with two β and uniform have two rounds of two steps. Another clusters.k gives uniform its own clusters."""
    workdir.configure(sft={"enabled": True, "lora": {"r": 4}, "dtype": "float32"})
    methods = {"dota": {"sweep": {"train.beta": [0.05, 0.2]}}, "uniform": {"clusters": {"k": 2}}}
    workdir.configure(methods=methods, figures=["quality"], tables=["results"])
    counts = job_counts(workdir)
    once = ("fetch_model", "prepare_prompts", "fine_tune", "cluster_prompts", "cluster_prompts_of_method")
    assert {name: counts[name] for name in once} == dict.fromkeys(once, 1)
    assert counts["train"] == 6 and counts["sample"] == counts["compare_samples"] == 7, "the initial policy once"
    assert counts["generate"] == counts["reward"] == counts["logprobs"] == 12
