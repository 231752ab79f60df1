"""The documentation: docstrings as Markdown, pages made of the sources, and the whole site, built without network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from wt_jax import losses
from wt_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def generate(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import generate

    return generate


def test_docstrings_become_markdown(generate):
    text = """A loss of *two* views <x>.

Text that `goes_on` on
a line:

    L = - sum_j y_j log p_j

Args:
  query: (B, D) float, a line
    that goes on.
  key, other_key: (B, D).
  left, *rest: more.

Returns:
  (B,) float32.

Raises:
  ValueError: a shape is wrong.
"""
    assert generate.to_markdown(text).splitlines() == [
        r"A loss of \*two\* views \<x\>.",
        "",
        "Text that `goes_on` on",
        "a line:",
        "",
        "```text",
        "L = - sum_j y_j log p_j",
        "```",
        "",
        "**Args**",
        "",
        "* `query`: (B, D) float, a line that goes on.",
        "* `key, other_key`: (B, D).",
        "* `left, *rest`: more.",
        "",
        "**Returns**: (B,) float32.",
        "",
        "**Raises**",
        "",
        "* `ValueError`: a shape is wrong.",
    ]


def test_every_method_has_a_page_with_its_source_and_settings(generate):
    pages = generate.method_pages()
    for name, entry in METHODS.items():
        page = pages[entry.build.__module__.rpartition(".")[2]]
        assert f"`{name}`" in page.partition("\n")[0]
        assert f"{{autodoc2-object}} {entry.settings.__module__}.{entry.settings.__name__}" in page
        assert name == "supervised" or f"\n| `{name}`" in page, f"docs/methods.md has no row of {name}"
    assert "y_i  = [1 - l, l s_i1, ..., l s_iK]" in pages["weak_teacher"]


def test_the_api_has_every_public_loss(generate):
    page = generate.api_page()
    assert {re.search(r"\.(\w+)$", line)[1] for line in re.findall(r"autodoc2-object} (wt_jax\.losses\S+)", page)} == set(
        losses.__all__
    )


def test_the_picture_has_every_room_and_no_line_leads_up(generate):
    arrows = generate.architecture.arrows()
    picture = generate.architecture.draw()
    for room, targets in arrows.items():
        assert f">{room}</text>" in picture
        assert all(generate.architecture.level(target) < generate.architecture.level(room) for target in targets)
    assert set(arrows["train"]) >= {"methods", "data"}


class _Page(HTMLParser):
    """Links and ids of a page, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.loaded = [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found.get("id"), found.get("name")}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("link", "script", "img", "iframe", "source"):
            self.loaded += [value for name in ("href", "src") if (value := found.get(name))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, built without network."""
    for module in ("autodoc2", "jupytext"):
        pytest.importorskip(module, reason="pip install wt_jax[docs]")
    folder = tmp_path_factory.mktemp("site")
    offline = {**os.environ, **{f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", "docs", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_no_dead_links(site):
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    dead = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].ids if target in pages else {None}
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in known):
                dead.append((path.name, link))
    assert not dead
    ids = pages[site / "_generated" / "api.html"].ids
    assert set(losses.__all__) <= {each.rpartition(".")[2] for each in ids if each}


@pytest.mark.slow
def test_no_page_asks_anything_of_the_network_and_all_fit_a_phone(site, tmp_path):
    from support.browser import as_phone, browser, requests

    driver = browser(tmp_path)
    try:
        pages = sorted(site.rglob("*.html"))
        wide = []
        for width in (None, 390):
            if width:
                as_phone(driver, width)
            for page in pages:
                driver.get(page.as_uri())
                if driver.execute_script("return document.documentElement.scrollWidth > window.innerWidth"):
                    wide.append((page.name, width))
        asked = requests(driver)
        assert len(asked) > len(pages)
        assert not [address for address in asked if not address.startswith(("file:", "data:"))]
        assert not wide
        if folder := os.environ.get("WT_JAX_SHOTS"):
            for name in ("index", "start", "methods", "examples/own_videos", "_generated/methods/weak_teacher"):
                driver.get((site / f"{name}.html").as_uri())
                driver.save_screenshot(str(Path(folder) / f"{name.replace('/', '_')}_phone.png"))
    finally:
        driver.quit()
