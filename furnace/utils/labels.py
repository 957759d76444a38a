"""Constants of all label maps."""

IGNORE_INDEX = 255  # label of ignored pixels
LABEL_VALUES = 256  # of uint8 labels
