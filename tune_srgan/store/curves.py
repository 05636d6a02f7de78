"""Tables of recorded trainings: their readings as the meter takes them, to be judged by any ruler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.balance import Ruler
from trainables.errors import InvalidInput, Problem
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

METADATA = b"curves"  # of a table: the study, the configurations, how each training was recorded


@dataclass(frozen=True)
class Recorded:
    """A recorded training: its configuration, its readings as the meter takes them, and how it was recorded."""

    number: int
    seed: int
    values: dict[str, Value]
    ruler: Ruler
    readings: list[dict[str, float]]
    made: dict[str, Any]


def metadata_of(file: Path) -> dict[str, Any]:
    """Read what a table says of itself; one clear error where it is none."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        told = (pq.read_schema(file).metadata or {})[METADATA]
    except (ArrowException, KeyError):
        found, fix = "no table of recorded trainings", "See benchmarks/record_curves.py."
        raise InvalidInput([Problem(str(file), "", found, "one, as parquet", fix)]) from None
    made: dict[str, Any] = json.loads(told)
    return made


def study_of(made: dict[str, Any]) -> Study:
    """Return the study whose space was recorded."""
    return Study.model_validate(yaml.safe_load(made["study"]))


def read_curves(file: Path) -> Iterator[Recorded]:
    """Read a table's trainings."""
    import pyarrow.parquet as pq

    made = metadata_of(file)
    study = study_of(made)
    rulers = {int(number): Ruler.of(study.configuration(values)) for number, values in made["configurations"].items()}
    rows: dict[tuple[int, int], list[dict[str, float]]] = {}
    for row in pq.read_table(file).to_pylist():
        number, seed, step = row.pop("number"), row.pop("seed"), row.pop("step")
        reading = {f"nash/{name}": value for name, value in row.items() if value is not None}
        reading["step"] = float(step)
        if "nash/rate_d" in reading:  # recorded as shares of the configured rates, so that the floor is met exactly
            reading["lr_discriminator"] = reading.pop("nash/rate_d") * rulers[number].d_rate
            reading["training/plateau_g"] = reading.pop("nash/rate_g")
            reading["lr_generator"] = reading["training/plateau_g"] * rulers[number].g_rate
        rows.setdefault((number, seed), []).append(reading)
    for told in made["trainings"]:
        number, seed = told["number"], told["seed"]
        values = made["configurations"][str(number)]
        yield Recorded(number, seed, values, rulers[number], rows[number, seed], told)
