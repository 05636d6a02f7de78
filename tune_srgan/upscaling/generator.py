"""The generator handed out: `best.pt` written and read, with what its numbers mean."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from trainables.checkpoints import generator_problems, put, read
from trainables.configuration import load_configuration
from trainables.data_settings import CustomNormalization
from trainables.errors import InvalidInput, Problem
from trainables.networks import Generator
from trainables.normalization import Normalization, normalization_of
from trainables.schema import Configuration
from trainables.state import State
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.trial_folder import TrialFolder

KEY = "--weights"


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator that a training made, its configuration, and the values of imagery that are 0 and 1 to it."""

    network: nn.Module
    configuration: Configuration
    low: float
    high: float

    @property
    def factor(self) -> int:
        """How many times as large an image becomes."""
        return self.configuration.Generator.scaling_factor

    @property
    def bands(self) -> int:
        """How many bands an image has."""
        return self.configuration.Model.in_bands

    @cached_property
    def normalization(self) -> Normalization:
        """The map of an image's values to the network's, and back."""
        return normalization_of(self.configuration.Data, self.low, self.high)


def write_generator(trial: TrialFolder, to: Path) -> None:
    """Write the generator of a trial's checkpoint with all that `upscale` needs."""
    configuration = trial.configuration()
    state = State.load(trial.checkpoint, configuration, torch.device("cpu"))
    content = {
        "generator": state.judged.state_dict(),
        "configuration": configuration.model_dump_json(),
        "low": state.scale[0],
        "high": state.scale[1],
        "step": state.step,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(to, buffer.getvalue())


def load_generator(weights: Path | str, config: Path | str | None = None) -> TrainedGenerator:
    """Read a generator and what its numbers mean; InvalidInput where the file has none.

    Of a `best.pt`, which says all of it but its user's functions; or of a checkpoint, opensr-srgan's or a training's,
    and its training's file.
    """
    weights, config = Path(weights), None if config is None else Path(config)
    found = read(weights, KEY)
    if config is None and found.configuration is None:
        said = "opensr-srgan's weights" if found.foreign else "a training's checkpoint"
        fix = "A checkpoint does not say which network it is of."
        expected = "the training's YAML beside it, with --config, or the best.pt of a study"
        raise InvalidInput([Problem(str(weights), KEY, said, expected, fix)])
    configuration = found.configuration
    custom = configuration is not None and isinstance(configuration.Data.normalization, CustomNormalization)
    if configuration is not None and config is not None and not custom:
        fix = "Leave --config out."
        raise InvalidInput([Problem(str(config), "--config", "a training's file beside a best.pt", "none", fix)])
    if custom and config is None:  # weights are passed on; what they name must not run before their user says so
        said = "a normalisation of functions, which a file of weights must not import"
        raise InvalidInput([Problem(str(weights), KEY, said, "the training's YAML beside it, with --config")])
    if config is not None:
        loaded = load_configuration(config)
        configuration = configuration.model_copy(update={"Data": loaded.Data}) if configuration else loaded
    assert configuration is not None  # else one of the above was said
    if problems := generator_problems(found, configuration, str(weights), KEY):
        raise InvalidInput(problems)
    low, high = found.scale or _fixed_scale(configuration, str(config))
    generator = Generator(configuration.Model.in_bands, configuration.Generator)
    put(generator, configuration.Generator, found.judged, found.foreign)
    return TrainedGenerator(generator.eval(), configuration, low, high)


def _fixed_scale(configuration: Configuration, file: str) -> tuple[float, float]:
    """The values that a configuration's normalisation makes 0 and 1, whatever the imagery."""
    data = configuration.Data
    if data.dataset_type == "ExampleDataset":  # reflectances times 10 000, whatever its normalisation is called
        return 0.0, 10000.0
    if data.normalization == "percentiles":
        fix = "Set it as it was when the generator was trained."
        found = "percentiles, which are those of the training's imagery"
        raise InvalidInput([Problem(file, "Data.normalization", found, "a fixed one", fix)])
    if data.normalization == "scale" and data.scale is not None:
        return data.scale[0], data.scale[1]
    return (0.0, 10000.0) if data.normalization == "normalise_10k" else (0.0, 1.0)


@torch.no_grad()
def checkerboard(generator: TrainedGenerator) -> float:
    """Return how far the means of a pixel's factor × factor parts lie apart in flat images; a share of the range.

    The largest over bands and over brightnesses within the range (Odena et al. 2016 describe the pattern).
    """
    factor, size, inner = generator.factor, 48, 16
    low, spread = (-1.0, 2.0) if generator.normalization.signed else (0.0, 1.0)
    device = next(generator.network.parameters()).device
    worst = 0.0
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        flat = torch.full((1, generator.bands, size, size), low + share * spread, device=device)
        sr = generator.network(flat)[0][:, inner * factor : -inner * factor, inner * factor : -inner * factor]
        cells = size - 2 * inner
        pattern = sr.reshape(generator.bands, cells, factor, cells, factor).mean((1, 3)).flatten(1)
        worst = max(worst, float((pattern.amax(1) - pattern.amin(1)).max()) / spread)
    return worst
