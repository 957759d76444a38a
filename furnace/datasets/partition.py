"""Order images so that the first n are a good labelled set for any n: few images already show every class.

The order starts with a greedy cover, rarest class first; iterative stratification follows (Sechidis et al., ECML PKDD
2011), in which the share of images taken so far grows equally for all classes.
"""

import hashlib

import numpy as np


def make_partition(presence: np.ndarray, seed: int) -> np.ndarray:
    """An order of the images; its first n are the labelled set of n images, so that the sets are nested.

    Pure, and the same on every machine and with every NumPy version, because randomness comes from a hash of the seed.

    Args:
        presence: (N, K) bool, True if image i shows class k; sort the images by name first.
        seed: another seed gives another order.

    Returns:
        (N,) int64, a permutation.
    """
    shuffled = np.array(sorted(range(len(presence)), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest()))
    presence = np.asarray(presence, dtype=bool)[shuffled]
    return shuffled[stratify(presence, cover(presence))]


def cover(presence: np.ndarray) -> list[int]:
    """Images that together show every class that any image of `presence` (N, K) shows.

    Repeatedly take, for the rarest missing class, the image that shows most missing classes, the first of equals.
    """
    totals = presence.sum(axis=0)
    missing = totals > 0
    chosen = []
    while missing.any():
        rarest = min(np.flatnonzero(missing), key=lambda k: totals[k])
        gain = np.where(presence[:, rarest], (presence & missing).sum(axis=1), 0)
        chosen.append(int(gain.argmax()))
        missing &= ~presence[chosen[-1]]
    return chosen


def stratify(presence: np.ndarray, chosen: list[int]) -> list[int]:
    """`chosen`, then all other images of `presence` (N, K), each from the class with the smallest share so far."""
    # Images without any class form a class, else they would never be taken.
    groups = np.column_stack([presence, ~presence.any(axis=1)])
    groups = groups[:, groups.any(axis=0)]
    groups = groups[:, np.argsort(groups.sum(axis=0), kind="stable")]  # for equal shares, the rarest class comes first
    totals, taken = groups.sum(axis=0), groups[chosen].sum(axis=0)
    waiting = [iter(np.flatnonzero(group)) for group in groups.T]
    order = dict.fromkeys(chosen)
    while len(order) < len(presence):
        rarest = int((taken / totals).argmin())
        image = next(int(i) for i in waiting[rarest] if int(i) not in order)
        order[image] = None
        taken = taken + groups[image]
    return list(order)
