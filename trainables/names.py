"""opensr-srgan's names of the networks' weights: a state of one project as a state of the other, nothing left over."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from trainables.export import why_not
from trainables.gpu import dense
from trainables.networks import _DenseTrunk
from trainables.schema import DiscriminatorSettings, GeneratorSettings

NAMED = 12  # tensors that one error names
Rule = tuple[str, Callable[..., str]]  # a name here, as a pattern; what its groups make of it there

_SRRESNET: list[Rule] = [
    (r"head\.conv\.(\w+)", lambda w: f"net.conv_block1.conv_block.0.{w}"),
    (r"head\.activation\.weight", lambda: "net.conv_block1.conv_block.1.weight"),
    (r"trunk\.(\d+)\.first\.conv\.(\w+)", lambda i, w: f"net.residual_blocks.{i}.conv_block1.conv_block.0.{w}"),
    (r"trunk\.(\d+)\.first\.norm\.(\w+)", lambda i, w: f"net.residual_blocks.{i}.conv_block1.conv_block.1.{w}"),
    (r"trunk\.(\d+)\.first\.activation\.(\w+)", lambda i, w: f"net.residual_blocks.{i}.conv_block1.conv_block.2.{w}"),
    (r"trunk\.(\d+)\.second\.conv\.(\w+)", lambda i, w: f"net.residual_blocks.{i}.conv_block2.conv_block.0.{w}"),
    (r"trunk\.(\d+)\.second\.norm\.(\w+)", lambda i, w: f"net.residual_blocks.{i}.conv_block2.conv_block.1.{w}"),
    (r"join\.conv\.(\w+)", lambda w: f"net.conv_block2.conv_block.0.{w}"),
    (r"join\.norm\.(\w+)", lambda w: f"net.conv_block2.conv_block.1.{w}"),
    (r"up\.(\d+)\.conv\.(\w+)", lambda j, w: f"net.subpixel_convolutional_blocks.{j}.conv.{w}"),
    (r"up\.(\d+)\.activation\.(\w+)", lambda j, w: f"net.subpixel_convolutional_blocks.{j}.prelu.{w}"),
    (r"last\.conv\.(\w+)", lambda w: f"net.conv_block3.conv_block.0.{w}"),
]
_UP: list[Rule] = [
    (r"up\.(\d+)\.conv\.(\w+)", lambda j, w: f"upsampler.{3 * int(j)}.{w}"),
    (r"up\.(\d+)\.activation\.(\w+)", lambda j, w: f"upsampler.{3 * int(j) + 2}.{w}"),
]
_FLEXIBLE: list[Rule] = [
    (r"head\.conv\.(\w+)", lambda w: f"head.0.{w}"),
    (r"head\.activation\.weight", lambda: "head.1.weight"),
    (r"join\.conv\.(\w+)", lambda w: f"body_tail.{w}"),
    *_UP,
    (r"last\.conv\.(\w+)", lambda w: f"tail.{w}"),
]
_RES: list[Rule] = [
    (r"trunk\.(\d+)\.first\.conv\.(\w+)", lambda i, w: f"body.{i}.body.0.{w}"),
    (r"trunk\.(\d+)\.first\.activation\.(\w+)", lambda i, w: f"body.{i}.body.1.{w}"),
    (r"trunk\.(\d+)\.second\.conv\.(\w+)", lambda i, w: f"body.{i}.body.2.{w}"),
]
_BLOCK: list[Rule] = [
    (r"trunk\.(\d+)\.first\.conv\.(\w+)", lambda i, w: f"body.{i}.conv1.{w}"),
    (r"trunk\.(\d+)\.first\.activation\.(\w+)", lambda i, w: f"body.{i}.act.{w}"),
    (r"trunk\.(\d+)\.activation\.(\w+)", lambda i, w: f"body.{i}.act.{w}"),
    (r"trunk\.(\d+)\.second\.conv\.(\w+)", lambda i, w: f"body.{i}.conv2.{w}"),
    (r"trunk\.(\d+)\.squeeze\.(\w+)", lambda i, w: f"body.{i}.se.1.{w}"),
    (r"trunk\.(\d+)\.excite\.(\w+)", lambda i, w: f"body.{i}.se.3.{w}"),
    (r"trunk\.(\d+)\.near\.(\w+)", lambda i, w: f"body.{i}.lka.dw5.{w}"),
    (r"trunk\.(\d+)\.far\.(\w+)", lambda i, w: f"body.{i}.lka.dw7d.{w}"),
    (r"trunk\.(\d+)\.mix\.(\w+)", lambda i, w: f"body.{i}.lka.pw.{w}"),
    (r"trunk\.(\d+)\.hidden\.(\w+)", lambda i, w: f"body.{i}.noise_mlp.0.{w}"),
    (r"trunk\.(\d+)\.film\.(\w+)", lambda i, w: f"body.{i}.noise_mlp.2.{w}"),
]
_RRDBNET: list[Rule] = [
    (r"head\.conv\.(\w+)", lambda w: f"conv_first.{w}"),
    (r"join\.conv\.(\w+)", lambda w: f"conv_body.{w}"),
    (r"up\.hr\.conv\.(\w+)", lambda w: f"conv_hr.{w}"),
    *_UP,
    (r"last\.conv\.(\w+)", lambda w: f"conv_last.{w}"),
]
_WEIGHT: list[Rule] = [  # of a layer: as it is, or normalised by its largest singular value
    (r"weight", lambda: "weight"),
    (r"bias", lambda: "bias"),
    (r"parametrizations\.weight\.original", lambda: "weight_orig"),
    (r"parametrizations\.weight\.0\.([uv])", lambda which: f"weight_{which}"),
]
_STANDARD_D: list[Rule] = [
    (r"body\.(\d+)\.conv\.(.+)", lambda i, w: f"conv_blocks.{i}.conv_block.0.{_renamed(w, _WEIGHT)}"),
    (r"body\.(\d+)\.norm\.(\w+)", lambda i, w: f"conv_blocks.{i}.conv_block.1.{w}"),
    (r"head\.2\.(.+)", lambda w: f"fc1.{_renamed(w, _WEIGHT)}"),
    (r"head\.4\.(.+)", lambda w: f"fc2.{_renamed(w, _WEIGHT)}"),
]
_PATCH_D: list[Rule] = [
    (r"body\.(\d+)\.conv\.(\w+)", lambda i, w: f"model.model.{max(0, 3 * int(i) - 1)}.{w}"),
]
_ESRGAN_D: list[Rule] = [
    (r"body\.0\.conv\.(\w+)", lambda w: f"features.0.{w}"),
    (r"body\.(\d+)\.conv\.(\w+)", lambda i, w: f"features.{int(i) + 1}.0.{w}"),
    (r"body\.(\d+)\.norm\.(\w+)", lambda i, w: f"features.{int(i) + 1}.1.{w}"),
    (r"head\.2\.(\w+)", lambda w: f"classifier.0.{w}"),
    (r"head\.4\.(\w+)", lambda w: f"classifier.2.{w}"),
]


def to_opensr(network: nn.Module, settings: GeneratorSettings | DiscriminatorSettings) -> dict[str, Tensor]:
    """Return a network's state under opensr-srgan's names; ValueError where it has no such network."""
    return {there: part.value.detach().clone() for there, part in parts(network, settings).items()}


def from_opensr(
    network: nn.Module, settings: GeneratorSettings | DiscriminatorSettings, state: Mapping[str, Tensor]
) -> None:
    """Take a state under opensr-srgan's names; ValueError that names what is missing, left over or of other shape."""
    expected = {name: part.value for name, part in parts(network, settings).items()}
    if wrong := mismatches(expected, state):
        raise ValueError(wrong)
    for name, value in expected.items():
        value.detach().copy_(state[name])


def mismatches(expected: Mapping[str, Tensor], state: Mapping[str, object]) -> str:
    """Name the tensors that are missing, foreign, of other shape or not finite: a dozen at most, and a count."""
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} has no place" for name in state if name not in expected]
    for name, value in expected.items():
        found = state.get(name, value)
        if not isinstance(found, Tensor):
            wrong.append(f"{name} is no tensor")
        elif found.shape != value.shape:
            wrong.append(f"{name} is {tuple(found.shape)} instead of {tuple(value.shape)}")
        elif not found.is_meta and not found.isfinite().all():
            wrong.append(f"{name} is not finite")
    more = [f"and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
    return "; ".join([*wrong[:NAMED], *more])


class Part(NamedTuple):
    """A weight or buffer that has a name of its own there: a view of what it is part of `here`."""

    here: str
    value: Tensor


def parts(network: nn.Module, settings: GeneratorSettings | DiscriminatorSettings) -> dict[str, Part]:
    """List a network's weights and buffers by opensr-srgan's names; ValueError where it has no such network."""
    if why := why_not(settings):
        raise ValueError(why)
    rules = _rules(settings)
    dense_there = "body.{0}.db{1}.c{2}"
    found: dict[str, Part] = {}
    ups = (re.match(r"up\.(\d+)\.", name) for name in network.state_dict())
    highest = max((int(up.group(1)) for up in ups if up), default=0)
    trunk = getattr(network, "trunk", None)
    for here, value in network.state_dict(keep_vars=True).items():
        name = here
        if isinstance(trunk, _DenseTrunk) and here in {"trunk.weight", "trunk.bias"}:
            for index, row in enumerate(value):
                for layer in range(dense.LAYERS):
                    there = dense_there.format(index // 3, index % 3 + 1, layer + 1)
                    if here == "trunk.weight":
                        found[f"{there}.weight"] = Part(here, trunk.kernel(row, layer))
                    else:
                        found[f"{there}.bias"] = Part(here, trunk.shift(row, layer))
        elif here == "trunk.count":
            continue  # which draw of noise comes next: the other project keeps no count
        else:
            if isinstance(settings, GeneratorSettings) and settings.model_type == "esrgan":
                name = here.replace(f"up.{highest}.", "up.hr.")
            found[_renamed(name, rules)] = Part(here, value)
    return found


def twin(network: nn.Module) -> nn.Module:
    """Return a copy whose parameters are all 0: a place for numbers that there is one of for each weight."""
    copied = copy.deepcopy(network).requires_grad_(False)
    for part in copied.parameters():
        part.zero_()
    return copied


def _rules(settings: GeneratorSettings | DiscriminatorSettings) -> list[Rule]:
    if isinstance(settings, DiscriminatorSettings):
        return {"standard": _STANDARD_D, "patchgan": _PATCH_D, "esrgan": _ESRGAN_D}[settings.model_type]
    if settings.model_type == "esrgan":
        return _RRDBNET
    if settings.model_type == "srresnet" and settings.block_type == "standard":
        return _SRRESNET
    if settings.model_type == "srresnet" and settings.block_type == "res":
        return [*_FLEXIBLE, *_RES]
    return [*_FLEXIBLE, *_BLOCK]


def _renamed(name: str, rules: list[Rule]) -> str:
    for pattern, made in rules:
        if match := re.fullmatch(pattern, name):
            return made(*match.groups())
    raise ValueError(f"{name} has no name there")
