# Runs generate, logprobs and reward of all steps of a round in one job each, which loads its models only once. Included
# if join_steps is true. Applies to methods whose allocation ignores the arms: their prompts do not depend on responses.
JOINED = [method for method in METHODS if not looks_at_arms(method)]
# The choice of responses that get a label depends on the labels of earlier steps.
JOINED_LOGPROBS = [method for method in JOINED if not acquires(method)]
# A sum or an ensemble loads its models one after another in each step, so joining steps saves nothing.
JOINED_REWARD = [
    method
    for method in JOINED_LOGPROBS
    if model_of(of_method(config, method)["feedback"])
]
ROUND = "<results>/{method}/seed-{seed}/round-{round}"
ROUND_LOG = "<logs>/{method}/seed-{seed}/round-{round}"


def every_step_of_round(file):
    """Return a file of every step of a round."""
    return collect(f"{ROUND}/step-{{step}}/{file}", step=STEPS, allow_missing=True)


if JOINED:

    use rule generate as generate_round with:
        input:
            prompts=every_step_of_round("prompts.jsonl"),
            chat=rules.prepare_prompts.output.chat,
            model=BASE,
            sampling_models=lambda wildcards: list(sampling_models(wildcards).values()),
        output:
            generations=every_step_of_round("generations.jsonl"),
            cost=every_step_of_round("generate.cost.json"),
        log:
            f"{ROUND_LOG}/generate.log",
        wildcard_constraints:
            method="|".join(JOINED),
        params:
            stream=[f"round-{{round}}/step-{step}" for step in STEPS],

    ruleorder: generate_round > generate


if JOINED_LOGPROBS:

    use rule logprobs as logprobs_round with:
        input:
            prompts=every_step_of_round("prompts.jsonl"),
            generations=every_step_of_round("generations.jsonl"),
            chat=rules.prepare_prompts.output.chat,
            model=BASE,
            policy=policy_before,
            reference=reference_of,
        output:
            logprobs=every_step_of_round("logprobs.jsonl"),
            cost=every_step_of_round("logprobs.cost.json"),
        log:
            f"{ROUND_LOG}/logprobs.log",
        wildcard_constraints:
            method="|".join(JOINED_LOGPROBS),

    ruleorder: logprobs_round > logprobs


if JOINED_REWARD:

    use rule reward as reward_round with:
        input:
            prompts=every_step_of_round("prompts.jsonl"),
            generations=every_step_of_round("generations.jsonl"),
            chat=rules.prepare_prompts.output.chat,
            feedback=reward_files,
        output:
            rewards=every_step_of_round("rewards.jsonl"),
            cost=every_step_of_round("reward.cost.json"),
        log:
            f"{ROUND_LOG}/reward.log",
        wildcard_constraints:
            method="|".join(JOINED_REWARD),

    ruleorder: reward_round > reward
