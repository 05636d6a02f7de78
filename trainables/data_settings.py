"""The keys of a training's imagery: where it is, how its values are read, how it is cut."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainables.kinds import PLACE_OF, Kind, as_its_kind, spelled
from trainables.normalization import canonical
from trainables.sections import LATER, RULER, UNREAD, Count, Place, Positive, Section, Share

# Files that lie beside scenes and are none: browse images, masks of quality. In any case, as all patterns are.
NO_SCENES = [
    f"*_{kind}.*" for kind in ("browse", "quicklook", "preview", "thumb", "thumbnail", "udm", "udm2", "mask", "qa")
]
BandName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]


class CustomNormalization(Section):
    """Two functions of a person's own, `module:function`, each called with a float tensor and the arguments."""

    name: Literal["custom"]
    normalize: Place
    denormalize: Place | None = None  # without it, an image stays as the network makes it
    kwargs: dict[str, Any] = {}
    normalize_kwargs: dict[str, Any] = {}
    denormalize_kwargs: dict[str, Any] = {}


class DataSettings(Section):
    """Imagery: where it is, how it is scaled to a network's numbers, how it is cut."""

    roles = frozenset({RULER})

    dataset_type: Annotated[Kind, BeforeValidator(spelled)] = "scenes"
    # what pretraining sees of the imagery is known by its pixels, wherever they lie
    path: Annotated[Place, LATER] = "sample"  # a file or folder of scenes; `sample` is the one that is shipped here
    root_dir: Annotated[Place | None, LATER] = None  # of {train,val}/{LR,HR}, or of an ExampleDataset's hr_*.npz
    sen2naip_taco_file: Annotated[Place | None, LATER] = None
    test_path: Annotated[Place | None, LATER] = None  # as the above, of imagery that neither training nor choice sees
    # of the files of folders, those that have a pattern: `*.tif`, `2024/*`; default: all that can be read
    include: Annotated[list[str] | None, LATER] = None
    exclude: Annotated[list[str], LATER] = [*NO_SCENES]
    bands: Annotated[list[BandName], Field(min_length=1)] | None = None  # of scenes that are one file a band
    hr_names: str = "HR/{}"  # of pairs: files below train, val and test; what stands for {} is the same in both
    lr_names: str = "LR/{}"
    sen2naip_val_fraction: Share = 0.1  # of the file's pairs, its last ones
    sen2naip_phase: Annotated[str | None, UNREAD] = None
    normalization: Annotated[str | CustomNormalization, BeforeValidator(canonical)] = "percentiles"
    percentiles: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.1, 99.9]
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    lr_scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None  # of LR, where it is another
    nodata: Annotated[float, Field(allow_inf_nan=True)] | None = None  # of no data, beside what the files say
    crop_size: Positive | None = 96  # of the high-resolution image, px; None, of tiles: what they allow
    val_fraction: Share = 0.2
    val_side: Literal["right", "bottom", "left", "top"] | None = None  # held out; default: an end of the longer axis
    train_batch_size: Positive = 8
    val_batch_size: Positive = 8
    resident: bool | None = None  # scenes kept on the GPU; default: where they take less than a quarter of what is free
    num_workers: Annotated[Count, UNREAD] = 0
    prefetch_factor: Count | None = 2  # batches cut ahead where scenes are not on the GPU; null: 1

    @model_validator(mode="before")
    @classmethod
    def _as_its_kind(cls, values: Any) -> Any:
        """Put in what a silent key means for the kind of data set."""
        return as_its_kind(values) if isinstance(values, dict) else values

    @property
    def place_key(self) -> str:
        """The key that says where the imagery is."""
        return PLACE_OF[self.dataset_type]

    @property
    def place(self) -> str:
        """Where the imagery is: a path or URL."""
        return str(getattr(self, self.place_key))
