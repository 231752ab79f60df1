"""The container's file, without building it: it copies what the wheel is made of, its extras exist, and it ends as no root."""

import re
import tomllib
from pathlib import Path

from test_wheel import SHIPPED

ROOT = Path(__file__).resolve().parents[1]
LINES = [
    line.split()
    for line in (ROOT / "launch" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def test_it_copies_what_the_wheel_is_made_of():
    copied = {name for instruction, *names, _ in LINES if instruction == "COPY" for name in names}
    assert copied == set(SHIPPED)


def test_its_extras_exist():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"EXTRA=(\w+)", text)) <= set(extras)
    assert {"search", "cuda"} <= set(re.findall(r"EXTRA=(\w+)", text))


def test_it_runs_as_a_user_without_rights():
    users = [words for instruction, *words in LINES if instruction == "USER"]
    assert users
    assert users[-1][0] not in ("root", "0")


def test_its_python_is_one_that_the_package_supports():
    (base,) = (words[0] for instruction, *words in LINES if instruction == "FROM")
    version = tuple(map(int, re.search(r":(\d+)\.(\d+)", base).groups()))
    assert (3, 11) <= version < (3, 14)
