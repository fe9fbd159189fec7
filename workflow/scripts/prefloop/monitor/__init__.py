"""The plan of a run, its status, and the launch of training programs."""
