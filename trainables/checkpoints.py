"""A checkpoint that a training begins from, opensr-srgan's or one of this project: read, held against the
configuration, every tensor that does not fit named, and taken over.

The generator's averaged weights are those that are taken, where a file has them. Files are read as data, never as code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainables import lightning
from trainables.errors import InvalidInput, Problem, one_line
from trainables.export import why_not
from trainables.lightning import Course, Found, Weights
from trainables.names import mismatches, parts, twin
from trainables.networks import Discriminator, Generator
from trainables.places import is_url
from trainables.schedules import Plateau, armed
from trainables.schema import Configuration, DiscriminatorSettings, GeneratorSettings

if TYPE_CHECKING:
    from trainables.state import State

Settings = GeneratorSettings | DiscriminatorSettings
TRACELESS = ("bicubic_skip", "inner_residual", "res_scale")  # what makes another generator of the same weights
WANTED = "opensr-srgan's checkpoint or state_dict, a best.pt, or the checkpoint of a training"


def read(path: Path, key: str) -> Found:
    """Return what a file holds; one clear error under `key` where it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = lightning.read(content) or _read_own(content)
        if found is None:
            raise ValueError("no generator's weights in it")
    except FileNotFoundError:
        raise InvalidInput([Problem(str(path), key, "no such file", WANTED)]) from None
    except Exception as error:  # whatever a foreign or broken file makes torch raise
        found_is = f"a file that is none ({one_line(error)})"
        raise InvalidInput([Problem(str(path), key, found_is, WANTED)]) from None
    return found


def _read_own(content: Any) -> Found | None:
    """What a checkpoint of a training here, or a `best.pt`, holds; None where it is neither."""
    if not isinstance(content, dict) or not isinstance(content.get("generator"), dict):
        return None
    names = ("generator", "averaged", "discriminator", "pretrained")
    networks = {name: Weights(dict(content[name])) for name in names if name in content}
    if "configuration" in content:
        configuration = Configuration.model_validate_json(content["configuration"])
        scale = _scale(content["low"], content["high"])
        return Found(False, networks["generator"], scale=scale, configuration=configuration)
    course = Course(
        step=int(content["step"]),
        optimizers={which: content.get(f"optimizer_{which}", {}) for which in "gd"},
        rates={which: float(content[f"plateau_{which}"]["rate"]) for which in "gd"},
        counts={which: content[f"plateau_{which}"]["scheduler"] for which in "gd"},
        pretrained=networks.get("pretrained"),
    )
    averaged, discriminator = networks.get("averaged"), networks.get("discriminator")
    return Found(False, networks["generator"], averaged, discriminator, course, _scale(*content["scale"]))


def _scale(low: float, high: float) -> tuple[float, float]:
    """The values that are 0 and 1; ValueError where they are none."""
    if not 0 < high - low < math.inf:
        raise ValueError(f"{low} to {high} as 0 to 1")
    return float(low), float(high)


@dataclass(frozen=True)
class Opened:
    """The checkpoint a configuration names, found to fit it."""

    file: str
    key: str
    found: Found
    own_discriminator: str  # why the discriminator is drawn; empty where the file has it


def open_checkpoint(configuration: Configuration) -> Opened | None:
    """Read what a training begins from and hold it against its networks; None where it begins from scratch.

    InvalidInput that says all that does not fit.
    """
    if configuration.Model.begins_from is None:
        return None
    key, place = configuration.Model.begins_from
    if is_url(place):
        raise InvalidInput([Problem(place, key, "a URL", "a file", "Fetch it to where every node sees it.")])
    found = read(Path(place), key)
    problems = generator_problems(found, configuration, place, key)
    drawn = why_drawn(found, configuration.Discriminator)
    if not drawn and found.discriminator is not None:
        network = on_meta(lambda: Discriminator(configuration.Model.in_bands, configuration.Discriminator))
        problems += _problems(found.discriminator, network, configuration.Discriminator, found, place, key)
    if key == "Model.continue_training" and not problems:
        problems += _course_problems(found, configuration, place, key)
    if problems:
        raise InvalidInput(problems)
    return Opened(place, key, found, drawn)


def describe(configuration: Configuration) -> str:
    """Say, in a line, what a training begins from; empty where from scratch. InvalidInput where that does not fit."""
    opened = open_checkpoint(configuration)
    if opened is None:
        return ""
    found, step = opened.found, opened.found.course.step if opened.found.course else 0
    which = "the generator's averaged weights" if found.averaged else "the generator's weights"
    if opened.key == "Model.continue_training":
        return f"{opened.file}: goes on from step {step}."
    why = opened.own_discriminator
    discriminator = f"the discriminator is drawn, since {why}." if why else "the discriminator's, too."
    return f"{opened.file}: {which}; {discriminator}"


def digest_of(configuration: Configuration) -> str:
    """Hash the content of what a training begins from; empty where from scratch."""
    if configuration.Model.begins_from is None:
        return ""
    key, place = configuration.Model.begins_from
    try:
        with Path(place).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
        raise InvalidInput([Problem(place, key, found, "what this training began from")]) from None


def begin(state: State) -> None:
    """Let a fresh training begin from what its configuration names: weights alone, or everything, at that step."""
    configuration, opened = state.configuration, open_checkpoint(state.configuration)
    if opened is None:
        return
    found, course = opened.found, opened.found.course
    settings = configuration.Generator
    goes_on = opened.key == "Model.continue_training" and course is not None
    put(state.generator, settings, found.generator if goes_on else found.judged, found.foreign)
    if state.averaged is not None:
        put(state.averaged, settings, found.judged, found.foreign)
    if not goes_on:
        return
    assert course is not None
    state.step = course.step
    _give_moments(state.generator, state.optimizer_g, settings, found, course.optimizers["g"])
    _go_on(state.plateau_g, "g", course, configuration)
    if state.step > configuration.Training.pretrain_steps:
        state.begin_game()
        _go_on(state.plateau_d, "d", course, configuration)
        if course.pretrained is None:  # what it was before the game nobody knows any more
            state.pretrained = None
        elif state.pretrained is not None:
            put(state.pretrained, settings, course.pretrained, found.foreign)


def begin_discriminator(state: State) -> None:
    """Give a discriminator that was just drawn the weights in what its training began from, where it has them."""
    opened = open_checkpoint(state.configuration)
    if opened is None or opened.own_discriminator:
        return
    found, settings = opened.found, state.configuration.Discriminator
    assert state.discriminator is not None and state.optimizer_d is not None and found.discriminator is not None
    put(state.discriminator, settings, found.discriminator, found.foreign)
    if opened.key == "Model.continue_training" and found.course is not None:
        _give_moments(state.discriminator, state.optimizer_d, settings, found, found.course.optimizers["d"])


def generator_problems(found: Found, configuration: Configuration, file: str, key: str) -> list[Problem]:
    """Say what keeps a file's generator from being the configuration's."""
    settings = configuration.Generator
    if found.foreign and (why := why_not(settings)):
        said, expected = "opensr-srgan's weights", f"weights of this project's, since {why}"
        return [Problem(file, key, said, expected, "Or set the option as opensr-srgan has it.")]
    if found.configuration is not None:
        trained = found.configuration.Generator
        acting = TRACELESS if settings.model_type in {"esrgan", "stochasticgan"} else TRACELESS[:-1]
        other = [name for name in acting if getattr(trained, name) != getattr(settings, name)]
        if other:
            said = ", ".join(f"Generator.{name}: {getattr(trained, name)}" for name in other)
            expected = ", ".join(str(getattr(settings, name)) for name in other)
            return [Problem(file, key, f"weights of {said}", expected, "Set it as it was when it was trained.")]
    try:
        network = on_meta(lambda: Generator(configuration.Model.in_bands, settings))
    except (RuntimeError, ValueError, ArithmeticError) as error:  # sizes that no number holds
        return [Problem(file, key, f"weights of a network that there cannot be ({one_line(error)})", "another")]
    pretrained = found.course.pretrained if found.course else None
    for weights in filter(None, (found.generator, found.averaged, pretrained)):
        if problems := _problems(weights, network, settings, found, file, key):
            return problems
    return []


def put(network: nn.Module, settings: Settings, weights: Weights, foreign: bool) -> None:
    """Copy weights that were found to fit into a network."""
    for name, value in _tensors(network, settings, foreign).items():
        value.detach().copy_(weights.tensors[weights.prefix + name])


def on_meta(build: Any) -> nn.Module:
    """Build a network that takes no memory: a configuration may ask for any."""
    with torch.device("meta"):
        network: nn.Module = build()
    return network


def why_drawn(found: Found, settings: DiscriminatorSettings) -> str:
    """Say why a file has no discriminator of the configuration's kind; empty where it has."""
    if found.discriminator is None:
        return "the file has none"
    if found.foreign and (why := why_not(settings)):
        return why
    kind = _kind(found.discriminator)
    return "" if kind == settings.model_type else f"the file's is {kind}, not {settings.model_type}"


def _kind(weights: Weights) -> str:
    """The kind of discriminator whose weights these are, in either project's names."""
    prefix, tensors = weights.prefix, weights.tensors
    names = {name.removeprefix(prefix) for name in tensors}
    if not any(name.startswith(("fc1.", "classifier.", "head.")) for name in names):
        return "patchgan"
    second = tensors.get(f"{prefix}body.1.conv.weight")  # ours: esrgan's has kernels of 4
    ours_is_esrgan = isinstance(second, Tensor) and second.shape[-1] == 4
    spectral = tensors.get(f"{prefix}body.1.conv.parametrizations.weight.original")
    ours_is_esrgan |= isinstance(spectral, Tensor) and spectral.shape[-1] == 4
    return "esrgan" if ours_is_esrgan or any(name.startswith("classifier.") for name in names) else "standard"


def _tensors(network: nn.Module, settings: Settings, foreign: bool) -> dict[str, Tensor]:
    """A network's weights and buffers, by the names of either project."""
    if not foreign:
        return dict(network.state_dict(keep_vars=True))
    return {name: part.value for name, part in parts(network, settings).items()}


def _problems(
    weights: Weights, network: nn.Module, settings: Settings, found: Found, file: str, key: str
) -> list[Problem]:
    expected = {weights.prefix + name: value for name, value in _tensors(network, settings, found.foreign).items()}
    wrong = mismatches(expected, weights.tensors)
    if not wrong:
        return []
    section = "Generator" if isinstance(settings, GeneratorSettings) else "Discriminator"
    said, expected_is = f"weights of another network ({wrong})", f"those of the configuration's {section}"
    fix = f"Set {section} and Model.in_bands as they were when it was trained."
    return [Problem(file, key, said, expected_is, fix)]


def _course_problems(found: Found, configuration: Configuration, file: str, key: str) -> list[Problem]:
    """What keeps a training from going on from a file."""
    course = found.course
    if course is None:
        fix = "Model.load_checkpoint takes weights alone."
        return [Problem(file, key, "weights alone", "the checkpoint of a training", fix)]
    if course.step >= configuration.Training.max_steps:
        expected = f"one before Training.max_steps ({configuration.Training.max_steps})"
        return [Problem(file, key, f"a training at step {course.step}", expected, "Set Training.max_steps higher.")]
    bands, problems = configuration.Model.in_bands, []
    networks: dict[str, tuple[Any, Settings]] = {"g": (Generator, configuration.Generator)}
    if not why_drawn(found, configuration.Discriminator):
        networks["d"] = (Discriminator, configuration.Discriminator)
    for which, (build, settings) in networks.items():
        network = on_meta(lambda build=build, settings=settings: build(bands, settings))
        try:
            _moments(course.optimizers[which], network, settings, found.foreign)
            _counted(course, which)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            said = f"the state of another optimiser of {which.upper()} ({one_line(error)})"
            problems.append(Problem(file, key, said, "Adam's, of the configuration's networks"))
    return problems


def _moments(
    saved: Mapping[str, Any], network: nn.Module, settings: Settings, foreign: bool
) -> tuple[float, dict[str, Tensor], dict[str, Tensor]] | None:
    """Adam's steps, and its first and second moments by the weights' names; None where it has made no step yet.

    ValueError where they are those of other weights.
    """
    if not saved or not saved["state"]:
        return None
    expected = _tensors(network, settings, foreign)
    names = [name for group in lightning.in_groups(network, settings, foreign) for name in group]
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    if len(indices) != len(names):
        raise ValueError(f"of {len(indices)} weights instead of {len(names)}")
    each = {name: saved["state"][index] for index, name in zip(indices, names, strict=True)}
    for name, one in each.items():
        if not one["exp_avg"].shape == one["exp_avg_sq"].shape == expected[name].shape:
            raise ValueError(f"{name} is {tuple(one['exp_avg'].shape)} instead of {tuple(expected[name].shape)}")
    first, second = ({name: one[moment] for name, one in each.items()} for moment in ("exp_avg", "exp_avg_sq"))
    return float(each[names[0]]["step"]), first, second


def _give_moments(
    network: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, found: Found, saved: Mapping[str, Any]
) -> None:
    """Let an optimiser go on with the moments of another; its rates, decay and betas stay as configured."""
    moments = _moments(saved, network, settings, found.foreign)
    if moments is None:
        return
    steps, *by_name = moments
    twins = []
    for values in by_name:
        copied = twin(network)
        for name, place in _tensors(copied, settings, found.foreign).items():
            if name in values:
                place.detach().copy_(values[name])
        twins.append(dict(copied.named_parameters()))
    for name, weight in network.named_parameters():
        first, second = (torch.empty_like(weight).detach().copy_(of[name]) for of in twins)
        step = torch.full((), steps, dtype=torch.float32, device=weight.device)
        optimizer.state[weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def _counted(course: Course, which: str) -> tuple[float, str, float, int, int]:
    """Rate, mode, best, bad validations and those to cool down that a plateau scheduler has counted."""
    counts = course.counts[which]
    best, bad, cooling = float(counts["best"]), int(counts["num_bad_epochs"]), int(counts["cooldown_counter"])
    return float(course.rates[which]), str(counts["mode"]), best, bad, cooling


def _go_on(plateau: Plateau, which: str, course: Course, configuration: Configuration) -> None:
    """Let a plateau scheduler go on where another stood, where it counts the same.

    One that was fed zeros in pretraining, as opensr-srgan's of D is, keeps its rate and counts anew.
    """
    rate, mode, best, bad, cooling = _counted(course, which)
    within_warmup = which == "g" and course.step < configuration.Schedulers.g_warmup_steps
    same = mode == plateau.mode and best != 0 and math.isfinite(best) and armed(course.step, configuration)
    plateau.go_on(math.inf if within_warmup else rate, best if same else None, bad, cooling)
