"""Sphinx's configuration of the documentation; `launch/docs.sh` builds it. No module of the project is imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `generate`, `docstrings` and `notebooks`

from generate import write_pages
from notebooks import write_notebooks

write_pages(Path(__file__).parent / "_generated")
write_notebooks(Path(__file__).parent / "_generated" / "notebooks")

project = "wt_jax"
copyright = "the authors of wt_jax"
extensions = ["myst_parser", "autodoc2"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "wt_jax"
html_static_path = []
html_use_index = False  # of a thousand names with their modules; the search finds them
html_theme_options = {"top_of_page_buttons": []}  # theirs need the address of a public repository

myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 4

# The API is read from the sources; `_generated/api.md` names what is public.
autodoc2_packages = [{"path": "../wt_jax", "auto_mode": False}]
autodoc2_render_plugin = "myst"
autodoc2_docstring_parser_regexes = [(".*", "docstrings")]
autodoc2_hidden_objects = {"private", "dunder", "inherited"}
autodoc2_sort_names = False
