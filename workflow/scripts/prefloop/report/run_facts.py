"""Facts that all figures and tables of an experiment share, stated once per page."""

from prefloop.config.experiment import Experiment
from prefloop.evaluation.results import spent
from prefloop.models.sources import public_name
from prefloop.report.captions import count_of
from prefloop.report.equal_costs import equal_cost_facts
from prefloop.report.feedback_labels import feedback_label, trained_by_evaluator, trained_by_named
from prefloop.report.truncation_facts import truncation_facts


def run_facts(experiment: Experiment, prompts: int, evaluated: bool = True) -> list[str]:
    """Size, evaluator, cost and limits of an experiment, as sentences.

    Args:
        experiment: The runs.
        prompts: Number of eval prompts.
        evaluated: Whether there are evaluation samples.
    """
    sizes = [(len(experiment.seeds), "seed"), (experiment.rounds, "round"), (experiment.steps, "step")]
    seeds, rounds, steps = (count_of(count, noun) for count, noun in sizes)
    return [
        f"{seeds} per method, {rounds} of {steps}, {prompts_and_samples(experiment, prompts)}.",
        *start_facts(experiment),
        *evaluator_facts(experiment),
        f"Cost of alignment per run, without evaluation, in TFLOPs: {cost_per_run(experiment)}.",
        *equal_cost_facts(experiment),
        *truncation_facts(experiment, evaluated),
        *seed_facts(experiment),
    ]


def prompts_and_samples(experiment: Experiment, prompts: int) -> str:
    """`60 eval prompts`, or `60 eval prompts with 4 samples each`."""
    samples = f" with {experiment.samples} samples each" if experiment.samples > 1 else ""
    return f"{count_of(prompts, 'eval prompt')}{samples}"


def start_facts(experiment: Experiment) -> list[str]:
    """A sentence on the policy of another run from which all runs start, if there is one."""
    if experiment.start is None:
        return []
    return [f"Every run starts from {public_name(experiment.start)}, whose own cost is not counted."]


def evaluator_facts(experiment: Experiment) -> list[str]:
    """Sentences on the evaluators, with a warning if one also trained methods."""
    facts = [f"Evaluator: {feedback_label(experiment.evaluator)}."]
    trained = trained_by_evaluator(experiment)
    if len(trained) == len(experiment.methods):
        facts.append("The evaluator also trained the policies: its numbers show what was optimized, not quality.")
    elif trained:
        facts.append(
            f"The evaluator also trained {', '.join(trained)}: for these its numbers show what was optimized, and the "
            "comparison with the other methods is not fair."
        )
    return facts + named_evaluator_facts(experiment)


def named_evaluator_facts(experiment: Experiment) -> list[str]:
    """Sentences on the named evaluators, with a warning for each that also trained methods."""
    named = zip(experiment.evaluators, experiment.evaluated_by, strict=True)
    facts = [f"Evaluator {name}: {feedback_label(identity)}." for name, identity in named]
    for name, methods in trained_by_named(experiment).items():
        facts.append(f"Evaluator {name} also trained {', '.join(methods)}: its numbers show what was optimized.")
    return facts


def cost_per_run(experiment: Experiment) -> str:
    """Mean cost of a run of each method, in TFLOPs."""
    ends = spent(experiment)
    flops = ends[ends["round"] == experiment.rounds].set_index("method")["flops"].to_dict()
    return ", ".join(f"{experiment.label(method)} {flops[method] / 1e12:,.3g}" for method in experiment.methods)


def seed_facts(experiment: Experiment) -> list[str]:
    """A warning if there are few seeds."""
    if len(experiment.seeds) < 3:
        return ["With fewer than three seeds, differences between methods are not evidence that one is better."]
    return []
