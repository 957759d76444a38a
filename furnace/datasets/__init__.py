"""Data sets: lists, images, transforms, CutMix masks and loaders."""
