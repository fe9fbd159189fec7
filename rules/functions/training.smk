# How a training is started: inputs.smk and rounds.smk have some.
from prefloop.launching import launch

# How a training runs. What comes out is the same, so that changing one of these runs nothing again: they reach the
# program by a params function of threads and resources, which Snakemake does not compare with the last run's.
RUNNING = ["processes", "sharding", "gradient_checkpointing", "save_every"]


def training_of(section, wildcards):
    """The settings of a training: of a section, or of one of the reward models."""
    if section == "reward_models":
        return config[section][wildcards.name]
    return settings_of(section, wildcards.get("method"))


def processes_of(section, wildcards, resources):
    """How many processes train: as many as config says, or one a GPU."""
    return training_of(section, wildcards)["processes"] or max(
        1, int(resources.get("gpu", 1))
    )


def launch_of(section):
    """How a training starts, by the processes and nodes that it has."""

    def of_job(wildcards, resources):
        processes = processes_of(section, wildcards, resources)
        return launch(processes, int(resources.get("nodes", 1)))

    return of_job


def running_of(section, run):
    """How a training runs, as flags: each process's threads, shards, saved states, and trackers told of `run`."""

    def of_job(wildcards, threads, resources):
        settings = training_of(section, wildcards)
        processes = processes_of(section, wildcards, resources)
        nodes = int(resources.get("nodes", 1))
        tracking = config["tracking"] | {
            "run": f"{config['name']}/{run}".format(**dict(wildcards.items())),
            "folder": f"{RESULTS}/tracking",
        }
        return flags(
            {key: settings[key] for key in RUNNING if key != "processes"}
            | {"threads": max(1, threads * nodes // processes)}
            | {"tracking": tracking if tracking["trackers"] else {}}
        )

    return of_job
