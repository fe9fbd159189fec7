"""Training loops: preference losses, supervised fine-tuning, reward models."""
