"""A trained network at work: evaluation, prediction, benchmark servers, export, and the report."""
