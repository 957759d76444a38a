"""Data sets: lists, images, transforms, CutMix masks and loaders.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submodules=["inspection", "pairing", "toy"],
    submod_attrs={
        "batch": ["uploaded"],
        "cutmix": ["draw_box"],
        "encoding": [
            "COLOUR_TYPE",
            "GREY",
            "INDEXED",
            "PNG_END",
            "check_jpeg",
            "check_png",
            "require_values",
            "decode_indices",
            "encode_label",
        ],
        "instances": ["draw_label"],
        "loaders": ["build_train_set"],
        "randomness": ["Purpose"],
        "reading": ["build_reader"],
    },
)
