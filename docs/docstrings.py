"""Docstrings of this project as Markdown: sections (`Args:`) become lists, indented blocks (equations) code blocks."""

import re
import textwrap

_SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields")
_ENTRY = re.compile(r"(?P<names>[*\w., ]+?): (?P<text>.*)", re.DOTALL)


def to_markdown(docstring: str) -> str:
    """The docstring, which `inspect.cleandoc` or alike has freed of its indentation, as Markdown."""
    blocks, lines = [], docstring.expandtabs().splitlines()
    while lines:
        if not lines[0].strip():
            lines.pop(0)
        elif (name := lines[0].rstrip(":")) in _SECTIONS and lines[0].endswith(":"):
            lines.pop(0)
            blocks.append(_section(name, _indented(lines)))
        elif lines[0].startswith(" "):
            blocks.append(f"```text\n{textwrap.dedent(chr(10).join(_indented(lines))).strip()}\n```")
        else:
            paragraph = []
            while lines and lines[0].strip() and not lines[0].startswith(" ") and lines[0].rstrip(":") not in _SECTIONS:
                paragraph.append(lines.pop(0))
                while lines and paragraph[-1].startswith("* ") and lines[0].startswith("  "):  # a list's continued item
                    paragraph[-1] += f" {lines.pop(0).strip()}"
            blocks.append("\n".join(map(_escape, paragraph)))
    return "\n\n".join(blocks)


def _indented(lines: list[str]) -> list[str]:
    """Takes the indented lines, and blank ones between them, off the front."""
    block = []
    while lines and (lines[0].startswith(" ") or (not lines[0].strip() and any(lines[1:2]) and lines[1].startswith(" "))):
        block.append(lines.pop(0))
    return block


def _section(name: str, lines: list[str]) -> str:
    """A section as a bold word and a list of its entries; lines that are indented further belong to the entry above."""
    lines = textwrap.dedent("\n".join(lines)).splitlines()
    entries: list[str] = []
    for line in filter(str.strip, lines):
        if line.startswith(" ") and entries:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    items = [_ENTRY.fullmatch(entry) for entry in entries]
    if name in ("Returns", "Yields"):
        return f"**{name}**: {_escape(' '.join(entries))}"
    texts = [
        f"* `{item['names']}`: {_escape(item['text'])}" if item else f"* {_escape(entry)}"
        for item, entry in zip(items, entries, strict=True)
    ]
    return "\n".join([f"**{name}**", "", *texts])


def _escape(text: str) -> str:
    """Markdown whose signs outside of code mean themselves; the bullet of a list item stays."""
    bullet, text = (text[:2], text[2:]) if text.startswith("* ") else ("", text)
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<>\[\]_{}$~^])", r"\\\1", part) for part in parts[::2]]
    return bullet + "`".join(parts)


def __getattr__(name: str) -> type:
    """`Parser`, which autodoc2 asks for; Sphinx is imported with it alone."""
    if name != "Parser":
        raise AttributeError(name)
    from myst_parser.parsers.sphinx_ import MystParser

    class Parser(MystParser):
        """Parses a docstring."""

        def parse(self, inputstring, document):
            """Parse it as Markdown."""
            super().parse(to_markdown(inputstring), document)

    return Parser
