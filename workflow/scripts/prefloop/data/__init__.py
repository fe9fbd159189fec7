"""Prompts, their clusters, and preference pairs."""
