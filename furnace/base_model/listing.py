"""Table of the encoders whose names contain a word."""

import torch
from torch import nn

from furnace.base_model import timm_encoders
from furnace.base_model.encoders import ENCODERS
from furnace.base_model.resnet import BLOCKS
from furnace.utils.errors import UserError
from furnace.utils.terminal import Table

LISTED = 20


def encoder_table(word: str) -> Table:
    """Table of names, parameters, strides and channels of the maps, and patch sizes of plain ViTs; ours first.

    Raises:
        UserError: no name contains the word.
    """
    names = list(dict.fromkeys(name for name in (*ENCODERS, *timm_encoders.names()) if word.lower() in name.lower()))
    if not names:
        raise UserError(f"--list-encoders {word}: no encoder name contains this; try a shorter word, such as vit")
    more = f"{len(names) - LISTED} more: use a longer word" if len(names) > LISTED else None
    table = Table(title=f"encoders with {word!r}", caption=more, title_justify="left", caption_justify="left")
    table.add_column("C.backbone", no_wrap=True)
    for column in ("parameters", "strides", "channels", "patch"):
        table.add_column(column, justify="right")
    for name in names[:LISTED]:
        table.add_row(name, *description(name))
    return table


def description(name: str) -> tuple[str, str, str, str]:
    """Values of the columns after the name."""
    try:
        encoder = described(name)
    except UserError as error:
        return "-", "-", str(error), "-"
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    patch = str(encoder.strides[0]) if getattr(encoder, "plain", False) else "-"
    strides, channels = (" ".join(map(str, values)) for values in (encoder.strides, encoder.channels))
    return f"{parameters / 1e6:.1f} M", strides, channels, patch


def described(name: str) -> nn.Module:
    """The encoder, on the meta device (no memory for weights) unless users registered it."""
    if name not in ENCODERS:
        return timm_encoders.on_meta(name)[0]
    if name not in BLOCKS:
        return ENCODERS[name].build(None)
    with torch.device("meta"):
        return ENCODERS[name].build(None)
