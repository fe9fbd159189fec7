"""Figures, tables, captions and model cards."""
