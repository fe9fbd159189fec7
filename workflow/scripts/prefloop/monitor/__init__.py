"""The plan of a run, its status, and how a training is launched."""
