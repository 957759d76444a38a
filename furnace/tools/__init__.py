"""Commands other than training and evaluation, one per file: python -m furnace.tools.NAME."""
