"""What only a GPU can show: kernels against plain torch, recorded steps against steps by hand. Skipped without one."""

import logging
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.support.perceptual import write_published
from tests.support.tiny import everything, same, saved, textured, tiny
from trainables.gpu import dense, layers, precision
from trainables.imagery import Imagery
from trainables.networks import Discriminator, Generator
from trainables.pretraining import fingerprint, pack, unpack
from trainables.responses import probes
from trainables.state import State
from trainables.step import Stepper
from trainables.trainer import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = {"Training.device": "cuda", "Data.normalization": "identity"}
CUDA = torch.device("cuda")


def relative(found, expected):
    return float((found.double() - expected.double()).norm().detach() / expected.double().norm().detach())


def close(found, expected, reference, slack=2.0):
    """`found` is as near to the float32 `reference` as plain bfloat16 (`expected`) is, give or take."""
    return relative(found, reference) <= slack * relative(expected, reference) + 1e-3


def gradients(network, images, half, direction):
    network.zero_grad()
    images = images.clone().requires_grad_()
    precision.forward(network, images, half).float().mul(direction).sum().backward()
    return [images.grad, *(part.grad.clone() for part in network.parameters())]


NETWORKS = {  # bands, section, what is set in it
    "srresnet": (3, "Generator", {"n_channels": 64}),
    "with batch norms": (3, "Generator", {"n_channels": 64, "block_type": "standard"}),
    "rrdb": (4, "Generator", {"n_channels": 64, "model_type": "esrgan"}),
    "opensr-srgan's rrdb": (4, "Generator", {"n_channels": 64, "block_type": "rrdb", "inner_residual": False}),
    "standard": (3, "Discriminator", {"model_type": "standard", "base_channels": 32}),
    "standard with norms": (
        *(3, "Discriminator"),
        {"model_type": "standard", "norm": True, "n_blocks": 3, "use_spectral_norm": False},
    ),
    "patchgan": (4, "Discriminator", {"base_channels": 24, "use_spectral_norm": False}),
    "patchgan with norms": (4, "Discriminator", {"norm": True, "n_blocks": 2, "use_spectral_norm": False}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_half_precision_is_as_near_to_the_truth_as_plain_half_precision(name, monkeypatch):
    torch.manual_seed(0)
    bands, section, settings = NETWORKS[name]
    kind = {"Generator": Generator, "Discriminator": Discriminator}[section]
    settings = {"n_blocks": 2} | settings
    configuration = tiny(**{f"{section}.{key}": value for key, value in settings.items()})
    network = kind(bands, getattr(configuration, section)).to(CUDA).to(memory_format=torch.channels_last)
    images = torch.rand(3, bands, 20, 28, device=CUDA)
    torch.backends.cudnn.allow_tf32 = False
    network.train("norms" in name)
    reference = network(images)
    direction = torch.rand_like(reference)
    exact = gradients(network, images, False, direction)
    ours, ours_grad = precision.forward(network, images, True), gradients(network, images, True, direction)
    monkeypatch.setattr(layers, "usable", lambda x: False)
    monkeypatch.setattr(dense, "usable", lambda *x: False)
    plain, plain_grad = precision.forward(network, images, True), gradients(network, images, True, direction)
    assert not torch.equal(ours, reference)
    assert close(ours, plain, reference)
    # one slope's or one bias' gradient may cancel to nothing; all of them together do not
    whole = [torch.cat([part.flatten().float() for part in parts[1:]]) for parts in (ours_grad, plain_grad, exact)]
    assert close(*whole)
    assert close(ours_grad[0], plain_grad[0], exact[0])


FINISHES = [(64, "prelu", True, False), (64, "prelu", False, False), (64, None, False, True), (24, 0.2, False, False)]


@pytest.mark.parametrize(("channels", "slope", "shuffle", "skipped"), [*FINISHES, (3, None, False, False)])
def test_what_follows_a_convolution_in_one_pass(channels, slope, shuffle, skipped):
    torch.manual_seed(0)
    raw = torch.randn(3, channels, 50, 70, device=CUDA).bfloat16().contiguous(memory_format=torch.channels_last)
    bias = torch.randn(channels, device=CUDA)
    given = [raw, bias]
    if slope == "prelu":
        given.append(torch.tensor([0.25], device=CUDA))
    size = (3, channels // 4, 100, 140) if shuffle else raw.shape
    skip = torch.randn(size, device=CUDA).bfloat16() if skipped else None
    direction = torch.randn(size, device=CUDA).bfloat16()

    def both(kind):
        inputs = [tensor.to(kind).requires_grad_() if kind else tensor.clone().requires_grad_() for tensor in given]
        learnt = inputs[2] if slope == "prelu" else slope
        extra = skip if skip is None or not kind else skip.to(kind)
        if kind:
            y = inputs[0] + inputs[1][:, None, None]
            if shuffle:  # channels came in the order of `quarters`
                y = y.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
            result = layers.follow(y, learnt, extra, shuffle)
        else:
            result = layers.finish(inputs[0], inputs[1], learnt, extra, shuffle)
        return [result, *torch.autograd.grad(result, inputs, direction.to(result.dtype))]

    for found, expected in zip(both(None), both(torch.float64), strict=True):
        assert relative(found, expected) < 4e-3


def played(tmp_path, steps=30, **dotted):
    path = saved(tmp_path / "scene.npy", textured())
    state = State(tiny(**GPU | {"Data.path": path, "Training.g_pretrain_steps": 12} | dotted), CUDA)
    stepper = Stepper(state, Imagery(state.configuration, CUDA))
    rows = torch.cat([losses.rows().clone() for losses in stepper.run(steps)])
    torch.cuda.synchronize()
    return state, stepper, rows


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_recorded_steps_equal_steps_by_hand_to_the_bit(tmp_path, clip):
    values = {"Training.deterministic": True, "Optimizers.gradient_clip_val": clip, "Training.EMA.enabled": True}
    recorded, stepper, rows = played(tmp_path, **values)
    assert stepper._graph is not None
    by_hand, stepper, same_rows = played(tmp_path, **values, **{"Training.cuda_graphs": False})
    assert stepper._graph is None
    assert torch.equal(rows.nan_to_num(-1), same_rows.nan_to_num(-1))
    for one, other in (
        (recorded.generator, by_hand.generator),
        (recorded.discriminator, by_hand.discriminator),
        (recorded.averaged, by_hand.averaged),
    ):
        for first, second in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(first, second)


@pytest.mark.parametrize("metric", ["vgg", "lpips", "laplacian"])
def test_recorded_steps_with_a_perceptual_metric_draw_their_bands_as_steps_by_hand(tmp_path, metric):
    np.save(tmp_path / "five.npy", textured(5))
    values = {"Training.Losses.perceptual_weight": 1.0, "Training.Losses.perceptual_metric": metric}
    values |= {"Training.Losses.perceptual_weights": str(write_published(tmp_path / "weights")), "Model.in_bands": 5}
    values |= {"Data.crop_size": 32, "Data.path": str(tmp_path / "five.npy")}
    _, stepper, rows = played(tmp_path, **values)
    assert stepper._graph is not None
    _, _, same_rows = played(tmp_path, **values, **{"Training.cuda_graphs": False})
    assert torch.equal(rows.nan_to_num(-1), same_rows.nan_to_num(-1))
    _, _, half = played(tmp_path, **values, **{"Training.precision": "bf16"})
    assert torch.allclose(rows[:, 0], half[:, 0], rtol=5e-2, atol=5e-3)


THERE = {  # opensr-srgan's own, with its norms
    "standard": {"Generator.block_type": "standard", "Discriminator.model_type": "standard"},
    "rrdb and patchgan": {"Generator.block_type": "rrdb", "Discriminator.model_type": "patchgan"},
    "esrgan": {"Generator.model_type": "esrgan", "Discriminator.model_type": "esrgan"},
}


@pytest.mark.parametrize("networks", [None, *THERE])
def test_recorded_steps_in_half_precision_agree_with_steps_by_hand(tmp_path, networks):
    values = {"Training.precision": "bf16", "Generator.n_channels": 16}
    if networks:
        values |= {"Generator.bicubic_skip": False, "Generator.inner_residual": False, "Data.crop_size": 32}
        values |= {"Discriminator.norm": True, "Discriminator.per_patch": True, "Discriminator.input_range": None}
        values |= {"Discriminator.n_blocks": 2} | THERE[networks]
    _, _, rows = played(tmp_path, **values)
    _, _, same_rows = played(tmp_path, **values, **{"Training.cuda_graphs": False})
    assert torch.isfinite(rows[:, 0]).all()
    assert torch.allclose(rows.nan_to_num(-1), same_rows.nan_to_num(-1), rtol=2e-2, atol=2e-3)
    *_, whole = played(tmp_path, **values | {"Training.precision": "fp32"})
    compared = slice(1 if networks else None)  # D's norms over batches of 4 make more of a rounding
    rows, whole = rows[:, compared], whole[:, compared]
    assert torch.allclose(rows.nan_to_num(-1), whole.nan_to_num(-1), rtol=5e-2, atol=5e-3)


def test_scenes_in_the_hosts_memory_give_the_same_training(tmp_path):
    values = {"Training.deterministic": True}
    _, _, rows = played(tmp_path, **values)
    _, _, fed = played(tmp_path, **values, **{"Data.resident": False})
    assert torch.equal(rows.nan_to_num(-1), fed.nan_to_num(-1))


def test_a_step_that_cannot_be_recorded_is_made_by_hand(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with caplog.at_level(logging.WARNING):
        _, stepper, rows = played(tmp_path)
    assert stepper._graph is None
    assert rows[:, 0].isfinite().all()
    assert "no CUDA graph" in caplog.text


def test_a_training_goes_through_both_phases_and_goes_on_from_its_checkpoint(tmp_path):
    path = saved(tmp_path / "scene.npy", textured())
    values = GPU | {"Data.path": path, "Training.max_steps": 100, "Training.validate_every": 2}
    configuration = tiny(**values, **{"Training.deterministic": True, "Training.g_pretrain_steps": 20})
    imagery = Imagery(configuration, CUDA)
    whole = State(configuration, CUDA)
    list(train(whole, imagery))
    half = State(configuration, CUDA)
    for _ in zip(range(15), train(half, imagery), strict=False):
        pass
    half.save(tmp_path / "checkpoint.pt")
    resumed = State.load(tmp_path / "checkpoint.pt", configuration, CUDA)
    list(train(resumed, imagery))
    assert resumed.step == whole.step
    for first, second in zip(whole.generator.parameters(), resumed.generator.parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_starts_from_anothers_pretraining(tmp_path, precision):
    """In fp32 it ends as it would have alone, to the bit; in bf16 what is loaded is what was saved, to the bit."""
    path = saved(tmp_path / "scene.npy", textured())
    values = GPU | {"Data.path": path, "Training.max_steps": 100, "Training.validate_every": 2}
    values |= {"Training.precision": precision, "Training.EMA.enabled": True, "Generator.n_channels": 16}
    long = tiny(**values, **{"Training.g_pretrain_steps": 40, "Training.Losses.adv_loss_beta": 0.2})
    short = tiny(**values, **{"Training.g_pretrain_steps": 30, "Schedulers.patience_g": 1})
    imagery = Imagery(long, CUDA)
    assert fingerprint(long, imagery, CUDA) == fingerprint(short, imagery, CUDA)
    lender = State(long, CUDA)
    for _ in zip(range(14), train(lender, imagery), strict=False):
        pass
    borrower = unpack(pack(lender), short, CUDA)
    assert borrower.step == 28
    for part in ("generator", "optimizer_g", "averaged"):
        assert same(everything_on_host(lender), everything_on_host(borrower), part + ".")
    if precision == "bf16":
        return
    alone = State(short, CUDA)
    for state in (alone, borrower):
        list(train(state, imagery))
    assert same(everything_on_host(alone), everything_on_host(borrower))
    mine = ("time/", "memory/")
    first, second = (
        [{k: v for k, v in reading.items() if not k.startswith(mine)} for reading in state.readings]
        for state in (alone, borrower)
    )
    assert first == second


def everything_on_host(state):
    return {
        name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in everything(state).items()
    }


def test_probes_run_on_a_gpu(tmp_path):
    state, _, _ = played(tmp_path, **{"Training.precision": "bf16", "Discriminator.base_channels": 32})
    found = probes(state, Imagery(state.configuration, CUDA))
    gains = {name: found.pop(name) for name in list(found) if "gain" in name or "moved" in name}
    assert len(gains) == 7 and all(math.isfinite(gain) for gain in gains.values())
    assert len(found) == 9 and all(0 <= rank <= 1 for rank in found.values())


@pytest.mark.parametrize(("features", "growth"), [(64, 32), (64, 21), (64, 16), (32, 32), (32, 16)])
@pytest.mark.parametrize("inner", [True, False])
def test_the_trunk_on_one_buffer_is_the_trunk(features, growth, inner):
    torch.manual_seed(0)
    blocks = 6
    x = torch.randn(2, features, 17, 23, device=CUDA).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(blocks, dense.offsets(features, growth)[-1], device=CUDA) * 0.03
    bias = torch.randn(blocks, features + 4 * growth, device=CUDA) * 0.1

    def reference(x, weight, bias):
        offsets, around = dense.offsets(features, growth), x
        for block in range(blocks):
            around = x if block % 3 == 0 else around
            seen = [x]
            for layer in range(5):
                part = weight[block][offsets[layer] : offsets[layer + 1]]
                kernel = part.view(-1, 3, 3, features + layer * growth).permute(0, 3, 1, 2)
                begin = layer * growth
                y = functional.conv2d(torch.cat(seen, 1), kernel, bias[block][begin : begin + len(kernel)], padding=1)
                seen.append(functional.leaky_relu(y, 0.2))
            x = x + 0.2 * y if inner else y
            x = around + 0.2 * x if block % 3 == 2 else x
        return x

    given = [tensor.double().requires_grad_() for tensor in (x.bfloat16(), weight.bfloat16(), bias)]
    expected = reference(*given)
    direction = torch.randn_like(expected)
    truth = torch.autograd.grad(expected, given, direction)
    halves = [x.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_(), bias.clone().requires_grad_()]
    ours, plain = dense.trunk(*halves, growth, 0.2, inner), reference(halves[0], halves[1], halves[2].bfloat16())
    assert close(ours, plain, expected)
    found = [torch.autograd.grad(result, halves, direction.bfloat16()) for result in (ours, plain)]
    for one, other, of in zip(*found, truth, strict=True):
        assert close(one, other, of)
    assert dense.usable(halves[0], features, growth)
    for _ in range(5):
        again = torch.autograd.grad(dense.trunk(*halves, growth, 0.2, inner), halves, direction.bfloat16())
        assert all(torch.equal(one, other) for one, other in zip(again, found[0], strict=True))
