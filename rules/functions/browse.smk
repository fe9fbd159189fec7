# What the browse page shows: rows that the experiment's figures and tables need anyway.
from itertools import chain


def asked_anyway():
    """Everything that the experiment's figures and tables read."""
    asked = [getattr(rules, f"figure_{name}") for name in FIGURES]
    asked += [getattr(rules, f"table_{name}") for name in TABLES]
    return set(map(str, chain.from_iterable(rule.input for rule in asked)))


def contests_asked():
    """Contests of which a figure or table asks the verdicts, or what these cost."""
    files = {file.replace(".cost.json", ".jsonl") for file in asked_anyway()}
    return [c for c in EXPERIMENT.contests if verdicts_of([c])[0] in files]
