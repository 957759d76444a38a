"""Tests of settings and weights files."""
