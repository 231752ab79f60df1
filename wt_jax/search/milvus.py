"""An index on a Milvus server, for more moments than one machine holds: the same questions through `pymilvus`.

SQLite keeps the truth about videos; Milvus holds the features, centered and of length 1, with what filters need. What is sent
is not sent again, so the center must no longer move: `freeze_center` keeps it in the index. With a file name as address it is
Milvus Lite, in this process, which the tests use. docs/motion_search.md has the plan for 1e9 moments.
"""

import json
from collections.abc import Sequence

import numpy as np
from pymilvus import DataType, MilvusClient  # pyright: ignore[reportMissingImports]: an extra

from wt_jax.errors import SearchError
from wt_jax.search.scan import Hits, Scan, center_of
from wt_jax.search.store import Store

_INSERTED = 5000  # rows at once
_CANDIDATES = 50  # ranked again in float32 by who asks


def freeze_center(store: Store, like: Store | None = None) -> None:
    """Keep a center of all features from now on: that of the index `like`, else the mean of what is indexed so far.

    Raises:
      SearchError: the index has another center than `like` already, or `like` has none.
    """
    with store.lock():
        own, wanted = store.settings().get("center"), like and like.settings().get("center")
        if like and not wanted:
            raise SearchError(f"{like.folder} has not kept its center yet; write its own Parquet files first")
        if own and wanted and own != wanted:
            raise SearchError(f"{store.folder} has another center already: its moments cannot be mixed with others")
        if not own:
            store.set_setting("center", wanted or center_of(store.snapshot()).tolist())


def check_center(scan: Scan) -> None:
    """Raise SearchError where the center may still move."""
    if "center" not in scan.snapshot.settings:
        raise SearchError("the center of this index may still move; keep it first: wt_jax.search.milvus.freeze_center")


class MilvusIndex:
    """A collection that holds the moments of an index."""

    def __init__(self, address: str, collection: str, fingerprint: str, token: str = ""):
        """Connect.

        Args:
          address: http://HOST:19530, or a file of Milvus Lite.
          collection: its name; that of the encoder is added, so that features of two encoders never mix.
          fingerprint: of the encoder, see `wt_jax.search.exported.EncoderFacts`.
          token: user:password of the server.

        Raises:
          SearchError: the server cannot be reached.
        """
        try:
            self._client = MilvusClient(uri=address, token=token)
        except Exception as error:  # pymilvus raises many kinds
            raise SearchError(f"the Milvus server {address} cannot be reached ({_line(error)})") from None
        self._name = f"{collection}_{fingerprint[:16]}"

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def fill(self, scan: Scan, *, index: str = "FLAT", parameters: dict[str, object] | None = None) -> int:
        """Bring the collection up to date with a snapshot; returns how many moments were sent.

        Moments that it has are not sent again, and those that are gone are deleted, so an interrupted call is repeated.

        Args:
          scan: the snapshot.
          index: Milvus's kind of index: FLAT is exact, IVF_RABITQ is for many millions.
          parameters: of the index.

        Raises:
          SearchError: the center of the index may still move.
        """
        check_center(scan)
        dim = scan.snapshot.features.shape[1]
        if not self._client.has_collection(self._name):
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("moment", DataType.INT64, is_primary=True)
            schema.add_field("feature", DataType.FLOAT_VECTOR, dim=dim)
            schema.add_field("video", DataType.INT64)
            schema.add_field("label", DataType.VARCHAR, max_length=512)
            kinds = self._client.prepare_index_params()
            kinds.add_index("feature", index_type=index, metric_type="IP", params=parameters or {})
            self._client.create_collection(self._name, schema=schema, index_params=kinds)
        self._client.load_collection(self._name)
        wanted, there = scan.snapshot.rows, self._moments()
        gone = np.setdiff1d(there, wanted)
        for start in range(0, len(gone), _INSERTED):
            self._client.delete(self._name, ids=gone[start : start + _INSERTED].tolist())
        places = np.flatnonzero(~np.isin(wanted, there))
        for start in range(0, len(places), _INSERTED):
            part = places[start : start + _INSERTED]
            self._client.insert(self._name, self._rows(scan, part))
        self._client.flush(self._name)
        return len(places)

    def search(self, scan: Scan, query: np.ndarray, count: int, *, videos: Sequence[int] = (), label: str = "") -> Hits:
        """As `Scan.search`: Milvus finds candidates, which are ranked again in float32 where the snapshot is at hand.

        Args:
          scan: names the places.
          query: (D,) float32 of length 1.
          count: how many.
          videos: ids of the videos to look into; empty: all.
          label: a class to look into; empty: all.
        """
        rules = [f"video in {[int(video) for video in videos]}"] if videos else []
        if label:
            rules.append(f"label == {json.dumps(label)}")  # quoted, with quotes inside escaped
        found = self._client.search(
            self._name,
            data=[query.tolist()],
            anns_field="feature",
            limit=max(_CANDIDATES, count),
            filter=" and ".join(rules),
            consistency_level="Strong",
        )[0]
        moments = np.sort(np.array([hit["moment"] for hit in found], np.int64))
        places = np.searchsorted(scan.snapshot.rows, moments)
        scores = scan.scores(query[None], places)[0]
        order = np.argsort(-scores, kind="stable")[:count]
        return Hits(places[order], scores[order])

    def _moments(self) -> np.ndarray:
        """Names of all moments that the collection has."""
        found: list[int] = []
        rows = self._client.query_iterator(self._name, batch_size=_INSERTED, output_fields=["moment"])
        while part := rows.next():
            found += [row["moment"] for row in part]
        rows.close()
        return np.array(found, np.int64)

    def _rows(self, scan: Scan, places: np.ndarray) -> list[dict[str, object]]:
        snapshot = scan.snapshot
        videos = snapshot.video_ids[places].tolist()
        features = scan.unit(places)
        return [
            {"moment": moment, "feature": feature.tolist(), "video": video, "label": snapshot.videos[video].label}
            for moment, feature, video in zip(snapshot.rows[places].tolist(), features, videos, strict=True)
        ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
