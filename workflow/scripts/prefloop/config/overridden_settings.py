"""Settings that have no effect, because every compared method sets its own value."""

from collections.abc import Iterator
from typing import Any

from prefloop.config.declarations import defaults
from prefloop.config.resolve import REPLACED
from prefloop.config.settings import ExperimentConfig
from prefloop.core.errors import short_repr

OVERRIDDEN = ("bandit", "reference", "generation", "acquisition", "pairs", "train")  # read only for methods


def overridden_settings(config: dict) -> Iterator[str]:
    """Yield one line per setting of a section that has no effect, because every compared method sets its own value."""
    methods = config["compare"]
    for section in OVERRIDDEN if methods else ():
        for path, value in settings_with_paths(config[section]):
            key = ".".join([section, *path])
            own = {method: setting_at(config["methods"][method].get(section, {}), path, value) for method in methods}
            if value != setting_at(defaults(ExperimentConfig)[section], path, value) and value not in own.values():
                remedy = f"add it to sweep.{key}" if key in config["sweep"] else f"set methods.{methods[0]}.{key}"
                several = [f"{method}: {short_repr(found)}" for method, found in own.items()]
                named = ", ".join([*several[:3], *(["…"] if len(several) > 3 else [])])
                yield (
                    f"{key}: {short_repr(value)} has no effect, because every compared method sets its own ({named}); "
                    f"{remedy}, or compare another method"
                )


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
