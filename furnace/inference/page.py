"""Render self-contained HTML pages: templates with style and scripts, in which all values are escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from furnace.utils.wording import byte_size, duration, percent

HERE = Path(__file__).parent


def render(template: str, folder: Path = HERE, svg: Mapping[str, str] | None = None, **values: Any) -> bytes:
    """Render a page as UTF-8.

    Args:
        template: name of a file in `folder` or in this module's folder, which has `page.html.j2` to extend.
        folder: of the template.
        svg: plots by name; the template gets them as `plots` and inserts them unescaped.
        values: of the template; their content is shown as text.
    """
    loader = FileSystemLoader([folder, HERE])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "byte_size": byte_size,
        "duration": duration,
        "filename": lambda path: Path(path).name,
        "percent": percent,
    }
    plots = {name: Markup(plot) for name, plot in (svg or {}).items()}
    return environment.get_template(template).render(plots=plots, **values).encode()
