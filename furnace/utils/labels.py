"""Constants of all label maps."""

IGNORE_INDEX = 255  # label of ignored pixels
