"""Checks from source code that reward functions of the user can be called, before any job starts.

Snakemake imports this module at every start, so it imports nothing heavy and runs no code of the user.
"""

import ast
from inspect import Parameter

from prefloop.config.resolve import feedback_functions
from prefloop.config.source_names import configured_sources
from prefloop.core.own_functions import is_own, own_files, split
from prefloop.core.reward_parameters import plan_call, unknown_columns


def uncallable_rewards(config: dict) -> list[str]:
    """Return errors of reward functions with parameters for which a set of prompts has no column."""
    kept = {"prompts.keep": config["prompts"]["keep"]}
    if configured_sources(config["evaluation"]["prompts"]):
        kept["evaluation.prompts.keep"] = config["evaluation"]["prompts"]["keep"]
    return [
        f"{key}: {split(function)[1]} {problem}"
        for function, key in feedback_functions(config).items()
        if is_own(function) and (problem := problem_of(function, kept))
    ]


def problem_of(function: str, kept: dict[str, list[str]]) -> str:
    """Return why a reward function cannot be called with the columns that `kept` lists per setting; empty if it can."""
    parameters = parameters_in_source(function)
    if parameters is None:
        return ""
    try:
        call = plan_call(parameters)
    except ValueError as error:
        return str(error)
    return next((problem for key, names in kept.items() if (problem := unknown_columns(call, names, key))), "")


def parameters_in_source(function: str) -> list[Parameter] | None:
    """Return the parameters of a user's function; None if its file does not show them (a class, or a decorator)."""
    files = own_files(function)
    if not files:
        return None
    try:
        tree = ast.parse(files[-1].read_bytes())
    except (SyntaxError, ValueError):
        return None
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    definitions = [node for node in tree.body if isinstance(node, kinds) and node.name == split(function)[1]]
    if not definitions or definitions[-1].decorator_list:
        return None
    arguments = definitions[-1].args
    by_position = [*arguments.posonlyargs, *arguments.args]
    first_optional = len(by_position) - len(arguments.defaults)
    parameters = [
        Parameter(
            item.arg,
            Parameter.POSITIONAL_ONLY if i < len(arguments.posonlyargs) else Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if i < first_optional else None,
        )
        for i, item in enumerate(by_position)
    ]
    parameters += [Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL)] if arguments.vararg else []
    parameters += [
        Parameter(item.arg, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is None else None)
        for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return parameters + ([Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD)] if arguments.kwarg else [])
