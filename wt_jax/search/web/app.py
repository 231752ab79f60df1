"""The web application: pages, the JSON interface behind them, moving pictures, and exports.

Addresses carry ids of rows, never paths. Whatever takes time runs in threads, a few per session, so that nobody's searches keep
another's waiting; videos are read in processes with limits.
"""

import asyncio
import collections
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wt_jax.data.video.reader import file_of, is_remote
from wt_jax.search.engine import Engine, Result, allowed_moments, changed_at, results_of
from wt_jax.search.media import MediaPool
from wt_jax.search.related import layout, locate, near_duplicates
from wt_jax.search.scan import Hits, Scan, combined
from wt_jax.search.store import VideoEntry
from wt_jax.search.web.errors import Refused
from wt_jax.search.web.exports import export
from wt_jax.search.web.library import Library, name_below
from wt_jax.search.web.requests import MOST_RESULTS, Asked, asked, count_of, number, places, to_locate
from wt_jax.search.web.security import Gate, Tokens
from wt_jax.search.web.uploads import Uploads

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
_PER_SESSION, _WAITING = 3, 64  # requests of one session that are worked on, and that wait
_THREADS = 16
_REFRESH_SECONDS = 2.0
_PLAY_SECONDS, _PLAY_SIDE, _PREVIEW_SIDE = 60.0, 640, 320
_MOST_BODY = 1 << 20
_MARKS = 5
_COPY = 0.97


@dataclass(frozen=True)
class Limits:
    """How much the server takes and keeps.

    Attributes:
      upload_bytes: of one clip.
      cache_bytes: of thumbnails.
      readers: processes that read videos of the index; uploads have as many of their own.
    """

    upload_bytes: int = 200 << 20
    cache_bytes: int = 512 << 20
    readers: int = 2


class Site:
    """What all requests share."""

    def __init__(self, engine: Engine, tokens: Tokens, limits: Limits):
        self.engine, self.tokens = engine, tokens
        self.pool, self.upload_pool = MediaPool(limits.readers), MediaPool(limits.readers)
        self.library = Library(engine.folder, self.pool, limits.cache_bytes)
        self.uploads = Uploads(engine, self.upload_pool, limits.upload_bytes)
        self.threads: anyio.CapacityLimiter | None = None
        self._sessions: collections.OrderedDict[str, asyncio.Semaphore] = collections.OrderedDict()
        self._waiting: collections.Counter[str] = collections.Counter()
        self._map: tuple[Scan, Any] | None = None
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True)
        self.templates = environment
        self.assets = {path.name: f"{path.stat().st_mtime_ns:x}" for path in (HERE / "static").iterdir()}

    async def work(self, request: Request, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread, in its session's turn.

        Raises:
          Refused: too many requests of this session wait already.
        """
        session = request.scope["session"]
        if session not in self._sessions:
            self._sessions[session] = asyncio.Semaphore(_PER_SESSION)
            while len(self._sessions) > 4096:
                self._sessions.popitem(last=False)
        if self._waiting[session] >= _WAITING:
            raise Refused(429, "Too many requests at once; wait for some of them.")
        self._waiting[session] += 1
        try:
            async with self._sessions[session]:
                return await anyio.to_thread.run_sync(lambda: function(*arguments), limiter=self.threads)
        finally:
            self._waiting[session] -= 1
            if not self._waiting[session]:
                del self._waiting[session]

    def close(self) -> None:
        """End the processes, remove uploads."""
        self.pool.close()
        self.upload_pool.close()
        self.uploads.close()

    def video_fields(self, scan: Scan, video: VideoEntry) -> dict[str, Any]:
        """What the page shows of a video."""
        name = self.library.name(video, scan.snapshot)
        return {
            "id": video.id,
            "name": name,
            "label": video.label,
            "duration": round(video.duration, 3),
            "columns": dict(video.columns),
            "changed": changed_at(video),
        }

    def result_fields(self, scan: Scan, results: Sequence[Result]) -> list[dict[str, Any]]:
        """What the page shows of moments."""
        return [
            {
                "moment": result.moment,
                "start": round(result.start, 3),
                "end": round(result.end, 3),
                "score": round(result.score, 4),
                "percentile": round(result.percentile, 2),
                "video": self.video_fields(scan, result.video),
            }
            for result in results
        ]

    def map_of(self, scan: Scan) -> Any:
        """The layout of a snapshot, made once."""
        if self._map is None or self._map[0] is not scan:
            self._map = scan, layout(scan)
        return self._map[1]


def create_app(engine: Engine, tokens: Tokens, hosts: Sequence[str], limits: Limits | None = None) -> Starlette:
    """The application for an index.

    Args:
      engine: the index.
      tokens: who may ask, see `security`.
      hosts: names and addresses that requests may use for this server.
      limits: what it takes and keeps.
    """
    site = Site(engine, tokens, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        site.threads = anyio.CapacityLimiter(_THREADS)
        site.pool.warm_up()
        site.upload_pool.warm_up()
        task = asyncio.create_task(_refresh(site))
        try:
            yield
        finally:
            task.cancel()
            site.close()

    routes = [
        Route("/", _page("search.html", "Search")),
        Route("/video/{video:int}", _page("video.html", "Video")),
        Route("/map", _page("map.html", "Map")),
        Route("/duplicates", _page("duplicates.html", "Near duplicates")),
        Route("/about", _page("about.html", "Index")),
        Route("/api/info", _info),
        Route("/api/browse", _browse),
        Route("/api/search", _search),
        Route("/api/find", _find),
        Route("/api/videos/{video:int}", _video),
        Route("/api/videos/{video:int}/strip", _strip),
        Route("/api/duplicates", _duplicates),
        Route("/api/map", _map),
        Route("/api/clips", _upload, methods=["POST"]),
        Route("/api/export", _export, methods=["POST"]),
        Route("/thumb/{moment:int}.mp4", _thumb),
        Route("/media/{video:int}", _media),
        Route("/clip/{key}.mp4", _clip),
        Mount("/static", GZipMiddleware(StaticFiles(directory=HERE / "static"))),
    ]
    handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _http_error, Exception: _fault}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.site = site
    app.add_middleware(Gate, tokens=tokens, hosts=hosts)
    return app


async def _refresh(site: Site) -> None:
    """Take over what is indexed meanwhile, notice a full disk."""
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        try:
            await anyio.to_thread.run_sync(site.engine.refresh)
            await anyio.to_thread.run_sync(site.library.check_disk)
        except Exception:
            log.exception("the index cannot be read anew; what is in memory is served on")


def _site(request: Request) -> Site:
    return request.app.state.site


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": error.text}, error.status)


async def _http_error(request: Request, error: HTTPException) -> Response:
    text = "There is nothing at this address." if error.status_code == 404 else "This cannot be asked here."
    return JSONResponse({"error": text}, error.status_code)


async def _fault(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return JSONResponse({"error": "Something went wrong on the server; its log says what."}, 500)


def _page(template: str, title: str) -> Callable[[Request], Any]:
    async def page(request: Request) -> Response:
        site, session = _site(request), request.scope["session"]
        video = request.path_params.get("video")
        if video is not None and video not in site.engine.scan.snapshot.videos:
            raise Refused(404, "There is no such video in the index.")
        csrf = site.tokens.csrf(session)
        text = site.templates.get_template(template).render(title=title, csrf=csrf, video=video, assets=site.assets)
        return HTMLResponse(text)

    return page


async def _info(request: Request) -> Response:
    site = _site(request)
    return JSONResponse(await site.work(request, _info_fields, site))


def _info_fields(site: Site) -> dict[str, Any]:
    scan = site.engine.scan
    snapshot, facts, windows = scan.snapshot, site.engine.encoder.facts, site.engine.windows
    videos = snapshot.videos.values()
    names = [site.library.name(video, snapshot) for video in videos]
    columns: dict[str, set[str]] = {}
    for video in videos:
        for name, value in video.columns.items():
            columns.setdefault(name, set()).add(value)
    labels = collections.Counter(video.label for video in videos if video.label)
    roots = snapshot.settings["roots"]
    failures = [{"name": name_below(failure.path, roots), "reason": failure.reason} for failure in snapshot.failures]
    return {
        "moments": len(scan),
        "videos": len(snapshot.videos),
        "seconds": round(sum(video.duration for video in videos), 1),
        "encoder": {"name": facts.name, "dim": facts.dim, "fingerprint": facts.fingerprint[:12]},
        "windows": {"length": windows.length, "every": windows.every},
        "folders": sorted({name.rpartition("/")[0] for name in names} - {""})[:500],
        "labels": dict(sorted(labels.items())),
        # A column with a value of its own for each video is no filter.
        "columns": {name: sorted(values) for name, values in columns.items() if len(values) <= 50},
        "least_alike": round(scan.least_alike, 4),
        "failures": failures[:200],
        "num_failures": len(failures),
        "trouble": [{"name": name, "reason": reason} for name, reason in site.library.trouble()],
    }


async def _browse(request: Request) -> Response:
    """Moments to begin with, spread over the index."""
    site, scan = _site(request), _site(request).engine.scan
    count = count_of(request.query_params, 24)
    spread = np.unique(np.linspace(0, max(len(scan) - 1, 0), min(count, len(scan))).astype(np.int64))
    moments = site.result_fields(scan, results_of(scan, Hits(spread, np.zeros(len(spread), np.float32))))
    return JSONResponse({"moments": moments})


async def _search(request: Request) -> Response:
    site = _site(request)
    return JSONResponse(await site.work(request, _found, site, request))


def _asked(site: Site, request: Request, scan: Scan) -> Asked:
    return asked(request.query_params, request.scope["session"], site.engine, scan, site.uploads)


def _found(site: Site, request: Request) -> dict[str, Any]:
    start, scan = time.perf_counter(), site.engine.scan
    query = _asked(site, request, scan)
    if query.is_empty:
        raise Refused(400, "Nothing is asked with: give an example.")
    answer = site.engine.search(
        scan,
        query.examples,
        query.against,
        count=query.count,
        filters=query.filters,
        threshold=query.threshold,
        one_per_video=query.one_per_video,
    )
    return {
        "results": site.result_fields(scan, answer.results),
        "alike": answer.alike,
        "least_alike": round(answer.least_alike, 4),
        "milliseconds": round(1000 * (time.perf_counter() - start), 1),
    }


async def _find(request: Request) -> Response:
    """Where the seconds of one clip, or one moment, lie within the videos."""
    site = _site(request)

    def find() -> dict[str, Any]:
        scan = site.engine.scan
        query = _asked(site, request, scan)
        rows = to_locate(request.query_params, request.scope["session"], query, scan, site.uploads)
        hits = locate(scan, rows, query.count, allowed_moments(scan.snapshot, query.filters))
        results = results_of(scan, hits, query.threshold)
        length = (len(rows[0]) - 1) * site.engine.windows.every
        fields = site.result_fields(scan, results)
        for result in fields:
            result["end"] = round(min(result["end"] + length, result["video"]["duration"]), 3)
        return {"results": fields, "alike": bool(results) and results[0].score >= scan.least_alike}

    return JSONResponse(await site.work(request, find))


def _entry(request: Request) -> tuple[Scan, VideoEntry]:
    scan = _site(request).engine.scan
    video = scan.snapshot.videos.get(request.path_params["video"])
    if video is None:
        raise Refused(404, "There is no such video in the index.")
    return scan, video


async def _video(request: Request) -> Response:
    site = _site(request)
    scan, video = _entry(request)
    facts = await site.work(request, site.library.facts, video, scan.snapshot)
    mine = np.flatnonzero(scan.snapshot.video_ids == video.id)
    moments = [
        {"moment": int(scan.snapshot.rows[place]), "start": float(start), "end": float(end)}
        for place, (start, end) in zip(mine, scan.snapshot.times[mine].tolist(), strict=True)
    ]
    return JSONResponse(site.video_fields(scan, video) | {"facts": facts, "moments": moments})


async def _strip(request: Request) -> Response:
    """The similarity of every moment of a video to the query, and where it is highest."""
    site = _site(request)
    scan, video = _entry(request)

    def strip() -> dict[str, Any]:
        query = _asked(site, request, scan)
        if query.is_empty:
            raise Refused(400, "Nothing is asked with: give an example.")
        mine = np.flatnonzero(scan.snapshot.video_ids == video.id)
        scores = scan.scores(combined(query.examples, query.against)[None], mine)[0]
        marks: list[int] = []
        for place in np.argsort(-scores, kind="stable").tolist():
            if len(marks) < _MARKS and all(abs(place - other) > 2 for other in marks):
                marks.append(place)
        return {
            "scores": [round(float(score), 4) for score in scores],
            "percentiles": [round(float(value), 2) for value in scan.percentile(scores)],
            "marks": marks,
            "least_alike": round(scan.least_alike, 4),
        }

    return JSONResponse(await site.work(request, strip))


async def _duplicates(request: Request) -> Response:
    site, scan = _site(request), _site(request).engine.scan
    least = number(request.query_params, "least") if request.query_params.get("least") else _COPY
    videos = [int(text) for text in request.query_params.getlist("video") if text.isdecimal()]

    def find() -> dict[str, Any]:
        copies = near_duplicates(scan, least, count_of(request.query_params, 50), videos)
        pairs = []
        for copy in copies.pairs:
            hits = Hits(np.array(copy.moments), np.full(2, copy.score, np.float32))
            pairs.append({"fraction": round(copy.fraction, 3), "moments": site.result_fields(scan, results_of(scan, hits))})
        return {"pairs": pairs, "checked": copies.checked, "total": copies.total}

    return JSONResponse(await site.work(request, find))


async def _map(request: Request) -> Response:
    site, scan = _site(request), _site(request).engine.scan

    def points() -> dict[str, Any]:
        shown, points = site.map_of(scan)
        ids = scan.snapshot.video_ids[shown]
        videos = {int(v): site.video_fields(scan, scan.snapshot.videos[int(v)]) for v in np.unique(ids)}
        return {
            "moments": scan.snapshot.rows[shown].tolist(),
            "starts": scan.snapshot.times[shown, 0].round(3).tolist(),
            "videos": ids.tolist(),
            "points": points.round(4).tolist(),
            "names": {key: {"name": value["name"], "label": value["label"]} for key, value in videos.items()},
        }

    return JSONResponse(await site.work(request, points))


async def _thumb(request: Request) -> Response:
    site, scan = _site(request), _site(request).engine.scan

    def make() -> bytes:
        place = int(places(scan, [request.path_params["moment"]])[0])
        video = scan.snapshot.videos[int(scan.snapshot.video_ids[place])]
        return site.library.thumbnail(video, scan.snapshot, *map(float, scan.snapshot.times[place]))

    content = await site.work(request, make)
    return _ranged(request, content, "video/mp4", {"cache-control": "private, max-age=600"})


def _ranged(request: Request, content: bytes, kind: str, headers: dict[str, str]) -> Response:
    """Bytes in memory, or the range of them that is asked for; some browsers play nothing without ranges."""
    headers = headers | {"accept-ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d{1,12})-(\d{0,12})", request.headers.get("range", ""))
    if not match or int(match[1]) >= len(content):
        return Response(content, media_type=kind, headers=headers)
    first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    headers["content-range"] = f"bytes {first}-{last}/{len(content)}"
    return Response(content[first : last + 1], 206, media_type=kind, headers=headers)


async def _media(request: Request) -> Response:
    """A video to play: its file, or where browsers do not play that, re-encoded from `from` seconds on."""
    site = _site(request)
    scan, video = _entry(request)
    facts = await site.work(request, site.library.facts, video, scan.snapshot)
    path = await site.work(request, site.library.file, video, scan.snapshot)
    if facts["playable"] and not is_remote(path) and file_of(path) == path and request.query_params.get("encode") != "1":
        kind = "video/webm" if path.lower().endswith(".webm") else "video/mp4"
        return FileResponse(path, media_type=kind, headers={"cache-control": "private, no-cache"})
    start = number(request.query_params, "from") if request.query_params.get("from") else 0.0
    return _streamed(site.pool, path, max(start, 0.0), _PLAY_SIDE)


async def _clip(request: Request) -> Response:
    """An uploaded clip to look at, re-encoded."""
    site = _site(request)
    clip = site.uploads.find(request.scope["session"], request.path_params["key"])
    return _streamed(site.upload_pool, str(clip.path), 0.0, _PREVIEW_SIDE)


def _streamed(pool: MediaPool, path: str, start: float, side: int) -> Response:
    def content() -> Iterator[bytes]:
        for _, part in pool.stream("play", path, seconds=_PLAY_SECONDS, start=start, side=side):
            yield part

    return StreamingResponse(iterate_in_threadpool(content()), media_type="video/mp4")


async def _upload(request: Request) -> Response:
    site = _site(request)
    key, facts = await site.uploads.receive(request.scope["session"], request.stream())
    return JSONResponse({"clip": key, "duration": facts["duration"], "width": facts["width"], "height": facts["height"]}, 201)


async def _export(request: Request) -> Response:
    """Results as a file. The body: {"format", "moments": [{"moment", "score"}]}."""
    site = _site(request)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BODY:
            raise Refused(413, "That is too much to export at once.")
    try:
        wanted = json.loads(body)
        kind, rows = str(wanted["format"]), wanted["moments"]
        names, scores = [int(row["moment"]) for row in rows], [float(row["score"]) for row in rows]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Refused(400, "The export is not described as it should be.") from None
    if not 1 <= len(names) <= MOST_RESULTS or not all(0 <= name < 1 << 60 for name in names):
        raise Refused(400, f"Choose from 1 to {MOST_RESULTS} moments to export.")

    def make() -> Any:
        scan = site.engine.scan
        results = results_of(scan, Hits(places(scan, names), np.array(scores, np.float32)), -np.inf)
        return export(kind, results, scan.snapshot, site.library, site.pool)

    made = await site.work(request, make)
    headers = {"content-disposition": f'attachment; filename="{made.name}"'}
    return StreamingResponse(iterate_in_threadpool(made.content), media_type=made.type, headers=headers)
