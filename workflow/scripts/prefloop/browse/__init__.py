"""The page on which an experiment's rows are searched."""
