"""Text files of other programs: their encodings, marks, separators and line ends; and CSV files that take any file name."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from etils import epath

from wt_jax.errors import SourceError

# UTF-32 first: the mark of UTF-16 begins that of UTF-32.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_BINARY = re.compile(r"[\0-\x08\x0e-\x1a]")


def read_text(place: epath.Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a mark, without that.

    Bytes that are no UTF-8 are kept as `os.fsdecode` keeps them, since a file name may hold any.

    Raises:
      SourceError: it is no text.
    """
    content = place.read_bytes()
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text = content[len(mark) :].decode(
            _MARKS.get(mark, "utf-8"), "surrogateescape" if mark in (b"", codecs.BOM_UTF8) else "strict"
        )
    except UnicodeDecodeError:
        text = "\0"
    if _BINARY.search(text):
        raise SourceError(f"{place}: this is no text file; give a folder or a list of `path label` lines")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text, which end at line ends alone: a name may hold what else Unicode ends lines with."""
    return re.split("\r\n|\n" if "\n" in text else "\r", text)


def records_of(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV text, each with the number of its first line; blank lines and lines that start with # are none.

    A quoted value may hold line ends.
    """
    number, start, within = 0, 0, False

    def lines() -> Iterator[str]:
        nonlocal number, start, within
        for line in io.StringIO(text, newline=""):
            number += 1
            if within or not is_skipped(line):
                start = start if within else number
                within = True
                yield line

    for values in csv.reader(lines(), delimiter=delimiter):
        within = False
        yield start, values


def is_skipped(line: str) -> bool:
    """Whether a line of a list holds no video."""
    return not line.strip() or line.startswith("#")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A CSV file with a header, from which `records_of` reads back any values."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(columns)
    for row in rows:
        values = [row.get(name, "") for name in columns]
        # Python does not quote what ends a line elsewhere, nor spaces and marks at the start.
        odd = any(isinstance(value, str) and re.search(r"[\r\n]|^[\s#]|\s$", value) for value in values)
        csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL).writerow(values)
    return file.getvalue().encode("utf-8", "surrogateescape")


def headless_csv(rows: Iterable[Sequence[object]]) -> str:
    """A CSV file without a header, as AVA's are."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
