"""What the sections of a training's and of a study's file are made of: kinds of values, the roles of keys."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Role(Enum):
    """What a key decides besides how the networks learn. A section's roles are those of all its keys."""

    RULER = "it defines what is measured"
    MACHINE = "it defines how a training is computed, or what is drawn of it"
    LATER = "it acts after pretraining: trainings that differ in it alone share their pretraining"
    UNREAD = "opensr-srgan reads it, nothing here does"


RULER, MACHINE, LATER, UNREAD = Role

Place = Annotated[str, Field(min_length=1)]  # a path or URL as it was written; whoever resolves it checks it
WANDB_LETTERS, WANDB_REFUSES = 128, "/\\#?%:"  # by wandb's own rules of a project's name


def _for_wandb(name: str) -> str:
    """ValueError where no project or entity there can have that name: found when its first run is opened, else."""
    if len(name) > WANDB_LETTERS or set(WANDB_REFUSES) & set(name):
        raise ValueError(f"a name of at most {WANDB_LETTERS} characters with none of {' '.join(WANDB_REFUSES)}")
    return name


WandbName = Annotated[str, AfterValidator(_for_wandb)]  # of a project or an entity
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Blocks = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Curve = Literal["linear", "cosine"]


class Section(BaseModel):
    """A section of the file: unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    roles: ClassVar[frozenset[Role]] = frozenset()


def section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the section that stands at a field; None where a value does."""
    annotation = field.annotation if field is not None else None
    either = [annotation, *get_args(annotation)]  # a section, or the name of one
    return next((kind for kind in either if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def field_at(model: type[BaseModel], key: str) -> FieldInfo | None:
    """Return the field that a dotted key names in a model; None where it names none."""
    *sections, last = key.split(".")
    for section in sections:
        inner = section_of(model.model_fields.get(section))
        if inner is None:
            return None
        model = inner
    return model.model_fields.get(last)
