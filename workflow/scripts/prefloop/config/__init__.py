"""The config: settings, validation, and what they mean for each method."""
