"""Where the catalogue lies: `datasets/` in a checkout, package data of `factory` in an installed wheel."""

from pathlib import Path


def catalogue_dir() -> Path:
    """The folder with `sources/`, `mixes/` and `recipes/`."""
    installed = Path(__file__).parent / "catalogue"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "datasets"
