"""Nested sections, as a YAML file has them, and the dotted keys that name what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def copied(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the sections; values are shared."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in nested.items()}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict | Mapping):  # the first is quickly seen
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy nested sections and put values in at dotted keys."""
    result = copied(nested)
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = result
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[key] = value
    return result


def value_at(nested: object, dotted: str) -> Any:
    """Look a dotted key up; None where nothing stands there."""
    for key in dotted.split("."):
        nested = nested.get(key) if isinstance(nested, dict) else None
    return nested


def drop(nested: dict[str, Any], dotted: str) -> None:
    """Delete a dotted key. KeyError where it is not there."""
    *sections, key = dotted.split(".")
    for section in sections:
        nested = nested[section]
    del nested[key]
