"""Pure functions of tensors: confusion matrix, losses, pseudo labels, sliding window.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "confusion": ["confusion_matrix", "exact"],
        "losses": ["MeanCrossEntropy", "OhemCrossEntropy", "mean_cross_entropy", "weighted_cross_entropy"],
        "metrics": ["MetricList"],
        "pseudo_label": ["Predictions", "agreement", "combine", "cutmix", "predict_mixed", "predict_upsampled"],
    },
)
