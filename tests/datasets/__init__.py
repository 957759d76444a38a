"""Tests of lists, images, transforms and loaders."""
