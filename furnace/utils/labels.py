"""What all label maps have in common."""

IGNORE_INDEX = 255  # of pixels that count nowhere
