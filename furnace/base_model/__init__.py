"""Networks: encoders, decoders, and the network of one or more branches.

The names here are imported at their first use, see `furnace/__init__.py`.
"""

from lazy_loader import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    submodules=["timm_encoders"],
    submod_attrs={
        "listing": ["encoder_table"],
        "network": ["Network"],
        "pretrained": ["no_downloads"],
        "resnet": ["dilated_resnet"],
        "timm_encoders": ["padding_of_any_size"],
    },
)
