"""What the documents say can be done: Python blocks are run; commands, flags, keys and links of all of them exist.

A Python block that is not run here has a comment `<!-- not run here: WHY -->` on the line before it.
"""

import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from wt_jax.__main__ import COMMANDS
from wt_jax.config_files import config_names, find_config, load_config
from wt_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),  # which names what is gone
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("docs/examples/*.md"),
    *ROOT.glob("wt_jax/**/*.md"),
]
SPEAK_OF_KEYS = [*PAGES, *ROOT.glob("configs/**/*.py"), *ROOT.glob("launch/*.sh")]
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<text>.*?)\n```", re.DOTALL)
TO_WRITE = {"wt_jax/methods/simsiam.py"}  # files that a page asks its reader to write
PLAIN = {"cat", "cd", "export", "git", "pip", "pre-commit", "pyright", "pytest", "ruff", "source"}  # programs that are not ours


def by_page(paths):
    return pytest.mark.parametrize("page", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths])


def blocks(page: Path, language: str) -> list[str]:
    """Text of the page's blocks of a language, less those that are marked as not run."""
    found = BLOCK.finditer(page.read_text())
    return [m["text"] for m in found if m["language"] == language and not m["before"].startswith("<!-- not run here: ")]


def command_lines(page: Path) -> list[list[str]]:
    """Words of each command of the page's bash blocks, without comments and variables set before it."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [[word for i, word in enumerate(line) if i or not re.match(r"\w+=", word)] for line in words if line]


def module_of(line: list[str]) -> tuple[str, list[str]] | None:
    """Module of ours that a command runs, and its arguments; None: it runs none."""
    if line[0] == "wt-jax" and line[1] in COMMANDS:
        return COMMANDS[line[1]][0], line[2:]
    if Path(line[0]).name.startswith("python") and line[1:2] == ["-m"]:
        return line[2], line[3:]
    return None


@cache
def flags_of(module: str) -> set[str]:
    """Names of a command's flags, read from its source and that of what it takes arguments from."""
    sources = [find_spec(module).origin, find_spec("wt_jax.cli").origin]
    sources += [find_spec("wt_jax.main").origin] * (module == "wt_jax.bench.chaos")  # hands them on
    sources += [find_spec("wt_jax.tools.pack").origin] * (module == "wt_jax.tools.pack_beam")
    text = "".join(Path(source).read_text() for source in sources)
    names = set(re.findall(r'(?:DEFINE_\w+|add_argument)\(\s*"(?:--)?(\w+)"', text))
    return names | ({"config"} if "define_config(" in text else set())


@cache
def keys_of(file: str, arguments: tuple[str, ...]) -> set[str]:
    """Keys, with those of sections, of a configuration with any of the arguments; none: without one."""
    keys: set[str] = set()
    for argument in arguments or (None,):
        try:
            config = load_config(file if argument is None else f"{file}:{argument}")
        except (AttributeError, TypeError):
            continue  # not every configuration takes every method
        keys |= set(_flat(config.to_dict()))
    return keys


def _flat(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


@cache
def all_keys() -> set[str]:
    """Keys of all shipped configurations and methods, and of evaluations."""
    trainings = [keys_of(find_config(name), tuple(METHODS)) for name in config_names()]
    alone = keys_of(find_config("supervised"), ())
    return set().union(*trainings, alone, *(keys_of(find_config(name, "eval"), ()) for name in config_names("eval")))


@by_page(page for page in PAGES if blocks(page, "python") and page.parent.name != "examples")  # those: test_examples.py
def test_python_blocks_run(page):
    names: dict = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@by_page(page for page in PAGES if blocks(page, "bash"))
def test_commands_exist(page):
    for line in command_lines(page):
        if line[0].startswith("launch/"):
            assert (ROOT / line[0]).exists(), line
            continue
        if line[0] in PLAIN or line == ["wt-jax", "--help"]:
            continue
        found = module_of(line)
        assert found is not None, f"unknown command: {line}"
        module, arguments = found
        if not module.startswith("wt_jax"):
            continue
        assert find_spec(module), line
        config = None
        for argument in arguments:
            if not argument.startswith("--"):
                continue
            name = argument[2:].partition("=")[0]
            assert name.partition(".")[0] in flags_of(module), f"{argument} is no flag of {module}: {line}"
            if argument.startswith("--config=") and not argument.endswith("..."):
                config = find_config(argument.removeprefix("--config="), "eval" if module.endswith("evaluate") else "")
            if name.startswith("config.") and config:
                file = config.partition(":")[0]
                known = keys_of(file, () if "/eval/" in file else tuple(METHODS)) or keys_of(file, ())
                assert name.removeprefix("config.") in known, f"{argument}: {line}"


@by_page(SPEAK_OF_KEYS)
def test_keys_exist(page):
    named = re.findall(r"(?:--|`)config\.(?!json)([a-z_]+(?:\.[a-z_0-9]+)*)", page.read_text())
    assert set(named) <= all_keys()


@by_page(PAGES)
def test_links_and_files_exist(page):
    text = page.read_text()
    links = {target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target}
    links = {target for target in links if "_generated/" not in target}  # made by launch/docs.sh: tests/test_site.py
    assert not [target for target in links if not (page.parent / target).exists()]
    files = set(re.findall(r"`((?:wt_jax|configs|launch|tests|docs)/[\w/.-]+)`", text)) - TO_WRITE
    assert not [file for file in files if not (ROOT / file).exists()]
    modules = set(re.findall(r"`(wt_jax(?:\.\w+)+)`", text))
    assert not [name for name in modules if not _importable(name)]


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module's source defines."""
    parent, _, last = name.rpartition(".")
    for module in (name, parent):
        try:
            spec = find_spec(module)
        except ModuleNotFoundError:
            continue
        if spec and (module == name or re.search(rf"\b{last}\b", Path(spec.origin).read_text())):
            return True
    return False


def test_the_table_of_odd_inputs_names_each_test_of_them_and_no_other():
    foreign = {
        file: set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)) for file in ROOT.glob("tests/**/test_*.py")
    }
    wanted = set().union(*(tests for file, tests in foreign.items() if file.name.startswith("test_foreign_")))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "data.md").read_text()))
    assert not wanted - named - {"test_every_codec_is_written_as_it_should_be"}  # of the writer of the other tests' files
    assert not named - set().union(*foreign.values())
