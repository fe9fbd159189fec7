"""The browse page, on which users search the rows of an experiment."""
