"""Read HTML pages with a parser and, if this machine has a browser, after their scripts and as pictures."""

import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"),
)
NARROW = """<body><iframe id="page" src="{name}" style="width:{width}px;height:1600px;border:0"></iframe>
<pre id="outcome"></pre><script>page.onload = () => {{
  const root = page.contentDocument.documentElement;
  outcome.textContent = `${{root.scrollWidth}} ${{root.clientWidth}}`;
}};</script></body>"""


class Page(HTMLParser):
    """Rows of each table by its id, all addresses and alternative texts, and the names of all start tags."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str | None, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        self.alts += [given["alt"]] if "alt" in given else []
        self.addresses += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        if tag == "table":
            self.rows = self.tables.setdefault(given.get("id"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def browse(path: Path, *options: str) -> str:
    """Open a file without a network and return the browser's output; skip the test without a browser."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on the PATH to open the page with")
    with tempfile.TemporaryDirectory() as profile:
        words = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", *options, path.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # script errors, refused or missing resources
    return done.stdout


def opened(path: Path, script: str = "") -> str:
    """The page's DOM in the browser, after its scripts and then `script` have run."""
    if script:
        text = path.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
        path = path.with_name("scripted.html")
        path.write_text(text, encoding="utf-8")
    return browse(path, "--dump-dom")


def screenshot(path: Path, dark: bool = False, width: int = 1200) -> np.ndarray:
    """The top of the page as pixels (900, width, 3)."""
    picture = path.with_name("screenshot.png")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browse(path, scheme, f"--window-size={width},900", f"--screenshot={picture}")
    return np.asarray(Image.open(picture).convert("RGB"))


def overflow(path: Path, width: int) -> int:
    """Pixels by which a page exceeds the window `width`, which may be below the browser's minimum."""
    frame = path.with_name("narrow.html")
    frame.write_text(NARROW.format(name=path.name, width=width), encoding="utf-8")
    dom = browse(frame, "--dump-dom")
    needed, there = dom.split('<pre id="outcome">')[1].split("<")[0].split()
    return int(needed) - int(there)
