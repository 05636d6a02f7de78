"""The GPU's kernels, interpreted in float32 where there is no GPU, against plain torch; the norms in half precision."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.parametrize import register_parametrization

from tests.support.service import ROOT
from tests.support.tiny import tiny
from trainables.gpu import dense, layers, precision
from trainables.imagery import Imagery
from trainables.networks import _DenseTrunk, _Layer

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs them for real")


def relative(found, expected):
    return float((found - expected).norm().detach() / expected.norm().detach())


@pytest.mark.parametrize(("channels", "shuffle"), [(8, True), (8, False), (3, False), (1, False)])
@pytest.mark.parametrize("slope", ["prelu", 0.2, None])
@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_follows_a_convolution(channels, shuffle, slope, skipped, frozen, monkeypatch):
    torch.manual_seed(0)
    raw = torch.randn(2, channels, 9, 11).contiguous(memory_format=torch.channels_last).requires_grad_()
    given = [raw, torch.randn(channels, requires_grad=not frozen)]
    learnt = torch.tensor([0.25], requires_grad=not frozen) if slope == "prelu" else slope
    given += [learnt] if slope == "prelu" else []
    size = (2, channels // 4, 18, 22) if shuffle else raw.shape
    skip = torch.randn(size, requires_grad=True) if skipped else None
    given += [skip] if skipped else []
    direction = torch.randn(size)

    def both():
        result = layers.finish(raw, given[1], learnt, skip, shuffle)
        return [result, *torch.autograd.grad(result, [part for part in given if part.requires_grad], direction)]

    expected = both()
    monkeypatch.setattr(layers, "usable", lambda x: True)
    monkeypatch.setattr(layers, "ELEMENTS", 64)  # many programs, and one that is not full
    monkeypatch.setattr(layers, "PROGRAMS", 5)
    for found, wanted in zip(both(), expected, strict=True):
        assert relative(found, wanted) < 1e-6


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("activation", ["prelu", "leaky", None])
@pytest.mark.parametrize("skipped", [False, True])
def test_a_norm_and_what_follows_it(norm, activation, skipped, monkeypatch):
    torch.manual_seed(0)
    x = (5 + torch.randn(3, 4, 7, 9)).contiguous(memory_format=torch.channels_last).requires_grad_()
    skip = torch.randn(3, 6, 7, 9, requires_grad=True) if skipped else None
    direction = torch.randn(3, 6, 7, 9)
    layer = _Layer(4, 6, 3, activation=activation, norm=norm)
    start = copy.deepcopy(layer.state_dict())
    if norm == "batch":
        start["norm.weight"], start["norm.bias"] = torch.rand(6) + 0.5, torch.randn(6)
    named = [part for name, part in layer.named_parameters() if name != "conv.bias"]
    inputs = [x, *named, *([skip] if skipped else [])]

    def both():
        layer.load_state_dict(start)
        result = layer(x, skip)
        *gradients, of_bias = torch.autograd.grad(result, [*inputs, layer.conv.bias], direction)
        return [result, *gradients, *(value.float() for value in layer.state_dict().values())], of_bias

    expected, nothing = both()
    monkeypatch.setattr(layers, "usable", lambda x: True)
    monkeypatch.setattr(layers, "ELEMENTS", 64)  # many programs, and one that is not full
    monkeypatch.setattr(layers, "PROGRAMS", 5)
    found, zero = both()
    for one, wanted in zip(found, expected, strict=True):
        assert relative(one, wanted) < 1e-5
    assert not zero.any() and nothing.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("fan_in", "fan_out", "kernel", "shuffle"),
    [(16, 32, 3, False), (32, 16, 3, True), (8, 3, 9, False), (8, 4, 3, False), (8, 1, 3, False)],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer(fan_in, fan_out, kernel, shuffle, frozen, monkeypatch):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2).requires_grad_(not frozen)
    x = torch.randn(2, fan_in, 10, 12).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs = [x] if frozen else [x, conv.weight, conv.bias]

    def both():
        result = layers.layer(x, conv, 0.2, None, shuffle)
        direction = torch.linspace(-1, 1, result.numel()).view(result.shape)
        return [result, *torch.autograd.grad(result, inputs, direction)]

    plain = layers.follow(conv(x), 0.2, None, shuffle)
    expected = both()
    assert relative(expected[0], plain) < 1e-6
    monkeypatch.setattr(layers, "usable", lambda x: True)
    for found, wanted in zip(both(), expected, strict=True):
        assert relative(found, wanted) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize(("growth", "inner"), [(16, True), (16, False), (11, False)])
def test_the_dense_trunk_on_one_buffer(monkeypatch, growth, inner):
    torch.manual_seed(0)
    trunk = _DenseTrunk(2, 32, growth, 0.2, inner=inner)
    x = torch.randn(2, 32, 3, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    direction = torch.randn(2, 32, 3, 7)

    def both():
        result = trunk(x)
        return [result, *torch.autograd.grad(result, [x, trunk.weight, trunk.bias], direction)]

    expected = both()
    monkeypatch.setattr(dense, "usable", lambda *x: True)
    monkeypatch.setattr(dense, "SMALL", (32, 4, 1))  # two programs, the second not full
    for found, wanted in zip(both(), expected, strict=True):
        assert not torch.equal(found, wanted)  # another way
        assert relative(found, wanted) < 1e-5


def test_crops_cut_by_a_kernel_are_the_crops():
    imagery = Imagery(tiny(), torch.device("cpu"))
    crops = imagery.crops(0, "train", [3], 40)[0]
    assert len(crops[:, 4].unique()) == 8  # every flip and turn
    sides = imagery.cells, imagery.cells * imagery.factor
    for at, (pool, side, expected) in enumerate(zip(imagery._pools, sides, imagery.gather(crops), strict=True)):
        assert torch.equal(layers.cut_crops(pool, crops, 2 * at, side), expected)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_spectral_norm_in_half_precision(kind):
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 24) if kind == "linear" else torch.nn.Conv2d(8, 12, 3)
    register_parametrization(layer, "weight", precision.SpectralNorm(layer.weight))
    norm, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    start = {name: value.clone() for name, value in norm.state_dict().items()}
    direction = torch.randn_like(original)
    for training in (True, False):
        norm.train(training)
        norm.load_state_dict(start)
        expected = layer.weight
        (wanted,) = torch.autograd.grad(expected, original, direction)
        after = norm.u.clone(), norm.v.clone()
        norm.load_state_dict(start)
        token = precision._in_bf16.set(True)
        found = layer.weight
        precision._in_bf16.reset(token)
        (gradient,) = torch.autograd.grad(found, original, direction.bfloat16())
        assert found.dtype == torch.bfloat16
        assert relative(found.float(), expected) < 4e-3
        assert relative(gradient, wanted) < 4e-3
        assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(after, (norm.u, norm.v), strict=True))


def test_a_spectral_norm_in_half_precision_twice_before_a_gradient():
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 24)
    register_parametrization(layer, "weight", precision.SpectralNorm(layer.weight))
    norm, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    start, directions = copy.deepcopy(norm.state_dict()), torch.randn(2, 24, 40)

    def gradient():
        norm.load_state_dict(start)
        weights = torch.stack([layer.weight, layer.weight]).float()
        return weights.detach(), torch.autograd.grad(weights, original, directions)[0]

    expected = gradient()
    token = precision._in_bf16.set(True)
    found = gradient()
    precision._in_bf16.reset(token)
    assert not torch.equal(*expected[0])  # an iteration each
    assert all(relative(one, other) < 4e-3 for one, other in zip(found, expected, strict=True))


@pytest.mark.long
def test_the_kernels_compile_for_a_gpu(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.support.compile_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("features", "growth", "limit", "expected"),
    [
        (64, 32, 227 * 1024, dense.SMALL),
        (64, 64, 99 * 1024, (128, 4, 4)),  # what a smaller GPU holds
        (256, 64, 99 * 1024, (128, 4, 2)),
        (512, 64, 99 * 1024, None),
    ],
)
def test_a_tile_fits_the_shared_memory_there_is(features, growth, limit, expected):
    assert dense._tile(features, growth, 4096, limit) == expected
    assert dense._tile(64, 32, 10**6, 227 * 1024) == dense.LARGE
