"""Methods that derive from others with `like`.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

from collections.abc import Mapping

from prefloop.config.messages import no_choice
from prefloop.config.resolve import ABOUT_METHODS, merged
from prefloop.core.errors import InputError


def with_likes(methods: Mapping[str, dict]) -> dict[str, dict]:
    """The entries of `methods`, each with the settings of the entry that its `like` names, and of that one's.

    `label`, `like` and `sweep` stay those of the entry itself.

    Raises:
        InputError: A `like` names no method, or methods derive from each other in a cycle.
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
        problems.append(f"config: methods.{first}.like: a cycle, {path}; leave out one `like` of it")
    if problems:
        raise InputError(*problems)
    return {name: joined([methods[link] for link in reversed(chain)]) for name, chain in chains.items()}


def chain_of(name: str, methods: Mapping[str, dict]) -> list[str]:
    """A method, the one it is like, and so on, up to one without `like`, or up to the last before a repeated one."""
    chain = [name]
    following = methods[name].get("like")
    while following is not None and following in methods and following not in chain:
        chain.append(following)
        following = methods[following].get("like")
    return chain


def joined(entries: list[dict]) -> dict:
    """The settings of several entries laid over each other, the last on top, whose `label`, `like` and `sweep` stay."""
    result: dict = {}
    for entry in entries:
        own = {key: value for key, value in result.items() if key not in ABOUT_METHODS}
        result = merged(own, entry)
    return result
