# Input files and flags of stages that use feedback, both in the steps of a round and in the evaluation.


def feedback_files(settings):
    """Return the files that a feedback depends on: its models, and files of the user in its settings."""
    named = [model_of(source) for source in feedback_sources(settings)]
    models = dict.fromkeys(manifest_of(model) for model in named if model)
    return [*models, *(word for word in feedback_words(settings) if is_own_file(word))]


def feedback_code(settings):
    """Return a hash of a feedback's other dependencies: a function's module, or a packaged template."""
    if settings["kind"] == "function":
        return own_code(settings["function"])
    if settings["kind"] in COMBINED:
        return " ".join(map(feedback_code, feedback_sources(settings)))
    packaged = [word for word in feedback_words(settings) if not is_own_file(word)]
    files = [path for path in map(find_file, packaged) if path.is_file()]
    return " ".join(sha256_of(path)[:16] for path in files)


def feedback_words(settings):
    """Return words of a feedback's settings that may be files: a judge's template, or the setting named as the kind."""
    if settings["kind"] == "judge":
        return [settings["judge"]["template"]]
    own = settings.get(settings["kind"])
    return own.split() if isinstance(own, str) else []


def is_own_file(name):
    """Whether a name is a file of the user instead of a file of the project."""
    path = Path(name)
    return path.is_file() and not path.resolve().is_relative_to(CLONE / "workflow")


def feedback_gpus(*feedbacks):
    """Return the number of GPUs of a stage that uses these feedbacks: 0 if no model is loaded."""
    sources = [
        source for settings in feedbacks for source in feedback_sources(settings)
    ]
    return int(any(map(model_of, sources)))


def feedback_flags(name, settings):
    """Return flags for a feedback, with manifests for models, and without its noise and a judge's pairs."""
    own = source_settings(settings, inner(ExperimentConfig, "feedback"))
    if "judge" in own:
        own["judge"] = own["judge"] | dict.fromkeys(PLANNED)
    usual = defaults(WeightedSource)
    if settings["kind"] in COMBINED:
        sources = [
            source_settings(source, WeightedSource)
            for source in feedback_sources(settings)
        ]
        own["sources"] = [
            {
                key: value
                for key, value in source.items()
                if value not in (None, usual[key])
            }
            for source in sources
        ]
    return flags({name: own | {"noise": None}})


def source_settings(settings, hint):
    """Return the relevant settings of a feedback or of one of its sources, with the model's manifest."""
    model = model_of(settings)
    # The flags of `program` name the models that may run their own code.
    own = {"model": manifest_of(model) if model else None, "trust_remote_code": None}
    return relevant(settings, hint) | own


def feedback_of(method):
    """Return the feedback that trains a method."""
    return of_method(config, method)["feedback"]


@per_method
def training_feedback_flags(method):
    """Return flags for the feedback that trains a method, without what is drawn at random."""
    return feedback_flags("feedback", feedback_of(method))


def reward_flags(wildcards):
    """Return flags for the feedback that trains a method, including its noise and the pairs of a judge, if any."""
    feedback = feedback_of(wildcards.method)
    words = training_feedback_flags(wildcards)
    random = {}
    if feedback["noise"]["kind"] is not None:
        random["noise"] = feedback["noise"]
    if feedback["kind"] == "judge" and feedback["judge"]["pairs"] != "all":
        judge = relevant(feedback["judge"], Judging)
        random["judge"] = {key: judge.get(key) for key in PLANNED}
    if not random:
        return words
    steps = [wildcards.step] if "step" in wildcards.keys() else STEPS
    streams = [f"round-{wildcards.round}/step-{step}" for step in steps]
    return f"{words} {flags({'feedback': random, 'seed': int(wildcards.seed), 'stream': streams})}"


@per_method
def reward_code(method):
    """Return a hash of the code of the feedback that trains a method."""
    return feedback_code(feedback_of(method))


@per_method
def reward_files(method):
    """Return the files that the feedback that trains a method depends on."""
    return feedback_files(feedback_of(method))


@per_method
def reward_gpus(method):
    """Return the number of GPUs of the feedback that trains a method."""
    return feedback_gpus(feedback_of(method))
