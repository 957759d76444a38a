"""Tests of the pure functions of tensors."""
