"""Texts and values of settings, read by their types alone."""

import os
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from furnace.utils import setting_types as types


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (types.Scales, "0.5, 1,2", (0.5, 1, 2)),
        (types.Scales, [16], (16,)),
        (types.Shares, (0.25, 0.5), (0.25, 0.5)),
        (types.MeanColour, "[0, 0.5, 1]", (0, 0.5, 1)),
        (types.ColourSpread, [0.1, 0.2, 1], (0.1, 0.2, 1)),
        (types.Colours, "#ff8000,000001", ((255, 128, 0), (0, 0, 1))),
        (types.Colours, [" #FF8000", [1, 2, 3]], ((255, 128, 0), (1, 2, 3))),
        (types.ClassNames, "['cat', \"dog\"]", ("cat", "dog")),
        (types.Encoders, ("resnet18", " resnet34"), "resnet18,resnet34"),
        (types.Files, ["a.pth", "b.pth"], "a.pth,b.pth"),
        (types.Files, "None", None),
        (types.OptionalFloats, "none", None),
        (types.CachePlace, False, "off"),
        (types.CachePlace, "RAM", "ram"),
        (types.CachePlace, "/Data/Cache", "/Data/Cache"),
        (types.OptionalPath, "", None),
        (types.PathText, "a" * 255 + "/b", "a" * 255 + "/b"),
        (types.PathText, "~/log", os.path.expanduser("~/log")),
        (types.OptionalPath, "~", os.path.expanduser("~")),
        (types.Files, "a.pth,~/b.pth", "a.pth," + os.path.expanduser("~/b.pth")),
        (types.CachePlace, "~/cache", os.path.expanduser("~/cache")),
    ],
)
def test_values_are_understood(kind: Any, value: Any, expected: Any):
    assert TypeAdapter(kind).validate_python(value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (types.Scales, "", "must be scales"),
        (types.Scales, "0,1", "must be scales"),
        (types.Scales, "16.1", "must be scales"),
        (types.Shares, "0.5", "must be the smallest and the largest share"),
        (types.Shares, "0.5,0.25", "must be the smallest and the largest share"),
        (types.MeanColour, "0,0,1.1", "must be three numbers from 0"),
        (types.ColourSpread, "0,1,1", "must be three numbers above 0"),
        (types.Colours, "red", "red: is not a colour such as #ff8000"),
        (types.Colours, [[0, 0, 256]], "less than or equal to 255"),
        (types.ClassNames, "a,a", "must be different names"),
        (types.ClassNames, ["a\nb"], "must be different names"),
        (types.MetricNames, "", "must name at least one metric"),
        (types.CachePlace, "yes", "must be off, ram or a folder"),
        (types.PathText, "a" * 256, "is not a path"),
        (types.PathText, "a\0", "is not a path"),
        (types.Files, "a,b\0", "is not a path"),
        (types.OptionalPath, "é" * 128, "is not a path"),
    ],
)
def test_values_that_can_not_be_used_are_refused(kind: Any, value: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize("value", [3, None, np.float32(1)])
def test_other_values_are_left_to_the_check_of_the_type(value: Any):
    with pytest.raises(ValidationError):
        TypeAdapter(types.Colours).validate_python(value)
