"""Measures the search: the same queries by our scan, FAISS alone, NumPy and Milvus Lite, in one run:

    wt-jax bench-search [--moments=200000] [--dim=128] [--queries=100] [--index=DIR]

Vectors are random ones, or with --index those of an index. Recall is that of the 10 best by float64. Contenders that are not
installed, or would take over 4 GiB for such a number, are left out.
"""

import importlib.util
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wt_jax.cli import parse_arguments, set_up_logging, user_errors
from wt_jax.search.scan import Scan
from wt_jax.search.store import Snapshot, VideoEntry, create_store, open_store

_TOP = 10
_PER_VIDEO = 100
_MOST_BYTES = 4 << 30
_MOST_SENT = 500_000  # moments to Milvus Lite, which takes some thousand a second
_CHUNK = 100_000


def synthetic_index(folder: Path, moments: int, dim: int) -> None:
    """Write an index of random features, centered in themselves, a hundred moments per video."""
    create_store(folder, dim, {"fingerprint": "synthetic", "roots": [], "center": [0.0] * dim})
    rng = np.random.default_rng(0)
    with open_store(folder) as store:
        for start in range(0, moments, _CHUNK):
            rows = rng.standard_normal((min(_CHUNK, moments - start), dim), np.float32)
            entries = []
            for first in range(0, len(rows), _PER_VIDEO):
                part = rows[first : first + _PER_VIDEO]
                times = np.stack([np.arange(len(part)), np.arange(len(part)) + 1], axis=1).astype(np.float32)
                name = f"/synthetic/{start + first}.mp4"
                entries.append((VideoEntry(name, "1:1", name, float(len(part))), part, times))
            store.add(entries)


def truth(scan: Scan, queries: np.ndarray) -> np.ndarray:
    """Places (Q, 10) of the most alike moments by float64."""
    best = np.zeros((len(queries), 0)), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(scan), _CHUNK):
        places = np.arange(start, min(start + _CHUNK, len(scan)))
        features = scan.snapshot.features[scan.snapshot.rows[places]].astype(np.float64) - scan.center.astype(np.float64)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        scores = np.concatenate([best[0], queries.astype(np.float64) @ features.T], axis=1)
        found = np.concatenate([best[1], np.broadcast_to(places, (len(queries), len(places)))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
        best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)
    return best[1]


def measured(ask: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Recall at 10, and the median milliseconds of one query after another."""
    ask(queries[0])
    times, hits = [], []
    for query, right in zip(queries, wanted, strict=True):
        start = time.perf_counter()
        found = ask(query)
        times.append(1000 * (time.perf_counter() - start))
        hits.append(len(np.intersect1d(found, right)) / _TOP)
    return {"recall": float(np.mean(hits)), "ms": float(np.median(times)), "ms_95": float(np.quantile(times, 0.95))}


def contenders(scan: Scan, scratch: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """By name, what finds the places of the ten best; made one by one."""
    import faiss

    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {"ours": lambda query: scan.search(query, _TOP).places}
    dim = scan.snapshot.features.shape[1]
    if len(scan) * dim * 4 > _MOST_BYTES:
        return found
    rows = scan.unit(slice(None))
    flat = faiss.IndexFlatIP(dim)
    flat.add(rows)
    found["FAISS flat, float32"] = lambda query: flat.search(query[None], _TOP)[1][0]

    def numpy(query: np.ndarray) -> np.ndarray:
        scores = rows @ query
        return np.argpartition(-scores, _TOP)[:_TOP]

    found["NumPy, float32"] = numpy
    if importlib.util.find_spec("milvus_lite") and len(scan) <= _MOST_SENT:
        from wt_jax.search.milvus import MilvusIndex

        index = MilvusIndex(str(scratch / "moments.db"), "moments", "synthetic")
        index.fill(scan)
        found["Milvus Lite"] = lambda query: index.search(scan, query, _TOP).places
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--moments", type=int, default=200_000, help="random moments (%(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="numbers per moment (%(default)s)")
    parser.add_argument("--queries", type=int, default=100, help="queries (%(default)s)")
    parser.add_argument("--index", type=Path, metavar="DIR", help="an index to take the moments of")
    args = parser.parse_args(argv)
    set_up_logging()
    with user_errors(), tempfile.TemporaryDirectory() as scratch:
        folder = args.index
        if folder is None:
            folder = Path(scratch) / "index"
            synthetic_index(folder, args.moments, args.dim)
        print(json.dumps(run(folder, args.queries, Path(scratch))))


def run(folder: Path, count: int, scratch: Path) -> dict[str, object]:
    """All numbers of an index."""
    start = time.perf_counter()
    with open_store(folder) as store:
        snapshot: Snapshot = store.snapshot()
    scan = Scan(snapshot)
    opened = time.perf_counter() - start
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((count, snapshot.features.shape[1])).astype(np.float32)
    if snapshot.settings["fingerprint"] != "synthetic":
        near = scan.unit(rng.integers(len(scan), size=count))
        queries = near + 0.3 * queries / np.sqrt(queries.shape[1])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    start = time.perf_counter()
    scan.search(queries[0], 24)
    first = opened + time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wanted = truth(scan, queries)
    results: dict[str, object] = {"moments": len(scan), "open_s": round(opened, 2), "first_results_s": round(first, 2)}
    results["peak_MiB"] = round(peak)
    print(
        f"{len(scan):,} moments of {snapshot.features.shape[1]} numbers: opened in {opened:.2f} s, first results {first:.2f} s"
    )
    print(f"{'':22} {'recall@10':>9} {'ms':>8} {'ms, 95 %':>8}")
    for name, ask in contenders(scan, scratch).items():
        results[name] = found = measured(ask, queries, wanted)
        print(f"{name:22} {found['recall']:9.4f} {found['ms']:8.2f} {found['ms_95']:8.2f}", flush=True)
    return results


if __name__ == "__main__":
    main()
