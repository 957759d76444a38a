"""Checks before a long run: data, weights, space, memory and time."""
