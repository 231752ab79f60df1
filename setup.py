"""What pyproject.toml cannot say: the top-level folder `configs/` is installed as the package `wt_jax.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["wt_jax*"], exclude=["wt_jax.configs"]), "wt_jax.configs", "wt_jax.configs.eval"],
    package_dir={"wt_jax.configs": "configs"},
)
