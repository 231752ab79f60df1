"""What is declared as required is what the package imports."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Packages of the extras, imported where they are used, and their distributions.
OPTIONAL = {
    "anyio": "anyio",
    "apache_beam": "apache-beam",
    "decord": "decord",
    "faiss": "faiss-cpu",
    "huggingface_hub": "huggingface-hub",
    "mlflow": "mlflow-skinny",
    "pyarrow": "pyarrow",
    "pymilvus": "pymilvus",
    "starlette": "starlette",
    "tensorboardX": "tensorboardx",
    "torch": "torch",
    "torchcodec": "torchcodec",
    "uvicorn": "uvicorn",
    "wandb": "wandb",
    "yaml": "pyyaml",
}
FIXED = ["jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "ml-collections", "einops", "pytest"]


def distribution(requirement: str) -> str:
    """Name of a requirement, normalized: `etils[epath]>=1.9` is etils."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported_packages() -> set[str]:
    """Top-level packages, not of the standard library, that a file of the package imports anywhere."""
    names = set()
    for file in [*ROOT.glob("wt_jax/**/*.py"), *ROOT.glob("configs/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add("google.protobuf" if node.module.startswith("google.") else node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"wt_jax"}


def test_dependencies_are_what_is_imported():
    owners = metadata.packages_distributions() | {"google": ["protobuf"], "orbax": ["orbax-checkpoint"]}
    imported = {distribution(owners[name][0]) for name in imported_packages() - set(OPTIONAL)}
    imported.add("onednn-cpu-gomp")  # a library that is loaded, not imported
    assert {distribution(line) for line in PROJECT["dependencies"]} == imported


def test_what_is_imported_where_it_is_used_is_in_an_extra():
    extras = {distribution(line) for lines in PROJECT["optional-dependencies"].values() for line in lines}
    assert set(OPTIONAL.values()) <= extras
    assert set(OPTIONAL) <= imported_packages()


def test_requirements_file_has_the_dependencies_and_the_fixed_list():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert {line.replace('"', "'") for line in lines} - {"pytest>=8.0"} == set(PROJECT["dependencies"])
    assert set(FIXED) <= {distribution(line) for line in lines}
