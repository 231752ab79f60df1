"""Pages that are made of the sources when the documentation is built: one per method, the public API, the picture of the
layout. Nothing of the project is imported; what is read are its files.
"""

import ast
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import architecture
from docstrings import to_markdown

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wt_jax"

# What is public beside the losses, by headings of the page.
PUBLIC = {
    "Teachers and queues": (
        "wt_jax.teacher.ema_update",
        "wt_jax.teacher.cosine_momentum",
        "wt_jax.queue.empty_queue",
        "wt_jax.queue.enqueue",
        "wt_jax.queue.negatives_mask",
    ),
    "The contract of a method": (
        "wt_jax.methods.base.Method",
        "wt_jax.methods.base.MethodState",
        "wt_jax.methods.base.Needs",
        "wt_jax.methods.base.Pretrained",
    ),
    "Kinds of view": (
        "wt_jax.specs.ClipView",
        "wt_jax.specs.Choice",
        "wt_jax.specs.PixelSpec",
        "wt_jax.specs.AudioView",
        "wt_jax.specs.FeatureView",
        "wt_jax.specs.BoxView",
    ),
    "Data": ("wt_jax.data.sources.open.open_source", "wt_jax.data.records.VideoList", "wt_jax.data.pipeline.train_batches"),
    "Weights": ("wt_jax.weights.folder.load_encoder", "wt_jax.weights.folder.save_encoder"),
    "Evaluation": ("wt_jax.eval.protocols.base.Protocol", "wt_jax.eval.results.read_results"),
    "Search": ("wt_jax.search.engine.Engine", "wt_jax.search.engine.Filters"),
}


def write_pages(folder: Path) -> None:
    """Writes all generated pages into a folder; a file that would not change stays as it is."""
    pages = {f"methods/{name}.md": text for name, text in method_pages().items()}
    pages["methods/index.md"] = method_index(pages)
    pages["api.md"] = api_page()
    pages["architecture.svg"] = architecture.draw()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# --- one page per file of methods


def method_pages() -> dict[str, str]:
    """Pages of the methods by the name of their file."""
    rows, names = _rows(), {}
    for name, module in _table().items():
        names.setdefault(module, []).append(name)
    return {
        module: _method_page(module, [rows[name] for name in found if name in rows], found) for module, found in names.items()
    }


def method_index(pages: Iterable[str]) -> str:
    """The list of the pages."""
    return (
        "# A page for each method\n\n```{toctree}\n:maxdepth: 1\n\n"
        + "\n".join(sorted(Path(page).stem for page in pages if page.startswith("methods/")))
        + "\n```\n"
    )


def _table() -> dict[str, str]:
    """Modules (their last names) by names of METHODS."""
    tree = ast.parse((PACKAGE / "methods" / "__init__.py").read_text())
    homes = {
        alias.name: node.module.rpartition(".")[2]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    methods = next(
        node for node in tree.body if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "METHODS"
    )
    assert isinstance(methods.value, ast.Dict)
    return {key.value: homes[entry.args[0].id] for key, entry in zip(methods.value.keys, methods.value.values, strict=True)}


def _rows() -> dict[str, list[str]]:
    """Cells of the table of methods by name: source, known, inferred."""
    text = (ROOT / "docs" / "methods.md").read_text()
    table = text[text.index("| name | source |") :].partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table)
    return {re.search(r"`(\w+)`", row[0])[1]: row for row in cells}


def _method_page(module: str, rows: list[list[str]], names: list[str]) -> str:
    source = (PACKAGE / "methods" / f"{module}.py").read_text()
    tree = ast.parse(source)
    summary, _, rest = inspect.cleandoc(ast.get_docstring(tree) or "").partition("\n\n")
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    settings = [name for name in classes if name.endswith("Settings")]
    losses = [
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wt_jax.losses")
        for alias in node.names
    ]
    lines = [f"# {', '.join(f'`{name}`' for name in names)}", "", to_markdown(summary), "", to_markdown(rest), ""]
    lines += ["```bash", *(f"wt-jax train --config=quickstart:{name} --workdir=runs/{name}" for name in names[:1]), "```", ""]
    if rows:
        lines += ["| name | source | known | inferred or different here |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(_moved(cell) for cell in row)} |" for row in rows]
        lines += ["", "What was measured is on the page of [results](../../results.md)."]
    if losses:
        homes = {name: home for home, name in _public_losses()}
        links = [f"{{py:obj}}`{name} <{homes[name]}.{name}>`" if name in homes else f"`{name}`" for name in losses]
        lines += ["", "## Losses", "", f"It calls {', '.join(links)}."]
        for home in dict.fromkeys(homes[name] for name in losses if name in homes):
            text = ast.get_docstring(ast.parse((ROOT / f"{home.replace('.', '/')}.py").read_text())) or ""
            lines += ["", f"From `{home}`:", "", to_markdown(text)]
    if settings:
        lines += ["", "## Settings", "", "Keys of `config.method`."]
        for name in settings:
            lines += ["", f"```{{autodoc2-object}} wt_jax.methods.{module}.{name}", "```"]
    lines += ["", "## Code", "", f"`wt_jax/methods/{module}.py`", ""]
    lines += [f"```{{literalinclude}} ../../../wt_jax/methods/{module}.py", ":language: python", "```", ""]
    return "\n".join(lines)


def _moved(cell: str) -> str:
    """A cell of docs/methods.md whose links are read from two folders below."""
    return re.sub(r"\]\((?=[\w-]+\.md)", "](../../", cell).replace("](#", "](../../methods.md#")


# --- the public API


def api_page() -> str:
    """The page of the public functions and classes."""
    lines = ["# Public functions and classes", "", "## Losses", "", "`from wt_jax.losses import NAME`", ""]
    for home, name in _public_losses():
        lines += [f"```{{autodoc2-object}} {home}.{name}", "```", ""]
    for heading, names in PUBLIC.items():
        lines += [f"## {heading}", ""]
        for name in names:
            lines += [f"```{{autodoc2-object}} {name}", "```", ""]
    return "\n".join(lines)


def _public_losses() -> list[tuple[str, str]]:
    """Modules and names that `wt_jax.losses` exports."""
    tree = ast.parse((PACKAGE / "losses" / "__init__.py").read_text())
    return [
        (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
