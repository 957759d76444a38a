"""Tests of settings, files, terminals, fonts and other helpers."""
