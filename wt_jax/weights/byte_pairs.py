"""CLIP's tokenizer: a text in lower case becomes bytes, bytes become the longest pieces that a list of merges knows.

The list, `bpe_simple_vocab_16e6.txt.gz`, is part of the packages open_clip_torch, clip-anytorch and openai-clip (MIT).
Published code splits words by the package regex and repairs text by ftfy; Python's own `re` splits alike but for rare signs
(superscripts, fractions), and a text that is sound needs no repair.
"""

import gzip
import html
import importlib.util
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wt_jax.errors import WeightsError

MERGES = 49152 - 256 - 2
_FILE = "bpe_simple_vocab_16e6.txt.gz"
_WORDS = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


def find_merges(path: str = "") -> Path:
    """The file of merges: the one named, or that of a package that ships it.

    Raises:
      WeightsError: there is none.
    """
    if path:
        return Path(path)
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            if (file := Path(folder) / _FILE).is_file():
                return file
    raise WeightsError(f"{_FILE} is nowhere; install the extra `text` (open_clip_torch), or name the file with --merges")


def _signs() -> dict[int, str]:
    """A printable character for each byte, as GPT-2's code has it."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class BytePairs:
    """Captions to tokens; reads the file of merges once."""

    def __init__(self, path: Path):
        try:
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise WeightsError(f"{path} is no file of merges that can be read: {error}") from None
        pairs = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
        if len(pairs) != MERGES or any(len(pair) != 2 for pair in pairs):
            raise WeightsError(f"{path} holds {len(pairs)} merges, CLIP's has {MERGES}")
        self._signs = _signs()
        pieces = [*self._signs.values()]
        pieces += [f"{sign}</w>" for sign in pieces]
        pieces += ["".join(pair) for pair in pairs] + ["<start_of_text>", "<end_of_text>"]
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._known: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's pieces, without start and end."""
        clean = re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip().lower()
        return [number for word in _WORDS.findall(clean) for number in self._word(word)]

    def captions(self, texts: Sequence[str], length: int = 77) -> np.ndarray:
        """(len(texts), `length`) int32: start, pieces, end, zeros. A text that is too long is cut and ends with the end."""
        start, end = self._numbers["<start_of_text>"], self._numbers["<end_of_text>"]
        rows = np.zeros((len(texts), length), np.int32)
        for row, text in zip(rows, texts, strict=True):
            numbers = [start, *self.tokens(text)[: length - 2], end]
            row[: len(numbers)] = numbers
        return rows

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            signs = [self._signs[byte] for byte in word.encode("utf-8")]
            parts = [*signs[:-1], signs[-1] + "</w>"]
            while len(parts) > 1:
                ranked = [(self._ranks.get(pair, MERGES), pair) for pair in itertools.pairwise(parts)]
                rank, best = min(ranked)
                if rank == MERGES:
                    break
                parts = _merged(parts, best)
            self._known[word] = [self._numbers[part] for part in parts]
        return self._known[word]


def _merged(parts: list[str], pair: tuple[str, ...]) -> list[str]:
    """The parts with every occurrence of a pair made one, from the left."""
    found, at = [], 0
    while at < len(parts):
        here = tuple(parts[at : at + 2]) == pair
        found.append("".join(pair) if here else parts[at])
        at += 2 if here else 1
    return found
