"""Errors, files, seeds, shards, progress and costs. All other packages build on this one."""
