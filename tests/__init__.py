"""Tests, in the folders of what they check."""
