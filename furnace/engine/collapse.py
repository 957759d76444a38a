"""Warnings about silent failures: one class dominates the predictions, or both networks become the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from furnace.datasets.catalog import Classes

RECORDS_PER_CHECK = 10
SWALLOWED, USUAL = 0.98, 0.9  # share of one class in the predictions (above) and labels (below)
SAME_LABELS, SAME_CONFIDENCE = 0.999, 0.01  # share of equal labels (above), mean difference in confidence (below)


@dataclass
class CollapseWatch:
    """Collect records; after every `RECORDS_PER_CHECK` of them, check and return warnings."""

    classes: Classes

    def __post_init__(self):
        self.known: set[str] = set()
        self._restart()

    def _restart(self) -> None:
        K = len(self.classes.names)
        self.records, self.apart = 0, 0.0
        self.agreement, self.shown = torch.zeros(K, K, dtype=torch.float64), torch.zeros(K, dtype=torch.float64)

    def step(self, agreement: Tensor, apart: float, shown: Tensor) -> list[str]:
        """Add a record; return the warnings that the previous check did not have.

        Args:
            agreement: (K, K) confusion matrix of both branches' labels.
            apart: mean absolute difference of their confidence.
            shown: (K,) pixel counts of the labels of the labelled images.
        """
        self.records += 1
        self.agreement, self.apart, self.shown = self.agreement + agreement, self.apart + apart, self.shown + shown
        if self.records < RECORDS_PER_CHECK:
            return []
        warnings = self._check()
        self._restart()
        new = [text for kind, text in warnings.items() if kind not in self.known]
        self.known = set(warnings)
        return new

    def _check(self) -> dict[str, str]:
        found = {}
        labeled = self.shown / self.shown.sum().clamp(min=1)
        for branch, counts in ((1, self.agreement.sum(1)), (2, self.agreement.sum(0))):
            share, index = (counts / counts.sum()).max(0)
            if share > SWALLOWED and labeled[index] < USUAL:
                found[f"swallowed {branch}"] = (
                    f"branch {branch} predicts {self.classes.names[index]} for {100 * share:.1f} % of the pixels, the "
                    f"labels for {100 * labeled[index]:.0f} %; if this persists, lower lr or unsup_weight"
                )
        same = self.agreement.diag().sum() / self.agreement.sum()
        if same > SAME_LABELS and self.apart / self.records < SAME_CONFIDENCE and not found:
            found["same"] = (
                f"the branches agree on {100 * same:.2f} % of the pixels with the same confidence: they have become "
                "the same network and learn nothing from each other; did they start with the same weights?"
            )
        return found
