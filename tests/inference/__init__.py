"""Tests of what a trained network is used for."""
