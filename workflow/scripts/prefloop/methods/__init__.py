"""Methods as pure functions: samplers, the bandit, pair metrics, losses, β rules and the tabular setting."""
