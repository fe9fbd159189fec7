# What is looked at once all rules are known, and written down as a run starts. Included last.
from prefloop.plan import FILE as PLAN
from prefloop.plan import write_plan
from prefloop.presence import misspelt_in_profile

if problems := misspelt_in_profile(
    workflow.resource_settings.default_resources,
    workflow.resource_settings.overwrite_resources,
    {rule.name for rule in workflow.rules},
):
    raise WorkflowError("\n".join(problems))


# For `make status`. A dry-run does not come here.
onstart:
    write_plan(Path(LOGS, PLAN), EXPERIMENT, workflow.dag, config["shards"])
