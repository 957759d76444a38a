"""Fonts: found by their glyphs, here in fonts made for the test; names without a font are transliterated."""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import features
from PIL.ImageFont import FreeTypeFont

from furnace.utils import fonts
from furnace.utils.fonts import drawable, drawable_names, font_file, missing_note, pillow_font, plot_style, shortened

DEJAVU = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
SCRIPTS = ["背景", "道路", "カー", "나무", "हिन्दी", "🙂", "𓀀"]  # not in DejaVu Sans


def write_font(path: Path, text: str) -> Path:
    """Write a font whose glyph for every character of `text` is a black square as high as letters."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):x}" for c in text)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):x}" for c in text})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": f"Squares {path.stem}", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def installed(monkeypatch, request):
    """`installed(path, ...)`: make DejaVu Sans and these font files the only fonts."""

    def install(*paths: Path) -> None:
        monkeypatch.setattr(fonts, "font_files", lambda: (DEJAVU, *paths))
        font_file.cache_clear()
        pillow_font.cache_clear()

    request.addfinalizer(lambda: (font_file.cache_clear(), pillow_font.cache_clear()))
    install()
    return install


def test_the_first_font_with_every_glyph_is_taken(installed, tmp_path):
    half, whole = write_font(tmp_path / "half.ttf", "背 "), write_font(tmp_path / "whole.ttf", "背景 ")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    installed(broken, half, whole)
    assert font_file("Straße, Größe, дорога") == DEJAVU
    assert font_file("背") == half
    assert font_file("背景") == whole
    assert font_file("背景 道路") is None
    assert pillow_font("背景", 13).path == str(whole)
    assert plot_style(["背景", "sky"])["font.family"] == ["sans-serif", "Squares whole"]


def test_the_fonts_of_the_system_are_searched(tmp_path, monkeypatch, request):
    bold, plain = (write_font(tmp_path / name, "背") for name in ("A-Bold.ttf", "B-Regular.ttf"))
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(bold), str(plain)])
    request.addfinalizer(fonts.font_files.cache_clear)
    fonts.font_files.cache_clear()
    assert fonts.font_files() == (DEJAVU, plain, bold)


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_without_a_font_are_transliterated_with_a_note(name, installed):
    (other, shown) = drawable_names(["sky", name])
    assert other == "sky"
    assert shown.isascii() and shown.startswith("1")
    note = missing_note(["sky", name], "legend.png")
    assert name in note and shown in note and "legend.png" in note and "report.html" in note and "\n" not in note


def test_transliterations_follow_the_language(installed):
    assert drawable_names(["背景", "道路", "나무"]) == ["0 BeiJing", "1 DaoLu", "2 NaMu"]


@pytest.mark.parametrize("name", ["US$5_$10", "_a", "a<b>&", "50 %", "{x}", "a\\b", "Straße", "дорога", "re\u0301ve"])
def test_drawable_names_stay_without_a_note(name, installed):
    assert drawable(name) == name.replace("e\u0301", "\u00e9")
    assert missing_note([name], "legend.png") == ""


def test_letters_that_must_be_joined_need_raqm(installed, monkeypatch):
    assert isinstance(pillow_font("طريق", 13), FreeTypeFont)
    monkeypatch.setattr(features, "check", lambda name: True)
    assert drawable("طريق") == "طريق"
    monkeypatch.setattr(features, "check", lambda name: False)
    assert drawable("طريق").isascii()


def test_a_name_is_cut_for_a_plot():
    assert shortened("a" * 40) == "a" * 40
    assert shortened("a" * 41) == "a" * 37 + "..."


def test_a_plot_has_the_glyphs_of_the_font_that_was_found(installed, tmp_path):
    installed(write_font(tmp_path / "drawn.ttf", "背景"))
    with mpl.rc_context(plot_style(["背景"])), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure((2, 2), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.text(0, 0.5, "背景", fontsize=36)  # two squares of 50 pixels
        canvas.draw()
        dark = np.asarray(canvas.buffer_rgba())[..., 0] < 128
    assert dark.sum() == pytest.approx(2 * 50 * 50, rel=0.05)
