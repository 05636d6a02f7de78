"""Values of imagery as a network has them, and back: this project's own maps, and opensr-srgan's by its names.

Imports no torch: what it maps are tensors, or arrays of NumPy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainables.errors import InvalidInput, Problem, nearest, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data_settings import CustomNormalization, DataSettings

KEY = "Data.normalization"


@dataclass(frozen=True)
class Normalization:
    """A map of an image's values to a network's, and back: linear, or two functions of a person's own.

    `low` and `high` become 0 and 1, or −1 and 1 where it is `signed`. With a `highest` value both ways are clamped:
    there to 0–1 or ±1, back to 0–`highest`.
    """

    low: float = 0.0
    high: float = 1.0
    signed: bool = False
    highest: float | None = None
    functions: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """What a network's values are clamped to; None where they are not."""
        return None if self.highest is None else (-1.0 if self.signed else 0.0, 1.0)

    def scaled(self, ends: Sequence[float] | None) -> Normalization:
        """The same between other ends, as LR of another sensor has them; itself without them."""
        if ends is None or self.functions is not None:
            return self
        low, high = ends
        return replace(self, low=low, high=high, highest=None if self.highest is None else high)

    def normalize(self, values: Tensor) -> Tensor:
        """Map float values of an image, (…, bands, H, W), to the network's."""
        if self.functions is not None:
            return self.functions[0](values)
        # opensr-srgan multiplies reflectances, and so is equalled to the bit
        reflectances = self.highest == 1.0
        mapped = values * (1 / self.high) if reflectances else (values - self.low) / (self.high - self.low)
        mapped = 2 * mapped - 1 if self.signed else mapped
        return mapped if self.bounds is None else mapped.clamp(*self.bounds)

    def denormalize(self, values: Tensor) -> Tensor:
        """Map a network's values, (…, bands, H, W), to the image's."""
        if self.functions is not None:
            return self.functions[1](values)
        share = (values + 1) / 2 if self.signed else values
        mapped = share * (self.high - self.low) + self.low
        return mapped if self.highest is None else mapped.clamp(0.0, self.highest)


OWN = ("percentiles", "scale")  # linear, not clamped, between values that the imagery or the file says
_REFLECTANCE = Normalization(highest=1.0)
FIXED = {  # opensr-srgan's; Sentinel-2's are of reflectances as integers up to 10 000, or up to 0.3
    "identity": Normalization(),
    "zero_one": _REFLECTANCE,
    "zero_one_signed": replace(_REFLECTANCE, signed=True),
    "normalise_10k": Normalization(high=10_000.0, highest=10_000.0),
    "normalise_10k_signed": Normalization(high=10_000.0, highest=10_000.0, signed=True),
    "sen2_stretch": replace(_REFLECTANCE, high=0.3),
    "normalise_s2": replace(_REFLECTANCE, high=0.3, signed=True),
}
ALIASES = {
    **dict.fromkeys(("normalize_10k", "reflectance", "reflectance_0_1", "sentinel2", "s2"), "normalise_10k"),
    **{
        f"{alias}_signed": "normalise_10k_signed"
        for alias in ("normalize_10k", "reflectance", "reflectance_0_1", "sentinel2", "s2")
    },
    "normalize_s2": "normalise_s2",
    **dict.fromkeys(("zero_to_one", "zero_one_range"), "zero_one"),
    **dict.fromkeys(("signed_zero_one", "minusone_one"), "zero_one_signed"),
    "none": "identity",
}
_OF_CUSTOM = ("normalize", "denormalize", "kwargs", "normalize_kwargs", "denormalize_kwargs")


def canonical(value: object) -> object:
    """Return the one name of a normalisation that a file names, or a custom one's mapping; ValueError where it is none.

    As opensr-srgan reads it: any case, blanks around it, aliases, {name or method: one of them, or `custom`}.
    """
    if isinstance(value, Mapping):
        name = next((value[key] for key in ("name", "method") if value.get(key) is not None), "custom")
        told = {key: entry for key, entry in value.items() if key not in ("name", "method")}
        if isinstance(name, str) and _plain(name) == "custom":
            return {"name": "custom"} | _custom(told)
        if told:
            raise ValueError(f"{name!r} by itself, without {', '.join(map(str, told))}")
        value = name
    if not isinstance(value, str):
        return value
    name = ALIASES.get(_plain(value), _plain(value))
    if name == "custom":
        raise ValueError("{name: custom, normalize: module:function, denormalize: module:function}")
    if name not in (*OWN, *FIXED):
        raise ValueError(f"a normalisation. {nearest(name, [*OWN, *FIXED, *ALIASES])}")
    return name


def _plain(name: str) -> str:
    return name.strip().lower()


def _custom(told: dict[Any, Any]) -> dict[str, Any]:
    """A custom normalisation's keys; ValueError where one is unknown, missing or of another type."""
    unknown = [str(key) for key in told if key not in _OF_CUSTOM]
    if unknown:
        raise ValueError(f"{', '.join(_OF_CUSTOM)} beside `name: custom`, not {unknown[0]}. "
                         f"{nearest(unknown[0], _OF_CUSTOM)}")  # fmt: skip
    if not told.get("normalize"):
        raise ValueError("`normalize: module:function` beside `name: custom`")
    kwargs = {key: told[key] for key in _OF_CUSTOM if key.endswith("kwargs") and told.get(key) is not None}
    for key, value in kwargs.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{key}: a mapping of arguments")
    return {key: told[key] for key in ("normalize", "denormalize") if told.get(key) is not None} | kwargs


def ends_of(data: DataSettings) -> tuple[float, float] | None:
    """Return the two values that become 0 and 1, or ±1, where the configuration says them; else the imagery does."""
    if data.normalization == "percentiles" or not isinstance(data.normalization, str):
        return None
    if data.normalization == "scale" and data.scale is not None:
        return data.scale[0], data.scale[1]
    fixed = FIXED[data.normalization]
    return fixed.low, fixed.high


def normalization_of(data: DataSettings, low: float, high: float) -> Normalization:
    """Return a configuration's; `low` and `high` are what its imagery has as 0 and 1, as a checkpoint keeps them.

    InvalidInput where a function of a custom one cannot be imported.
    """
    if data.dataset_type == "ExampleDataset" or data.normalization in OWN:
        return Normalization(low, high)
    if isinstance(data.normalization, str):
        return FIXED[data.normalization]
    return _of_functions(data.normalization)


def _of_functions(custom: CustomNormalization) -> Normalization:
    """One whose functions are imported; without a `denormalize` the way back changes nothing, as in opensr-srgan."""
    there = _called(custom.normalize, "normalize", dict(custom.kwargs) | custom.normalize_kwargs)
    back: Callable[[Tensor], Tensor] = _unchanged
    if custom.denormalize is not None:
        back = _called(custom.denormalize, "denormalize", dict(custom.kwargs) | custom.denormalize_kwargs)
    return Normalization(functions=(there, back))


def _unchanged(values: Tensor) -> Tensor:
    return values


def _called(path: str, key: str, kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The function at `module:function` or `module.function`, which takes a float tensor and gives one of its shape."""

    def wrong(found: str, fix: str) -> InvalidInput:
        expected = "a function of a float tensor, (bands, H, W), that returns one of its shape"
        return InvalidInput([Problem(path, f"{KEY}.{key}", found, expected, fix)])

    module, _, name = path.rpartition(":" if ":" in path else ".")
    fix = "Write module:function; Python finds a module of your own through PYTHONPATH."
    if not module or not name:
        raise wrong("no module and function", fix)
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of somebody else's, which may do anything
        raise wrong(f"what cannot be imported ({type(error).__name__}: {one_line(error)})", fix) from error
    if not callable(function):
        raise wrong(f"a {type(function).__name__}", fix)

    def call(values: Tensor) -> Tensor:
        try:
            mapped = function(values, **kwargs)
        except Exception as error:
            found = f"that it fails ({type(error).__name__}: {one_line(error)})"
            raise wrong(found, "Look at it and at its kwargs.") from error
        if getattr(mapped, "shape", None) != values.shape:
            shape = tuple(getattr(mapped, "shape", ()))
            raise wrong(f"that it makes {type(mapped).__name__} of {shape} from {tuple(values.shape)}", "Look at it.")
        result: Tensor = mapped.to(values.dtype)
        return result

    return call
