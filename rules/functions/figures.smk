# What figures and tables read and write.
from dataclasses import asdict

from prefloop import questions
from prefloop.config import target_measure


def experiment_flags(**more):
    """What a program needs that reads a whole experiment, and flags of its own."""
    text = flags(asdict(EXPERIMENT) | more)
    # A function, as Snakemake would take braces in a plain text for wildcards.
    return lambda wildcards: text


def verdicts_of(contests):
    """The verdict files of contests."""
    return [f"{RESULTS}/{contest.verdicts}" for contest in contests]


def figures_job(wildcards):
    """The cluster job that figures and tables share. On one machine none: planning a group of so many inputs is slow."""
    return None if workflow.local_exec else "figures"


def table(name):
    """The files of one table, its CSV in the report with the caption that its program writes from the rows."""
    return {
        "csv": report(
            f"<results>/tables/{name}.csv",
            caption=Path(RESULTS, f"tables/{name}.rst").absolute(),
            category=(questions.TABLES | questions.OF_JUDGES)[name],
            labels={"table": name},
        ),
        "tex": f"<results>/tables/{name}.tex",
        "caption": f"<results>/tables/{name}.rst",
    }


def every_round(file):
    """A file of every round of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
    )


def every_step(file):
    """A file of every step of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/step-{{step}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
        step=STEPS,
    )


def picture(name):
    """The files of one figure, its PNG in the report with the caption that its program writes from the rows."""
    return {
        "pdf": f"<results>/figures/{name}.pdf",
        "svg": f"<results>/figures/{name}.svg",
        "csv": f"<results>/figures/{name}.csv",
        "caption": f"<results>/figures/{name}.rst",
        "png": report(
            f"<results>/figures/{name}.png",
            caption=Path(RESULTS, f"figures/{name}.rst").absolute(),
            category=questions.FIGURES[name],
            labels={"figure": name},
        ),
    }
