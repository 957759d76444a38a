"""Tests of evaluation, prediction and export with trained networks."""
