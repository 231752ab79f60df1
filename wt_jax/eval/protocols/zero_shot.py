"""Zero-shot classification: the class whose text feature is most like the video's (Radford et al. 2021, arXiv 2103.00020).

Nothing is trained, and no label of a training video is read; the names of the classes are in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from wt_jax.eval.protocols.base import Encoded, Predicted, Split, over_splits
from wt_jax.eval.statistics import Result
from wt_jax.weights.table import load_table


@dataclass(frozen=True)
class ZeroShot:
    """Cosine to the rows of a table.

    Attributes:
      table: folder of text features (`wt_jax.tools.concept_table`), a row for each class, by the names of the data set's
        classes; of rows of other names nothing is read.
    """

    table: str = ""

    reads: ClassVar = "features"

    def headings(self) -> dict[str, str]:
        """Top-1."""
        return {"top1": "zero-shot"}

    def check(self, shapes: Mapping[str, tuple[int, ...]], labels: np.ndarray, splits: Sequence[Split]) -> None:
        """Raise ValueError without a table, or for one of another width than the feature's."""
        if not self.table:
            raise ValueError("table is empty; name a folder of text features (wt-jax concept-table)")
        width = load_table(Path(self.table))[1].shape[1]
        if shapes["values"] != (width,):
            raise ValueError(f"the table in {self.table} is {width} wide, the feature {shapes['values'][0]}")

    def run(
        self, features: Encoded, labels: np.ndarray, classes: Sequence[str], splits: Sequence[Split], *, seed: int = 0
    ) -> Result:
        """Top-1 and top-5; see `wt_jax.eval.protocols.base.Protocol`."""
        names, rows = load_table(Path(self.table))
        if missing := [name for name in classes if name not in names]:
            raise ValueError(f"the table in {self.table} has no row of class {missing[0]!r}")
        table = rows[[names.index(name) for name in classes]]

        def fit(train: Encoded, train_labels: np.ndarray, test: Encoded) -> list[Predicted]:
            return [Predicted({"": zero_shot(test.values, table)})]

        return over_splits(fit, features, labels, splits)


def zero_shot(features: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Classes (M, N), the likeliest first, of features (M, D) by a table (N, D); lengths do not matter."""
    rows = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.argsort(-(features @ rows.T), axis=1, kind="stable")
