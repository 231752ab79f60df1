"""Retrieval from video to speech and back: which of all test sounds belongs to this clip, and which clip to this sound?

Embeddings of clips and of the sound of their windows, by a method that has both in one space, averaged over windows. A query
finds its own counterpart, and one of its class: where many videos show the same, the second is what can be asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wt_jax.eval.protocols.base import Encoded, Split
from wt_jax.eval.similarity import check_features, check_labels, check_pair, unit_rows
from wt_jax.eval.statistics import Result, join


@dataclass(frozen=True)
class SpeechRetrieval:
    """Test items query each other across modalities; the training set is not read.

    Attributes:
      ks: the k of "to_speech@k" and "to_video@k". At k = 1 there are "to_speech_class@1" and "to_video_class@1" too.
    """

    ks: tuple[int, ...] = (1, 5, 10)

    reads: ClassVar = "sounds"

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks {self.ks} must be some, each 1 or more")

    def headings(self) -> dict[str, str]:
        """R@1 both ways, of the counterpart and of its class."""
        names = {f"to_speech@{self.ks[0]}": f"video to speech R@{self.ks[0]}"}
        names |= {f"to_video@{self.ks[0]}": f"speech to video R@{self.ks[0]}"}
        return names | {"to_speech_class@1": "class of the speech", "to_video_class@1": "class of the video"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError where there is no sound."""
        if "sounds" not in shapes:
            raise ValueError("it needs embeddings of sound; name the workdir of a run whose method makes them")

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """Hits of every test item; see `wt_jax.eval.protocols.base.Protocol`."""
        if features.sounds is None:
            raise ValueError("speech retrieval needs embeddings of sound")
        labels = check_labels("labels", labels, len(features.values))
        results = []
        for split in splits:
            clips = check_features("test_features", features.values[split.test])
            sounds, own = check_features("test_sounds", features.sounds[split.test]), labels[split.test]
            check_pair("test_features", clips, "test_sounds", sounds)
            similarity = np.round(unit_rows(clips) @ unit_rows(sounds).T, 12)
            values = {}
            for name, rows in (("to_speech", similarity), ("to_video", similarity.T)):
                # How many others are at least as near: a tie counts as a miss, so that a collapsed space scores nothing.
                rank = np.sum(rows >= np.diagonal(rows)[:, None], axis=1) - 1
                values |= {f"{name}@{k}": (rank < k).astype(np.float64) for k in self.ks}
                values[f"{name}_class@1"] = (own[rows.argmax(axis=1)] == own).astype(np.float64)
            results.append(Result(split.test, np.zeros(len(own), np.int32), own, values))
        return join(results)
