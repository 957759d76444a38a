"""Commands beside training and evaluation, one a file: python -m furnace.tools.NAME."""
