"""Constants of all label maps."""

IGNORE_INDEX = 255  # of pixels that count nowhere
