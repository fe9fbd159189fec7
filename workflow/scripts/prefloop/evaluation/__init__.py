"""Results as tables, and the statistics that compare them."""
