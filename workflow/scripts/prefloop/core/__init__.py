"""Errors, files, seeds, shards, progress and costs: what every other package builds on."""
