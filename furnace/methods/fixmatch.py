"""FixMatch (Sohn et al., NeurIPS 2020) for segmentation: UniMatch (CVPR 2023) with a single strong view."""

from __future__ import annotations

from furnace.methods.method import METHODS
from furnace.methods.unimatch import UniMatch


@METHODS.register("fixmatch")
class FixMatch(UniMatch):
    """(sup + strong) / 2."""

    published = UniMatch.published | {"student_views": 1, "feature_dropout": 0}
    known = UniMatch.known | {"student_views": (1,), "feature_dropout": (0,)}
