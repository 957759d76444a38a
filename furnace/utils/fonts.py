"""Find the font that has the glyphs of a text, for Pillow's pictures and matplotlib's plots."""

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from anyascii import anyascii
from PIL import ImageFont, features

from furnace.utils.wording import few

DEJAVU = "fonts/ttf/DejaVuSans.ttf"  # in matplotlib's own data
# Parts of names: of fonts that come after the plain ones, and of fonts with an empty box for every letter.
STYLED = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "condensed", "mono", "serif")
EMPTY = ("lastresort", "blank")
INVISIBLE = ("Cf", "Zs")  # joiners and blanks need no glyph
VARIATIONS = range(0xFE00, 0xFE10)  # neither do variation selectors
LONGEST = 40  # characters of a name in a plot


@cache
def font_files() -> tuple[Path, ...]:
    """DejaVu Sans of matplotlib, then the fonts of the system, plain ones first."""
    import matplotlib as mpl  # only names beyond ASCII need it
    from matplotlib.font_manager import findSystemFonts

    def order(path: Path) -> tuple[int, str]:
        return sum(word in path.stem.lower() for word in STYLED), path.name

    system = sorted(map(Path, findSystemFonts()), key=order)
    return Path(mpl.get_data_path()) / DEJAVU, *(
        path for path in system if not any(word in path.stem.lower() for word in EMPTY)
    )


@cache
def glyphs(path: Path) -> frozenset[int]:
    """Code points for which a font has glyphs; none if it is damaged or a bitmap font."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        return frozenset(font.get_charmap() if font.scalable else ())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache(maxsize=4096)
def font_file(text: str) -> Path | None:
    """The first font that has every glyph of `text`, None if none has."""
    needed = {ord(c) for c in text if unicodedata.category(c) not in INVISIBLE and ord(c) not in VARIATIONS}
    return next((path for path in font_files() if needed <= glyphs(path)), None)


def is_drawable(text: str) -> bool:
    """True if pictures can show `text`: a font has its glyphs, and Pillow can join and order them if they need it."""
    if text.isascii():
        return True
    shapes = features.check("raqm") and features.check("fribidi")
    return font_file(text) is not None and (shapes or not _needs_shaping(text))


def _needs_shaping(text: str) -> bool:
    return any(unicodedata.bidirectional(c) in ("R", "AL") or unicodedata.category(c).startswith("M") for c in text)


def drawable(text: str) -> str:
    """`text` as pictures can show it: transliterated into Latin letters if no font has its own."""
    text = unicodedata.normalize("NFC", text)
    return text if is_drawable(text) else anyascii(text).strip()


def drawable_names(names: Sequence[str]) -> list[str]:
    """Class names as pictures can show them; transliterated ones, which may become equal, begin with their index."""
    shown = map(drawable, names)
    return [
        text if text == unicodedata.normalize("NFC", name) else f"{index} {text}".rstrip()
        for index, (name, text) in enumerate(zip(names, shown, strict=True))
    ]


def missing_note(names: Sequence[str], picture: str) -> str:
    """One line about names that `picture` can't show as they are, "" without such names."""
    changed = {name: text for name, text in zip(names, drawable_names(names), strict=True) if not is_drawable(name)}
    if not changed:
        return ""
    return (
        f"no font on this machine has the letters of {few(changed)}: {picture} shows {few(changed.values())}; install "
        "a font of that script, such as one of Noto Sans; the page of eval.py, report.html, shows the names themselves"
    )


@lru_cache(maxsize=256)
def pillow_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font for a text that `drawable` gave: Pillow's own for ASCII."""
    path = None if text.isascii() else font_file(text)
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


def shortened(name: str) -> str:
    """A name of at most `LONGEST` characters."""
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


def plot_style(texts: Sequence[str]) -> dict[str, Any]:
    """matplotlib's settings that show texts literally, with the fonts that have their glyphs."""
    files = dict.fromkeys(font_file(text) for text in texts if not text.isascii())
    families = [family(path) for path in files if path]
    return {"text.parse_math": False, "font.family": ["sans-serif", *families]}  # a class may be called "a$b$"


@cache
def family(path: Path) -> str:
    """Register a font with matplotlib and return its name there."""
    from matplotlib.font_manager import FontProperties, fontManager

    fontManager.addfont(path)
    return FontProperties(fname=path).get_name()


@contextmanager
def missing_glyphs_ignored() -> Iterator[None]:
    """Context without matplotlib's warning for each glyph that it lacks: viewers of SVG have fonts of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from")
        yield
