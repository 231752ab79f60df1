"""The shipped configurations as a package. In a checkout its files are those of `configs/`; a wheel carries them here."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "configs")]
