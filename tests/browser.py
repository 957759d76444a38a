"""Pages in a headless browser, if this machine has one: the document after its scripts, or a picture of it."""

import shutil
import subprocess
import tempfile
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
NARROW = """<body style="margin:0"><iframe id="page" src="{name}" style="width:{width}px;height:1600px;border:0"></iframe>
<pre id="outcome"></pre><script>page.onload = () => {{
  const root = page.contentDocument.documentElement;
  outcome.textContent = `${{root.scrollWidth}} ${{root.clientWidth}}`;
}};</script></body>"""


def browse(path: Path, *options: str) -> str:
    """Open a file without a network, and give what the browser prints; skip the test without a browser."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome on the PATH to open the page with")
    with tempfile.TemporaryDirectory() as profile:
        words = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", *options, path.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # script errors, refused or missing resources
    return done.stdout


def opened(path: Path, script: str = "") -> str:
    """The page as the browser builds it, its scripts and then `script` having run."""
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
    """Pixels by which a page is wider than a window of a `width` that may be below the browser's least one."""
    frame = path.with_name("narrow.html")
    frame.write_text(NARROW.format(name=path.name, width=width), encoding="utf-8")
    dom = browse(frame, "--dump-dom")
    needed, there = dom.split('<pre id="outcome">')[1].split("<")[0].split()
    return int(needed) - int(there)
