"""Tests of the checks before a long run."""
