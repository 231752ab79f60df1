"""Results to take away: CSV, JSON, a list to train on, labels for FiftyOne, the clips, a page that needs no server."""

import base64
import csv
import html
import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wt_jax.eval.fiftyone import moment_labels
from wt_jax.search.engine import Result
from wt_jax.search.media import MediaError, MediaPool
from wt_jax.search.store import Snapshot
from wt_jax.search.web.errors import Refused
from wt_jax.search.web.library import Library

log = logging.getLogger(__name__)

_CUT_SECONDS = 60.0
_MOST_CLIPS = 60
FORMATS = ("csv", "json", "list", "fiftyone", "clips", "html")


@dataclass(frozen=True)
class Export:
    """A file: its name, media type and content, in pieces."""

    name: str
    type: str
    content: Iterator[bytes]


def export(kind: str, results: Sequence[Result], snapshot: Snapshot, library: Library, pool: MediaPool) -> Export:
    """The results in one of `FORMATS`. Paths are those below the folder that was indexed.

    Raises:
      Refused: there is no such format, or too much is asked for.
    """
    rows = [_row(result, library.name(result.video, snapshot)) for result in results]
    match kind:
        case "csv":
            return Export("moments.csv", "text/csv; charset=utf-8", iter([_csv(rows).encode()]))
        case "json":
            return Export("moments.json", "application/json", iter([json.dumps({"moments": rows}, indent=1).encode()]))
        case "list":
            return Export("videos.csv", "text/csv; charset=utf-8", iter([_list(rows).encode()]))
        case "fiftyone":
            return Export("labels.json", "application/json", iter([json.dumps(moment_labels(rows), indent=1).encode()]))
        case "clips":
            if len(results) > _MOST_CLIPS:
                raise Refused(400, f"At most {_MOST_CLIPS} clips at once, please.")
            return Export("moments.zip", "application/zip", _zip(results, snapshot, library, pool))
        case "html":
            if len(results) > _MOST_CLIPS:
                raise Refused(400, f"At most {_MOST_CLIPS} moments on one page, please.")
            return Export("moments.html", "text/html; charset=utf-8", iter([_page(results, rows, snapshot, library).encode()]))
    raise Refused(400, f"There is no such format; there are {', '.join(FORMATS)}.")


def _row(result: Result, name: str) -> dict[str, object]:
    return {
        "path": name,
        "start": round(result.start, 3),
        "end": round(result.end, 3),
        "score": round(result.score, 4),
        "percentile": round(result.percentile, 2),
        "label": result.video.label,
        "moment": result.moment,
    }


def _csv(rows: Sequence[dict[str, object]]) -> str:
    columns = ("path", "start", "end", "score", "percentile", "label", "moment")
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _no_formula(value) for name, value in row.items()} for row in rows])
    return text.getvalue()


def _list(rows: Sequence[dict[str, object]]) -> str:
    """A list that training takes, each video once; --config.data.root is the folder that was indexed."""
    labeled = all(row["label"] for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"] if labeled else ["path"])
    for path, label in dict.fromkeys((row["path"], row["label"]) for row in rows):
        writer.writerow([_no_formula(path), label] if labeled else [_no_formula(path)])
    return text.getvalue()


def _no_formula(value: object) -> object:
    """Spreadsheets run cells that begin like formulas; a path stays the same path with ./ before it."""
    return "./" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _zip(results: Sequence[Result], snapshot: Snapshot, library: Library, pool: MediaPool) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            faults = []
            for number, result in enumerate(results, 1):
                name = library.name(result.video, snapshot)
                try:
                    path = library.file(result.video, snapshot)
                    _, content = pool.run("cut", path, seconds=_CUT_SECONDS, start=result.start, end=result.end)
                except (Refused, MediaError) as error:
                    faults.append(f"{name}: {error}")
                    continue
                stem = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in Path(name).stem)[:60]
                archive.writestr(f"{number:03}_{stem}_{result.start:.2f}-{result.end:.2f}.mp4", content)
            if faults:
                archive.writestr("left_out.txt", "\n".join(faults) + "\n")
        file.seek(0)
        while part := file.read(1 << 18):
            yield part


def _page(results: Sequence[Result], rows: Sequence[dict[str, object]], snapshot: Snapshot, library: Library) -> str:
    """One file with its moving pictures inside."""
    tiles = []
    for result, row in zip(results, rows, strict=True):
        name = html.escape(str(row["path"]))
        try:
            content = library.thumbnail(result.video, snapshot, result.start, result.end)
            source = base64.b64encode(content).decode()
            shown = f'<video src="data:video/mp4;base64,{source}" autoplay muted loop playsinline aria-label="{name}"></video>'
        except Refused as error:
            shown = f"<p>{html.escape(error.text)}</p>"
        tiles.append(
            f"<figure>{shown}<figcaption><b>{result.score:.3f}</b> above {result.percentile:.1f} % of random pairs<br>"
            f"{name}<br>{result.start:.2f} to {result.end:.2f} s</figcaption></figure>"
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Moments</title><style>'
        "body{font:15px system-ui;margin:1.5rem;color-scheme:light dark}main{display:grid;gap:1rem;"
        "grid-template-columns:repeat(auto-fill,minmax(12rem,1fr))}figure{margin:0}video{width:100%;border-radius:6px}"
        f"figcaption{{overflow-wrap:anywhere}}</style><h1>{len(tiles)} moments</h1><main>{''.join(tiles)}</main></html>\n"
    )
