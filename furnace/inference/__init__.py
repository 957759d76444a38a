"""Inference with trained networks: evaluation, prediction, files for benchmark servers, export, and the report.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "evaluator": ["Evaluator"],
        "exporter": ["Exporter", "Form"],
        "predictor": ["Outputs", "Predictor"],
        "submission": ["Submission"],
    },
)
