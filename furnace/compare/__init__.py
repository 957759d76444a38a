"""Comparing methods: the runs of a comparison, their plan, carrying them out, and the tables that come of it."""
