"""Torture: training under faults injected at random; `make torture` runs it."""
