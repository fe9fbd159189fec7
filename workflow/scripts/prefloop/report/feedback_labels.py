"""Names of feedbacks for captions and pages."""

import json

from prefloop.config.experiment import Experiment


def feedback_label(identity: str) -> str:
    """The name of a feedback in captions, such as `the reward model a/b`, from its `feedback_identity`."""
    if not identity:
        return "the evaluator"
    feedback = json.loads(identity)
    kind, name = feedback["kind"], feedback["name"]
    if kind == "dataset":
        return "the data set's own preference"
    if kind == "sum":
        return f"the weighted sum {name}"
    if kind == "ensemble":
        return f"the ensemble of {name}"
    if kind == "judge":
        return f"the judge {name} with {feedback['template']}"
    return f"the {kind.replace('_', ' ')} {name}" if name else f"the feedback {kind}"


def training_feedback_labels(experiment: Experiment) -> list[str]:
    """The labels of all distinct feedbacks that trained methods."""
    return [
        feedback_label(identity)
        for identity in {digest(identity): identity for identity in experiment.trained_by}.values()
    ]


def trained_by_evaluator(experiment: Experiment) -> list[str]:
    """The labels of the methods whose training feedback is the evaluator."""
    return trained_by_feedback(experiment, experiment.evaluator)


def trained_by_feedback(experiment: Experiment, identity: str) -> list[str]:
    """The labels of the methods whose training feedback is the one with this identity."""
    feedbacks = zip(experiment.methods, experiment.trained_by, strict=False)
    return [experiment.label(method) for method, feedback in feedbacks if digest(feedback) == digest(identity)]


def trained_by_named(experiment: Experiment) -> dict[str, list[str]]:
    """For each named evaluator that trained methods, their labels."""
    trained = {
        name: trained_by_feedback(experiment, identity)
        for name, identity in zip(experiment.evaluators, experiment.evaluated_by, strict=True)
    }
    return {name: methods for name, methods in trained.items() if methods}


def evaluators_sentence(experiment: Experiment) -> str:
    """A sentence that names each evaluator's feedback, for captions; empty without named evaluators."""
    if not experiment.evaluators:
        return ""
    named = zip(experiment.evaluators, experiment.evaluated_by, strict=True)
    others = ", ".join(f"{name} is {feedback_label(identity)}" for name, identity in named)
    return f"The evaluator is {feedback_label(experiment.evaluator)}; {others}."


def digest(identity: str) -> str:
    """The digest of a feedback, which identifies it; empty for an unknown feedback."""
    return json.loads(identity)["digest"] if identity else ""
