"""Settings that have no effect: every compared method sets its own value, or no variant of a sweep uses them."""

import json
from collections.abc import Iterator
from typing import Any

from prefloop.config.declarations import defaults, hints
from prefloop.config.output_flags import section_of
from prefloop.config.resolve import REPLACED
from prefloop.config.settings import ExperimentConfig, MethodConfig
from prefloop.config.sweeps import sweep_places
from prefloop.core.errors import short_repr

OVERRIDDEN = ("bandit", "reference", "generation", "acquisition", "pairs", "train")  # read for methods
ALSO_READ = ("generation.engine", "generation.vllm", "generation.vllm_build")  # by the evaluation of all methods


def overridden_settings(config: dict) -> Iterator[str]:
    """Yield one line per setting of a section that has no effect, because every compared method sets its own value."""
    methods = config["compare"]
    for section in OVERRIDDEN if methods else ():
        for path, value in settings_with_paths(config[section]):
            key = ".".join([section, *path])
            if f"{key}.".startswith(tuple(f"{read}." for read in ALSO_READ)):
                continue
            own = {method: setting_at(config["methods"][method].get(section, {}), path, value) for method in methods}
            if value != setting_at(defaults(ExperimentConfig)[section], path, value) and value not in own.values():
                remedy = f"add it to sweep.{key}" if key in config["sweep"] else f"set methods.{methods[0]}.{key}"
                several = [f"{method}: {short_repr(found)}" for method, found in own.items()]
                named = ", ".join([*several[:3], *(["…"] if len(several) > 3 else [])])
                yield (
                    f"{key}: {short_repr(value)} has no effect, because every compared method sets its own ({named}); "
                    f"{remedy}, or compare another method"
                )


def equal_variants(config: dict) -> Iterator[str]:
    """Yield one line per variant of a sweep whose settings are those of an earlier one, apart from irrelevant ones."""
    first: dict[str, str] = {}
    for place in sweep_places(config):
        method, keys = place["method"], place["point"]
        if not keys:  # not a variant
            continue
        settings = {section: section_of(config, section, method) for section in hints(MethodConfig)}
        other = first.setdefault(json.dumps([place["swept"], settings], sort_keys=True), method)
        if other != method:
            yield f"methods.{method}: the same method as {other}, because it does not use {' or '.join(keys)}"


def settings_with_paths(settings: dict) -> Iterator[tuple[list[str], Any]]:
    """Yield every setting of a section with its path; a mapping that methods replace is one setting."""
    for key, value in settings.items():
        if isinstance(value, dict) and key not in REPLACED:
            yield from (([key, *path], inner) for path, inner in settings_with_paths(value))
        else:
            yield [key], value


def setting_at(settings: dict, path: list[str], otherwise: Any) -> Any:
    """Return the setting at a path, or `otherwise` if it is not set."""
    for key in path:
        if not isinstance(settings, dict) or key not in settings:
            return otherwise
        settings = settings[key]
    return settings
