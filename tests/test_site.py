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


@pytest.mark.slow
def test_the_site_is_built_without_network_and_without_dead_links(tmp_path):
    pytest.importorskip("autodoc2", reason="pip install wt_jax[docs]")
    offline = {**os.environ, **{f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: _Page(path) for path in tmp_path.rglob("*.html")}
    assert len(pages) > 40
    dead, foreign = [], []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                foreign += [(path.name, link)] * (link in page.loaded and parts.scheme != "data")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].ids if target in pages else {None}
            if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in known):
                dead.append((path.name, link))
    assert not dead
    assert not foreign
    ids = pages[tmp_path / "_generated" / "api.html"].ids
    assert set(losses.__all__) <= {each.rpartition(".")[2] for each in ids if each}
