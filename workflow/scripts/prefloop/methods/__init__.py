"""Methods as pure functions: samplers, bandit, pair metrics, losses, β rules and the tabular setting."""
