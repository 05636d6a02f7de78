"""The kinds of data sets (`Data.dataset_type`): this project's scenes, and opensr-srgan's under its names."""

from __future__ import annotations

from typing import Any, Literal, get_args

Kind = Literal["scenes", "LRHRFolderDataset", "ExampleDataset", "SEN2NAIP"]
PLACE_OF: dict[str, str] = {  # the key of `Data` that says where the imagery is
    **{"scenes": "path", "SEN2NAIP": "sen2naip_taco_file"},
    **dict.fromkeys(("LRHRFolderDataset", "ExampleDataset"), "root_dir"),
}
EXAMPLES, EXAMPLE_FILES = "example_dataset", "hr_*.npz"  # where an ExampleDataset lies that has no root_dir; its files
HELD_OUT_EXAMPLES = 20  # the last of them
# What is silent or null in a file means by the kind; opensr-srgan's are made of tiles, which say how large a crop is.
_OF_SCENES: dict[str, object] = {"normalization": "percentiles", "crop_size": 96}
_OF_TILES: dict[str, object] = {"normalization": "sen2_stretch", "crop_size": None}
_OF_EXAMPLES: dict[str, object] = {"normalization": "normalise_10k", "crop_size": None}  # and no other, unclamped
_SILENT: dict[object, dict[str, object]] = {"scenes": _OF_SCENES, "ExampleDataset": _OF_EXAMPLES}


def spelled(value: object) -> object:
    """Return a kind as opensr-srgan spells it, which takes no other spelling; anything else as it is."""
    name = value.strip().lower() if isinstance(value, str) else value
    return next((kind for kind in get_args(Kind) if kind.lower() == name), value)


def is_antialiased(kind: Kind) -> bool:
    """Tell whether a low-resolution image is made by a bicubic reduction that antialiases."""
    return kind != "ExampleDataset"


def as_its_kind(data: dict[str, Any]) -> dict[str, Any]:
    """Return the section with what its silent keys mean for its kind of data set."""
    kind = spelled(data.get("dataset_type", "scenes"))
    silent = _SILENT.get(kind, _OF_TILES) if isinstance(kind, str) else _OF_TILES
    return data | {key: value for key, value in silent.items() if data.get(key) is None}
