"""Sampling responses, with transformers or vLLM."""
