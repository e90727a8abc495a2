"""Pages in a headless browser: what a page holds after its scripts ran, what went wrong in it, what it tried to fetch."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

WATCH = """<script>
(function () {
  var found = {errors: [], violations: [], requests: []};
  window.addEventListener('error', function (e) { found.errors.push(String(e.message || 'a resource failed')); }, true);
  window.addEventListener('unhandledrejection', function (e) { found.errors.push(String(e.reason)); });
  document.addEventListener('securitypolicyviolation', function (e) { found.violations.push(e.blockedURI); });
  ['error', 'warn'].forEach(function (kind) { console[kind] = function (text) { found.errors.push(String(text)); }; });
  function tell() {
    found.requests = performance.getEntriesByType('resource').map(function (e) { return e.name; });
    var made = document.getElementById('watched') || document.body.appendChild(document.createElement('pre'));
    made.id = 'watched';
    made.textContent = JSON.stringify(found);
  }
  window.addEventListener('load', function () { setTimeout(tell, 1500); DO });
})();
</script>"""


class _Sources(HTMLParser):
    """What elements of a page point to outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster") and value:
                self.found.append(value)


def outside(text: str) -> list[str]:
    """Sources and links of a page that are neither data nor places in it."""
    parser = _Sources()
    parser.feed(text)
    return [value for value in parser.found if not value.startswith(("data:", "#"))]


class Seen(NamedTuple):
    """A page after its scripts ran."""

    dom: str
    errors: list[str]
    violations: list[str]  #: what the page's own policy kept it from
    requests: list[str]


def browser() -> str:
    """The browser; the test is skipped where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: the page is not opened in a browser")
    return found


def open_page(page: Path, folder: Path, do: str = "", width: int = 1200) -> Seen:
    """Open a page; `do` is a script that runs when it is loaded."""
    text = page.read_text().replace("<head>", "<head>" + WATCH.replace("DO", do), 1)
    watched = folder / "watched.html"
    watched.write_text(text)
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--virtual-time-budget=6000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--dump-dom", watched.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    told = re.findall(r'<pre id="watched">(.*?)</pre>', dom, re.S)
    assert told, "the page did not come to its end"
    found: dict[str, Any] = json.loads(html.unescape(told[0]))
    return Seen(dom, found["errors"], found["violations"], found["requests"])
