"""Language models: loading, policies, chat templates, log-probabilities, export."""
