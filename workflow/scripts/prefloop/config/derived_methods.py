"""Methods that derive from others with `like`.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

from collections.abc import Mapping

from prefloop.config.messages import no_choice
from prefloop.config.resolve import ABOUT_METHODS, merged
from prefloop.core.errors import InputError


def with_likes(methods: Mapping[str, dict]) -> dict[str, dict]:
    """Return the entries of `methods` with all settings that they inherit through `like`.

    `label`, `like` and `sweep` are not inherited.

    Raises:
        InputError: A `like` names an unknown method, or methods derive from each other in a cycle.
    """
    problems = [
        f"config: methods.{name}.like: {no_choice(entry['like'], list(methods))}"
        for name, entry in methods.items()
        if entry.get("like") is not None and entry["like"] not in methods
    ]
    chains = {name: chain_of(name, methods) for name in methods}
    cycles: dict[frozenset, list[str]] = {}
    for chain in chains.values():
        if chain[0] == methods[chain[-1]].get("like"):
            cycles.setdefault(frozenset(chain), chain)
    for first, *others in cycles.values():
        path = " -> ".join([first, *others, first])
        problems.append(f"config: methods.{first}.like: a cycle, {path}; remove one `like` from it")
    if problems:
        raise InputError(*problems)
    return {name: joined([methods[link] for link in reversed(chain)]) for name, chain in chains.items()}


def chain_of(name: str, methods: Mapping[str, dict]) -> list[str]:
    """Return a method, the method that it is like, and so on. The chain ends before an unknown or repeated method."""
    chain = [name]
    following = methods[name].get("like")
    while following is not None and following in methods and following not in chain:
        chain.append(following)
        following = methods[following].get("like")
    return chain


def joined(entries: list[dict]) -> dict:
    """Merge entries; later entries override earlier ones. Only the last keeps its `label`, `like` and `sweep`."""
    result: dict = {}
    for entry in entries:
        inherited = {key: value for key, value in result.items() if key not in ABOUT_METHODS}
        result = merged(inherited, entry)
    return result
