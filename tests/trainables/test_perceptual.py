"""Perceptual metrics: equal to opensr-srgan's and lpips', which bands they see, where weights lie, in training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.ndimage import convolve1d
from torch.nn import functional

from tests.support.perceptual import CASES, SIDE, losses_of, pair, peers_figures, write_published
from tests.support.studies import loaded, small, write
from tests.support.tiny import begun, everything, same, saved, textured, tiny
from trainables.errors import InvalidInput
from trainables.losses import blur_matrix, content_loss, image_metrics, psnr, ssim
from trainables.perceptual import (
    ALEX,
    HEADS,
    VGG,
    bands_at,
    laplacian,
    layers_upto,
    perceptual_of,
    three_bands,
    vgg19,
)
from trainables.schema import LossSettings
from trainables.state import State
from trainables.trainer import train
from tune_srgan.check import check_file

CPU = torch.device("cpu")
WEIGHT, METRIC = "Training.Losses.perceptual_weight", "Training.Losses.perceptual_metric"
PLACE, FIXED = "Training.Losses.perceptual_weights", "Training.Losses.fixed_idx"
# by opensr-srgan and lpips themselves: `python -m tests.support.perceptual`
RECORDED = {
    "vgg": {
        "l1": 0.0787978768, "sam": 0.148650154, "perceptual": 0.000173127628, "tv": 0.83184433,
        "psnr": 21.1830883, "ssim": 0.96410495, "content": 0.096280098, "gradient": 0.000122215322,
    },
    "vgg, truncated": {
        "l1": 0.0787978768, "sam": 0.148650154, "perceptual": 0.0108041214, "tv": 0.83184433,
        "psnr": 21.1830883, "ssim": 0.96410495, "content": 0.202590033, "gradient": 0.000383538223,
    },
    "vgg of one band": {
        "l1": 0.0798315108, "sam": 0.197799131, "perceptual": 0.000168843646, "tv": 0.824808121,
        "psnr": 20.9557629, "ssim": 0.96203208, "content": 0.0897680297, "gradient": 0.000337261561,
    },
    "vgg of two bands": {
        "l1": 0.0801746622, "sam": 0.157213137, "perceptual": 0.000170187981, "tv": 0.833601236,
        "psnr": 20.9683247, "ssim": 0.963000953, "content": 0.0980732068, "gradient": 0.000188098551,
    },
    "vgg of fixed bands": {
        "l1": 0.0793656856, "sam": 0.152271762, "perceptual": 0.000146090184, "tv": 0.833995223,
        "psnr": 21.075552, "ssim": 0.963191926, "content": 0.0967801213, "gradient": 7.30697793e-05,
    },
    "lpips": {
        "l1": 0.0787978768, "sam": 0.148650154, "perceptual": 0.0632603914, "tv": 0.83184433,
        "psnr": 21.1830883, "ssim": 0.96410495, "content": 0.727152705, "gradient": 0.0038145869,
    },
    "lpips of fixed bands": {
        "l1": 0.0793656856, "sam": 0.152271762, "perceptual": 0.0633085892, "tv": 0.833995223,
        "psnr": 21.075552, "ssim": 0.963191926, "content": 0.728405118, "gradient": 0.00280574383,
    },
    "a narrow window": {
        "l1": 0.0787978768, "sam": 0.148650154, "perceptual": 0, "tv": 0.83184433,
        "psnr": 21.1830883, "ssim": 0.963100672, "content": 0.0945488214, "gradient": 0.000117321753,
    },
    "a wide window, another peak": {
        "l1": 0.0787978768, "sam": 0.148650154, "perceptual": 0, "tv": 0.83184433,
        "psnr": 19.6574745, "ssim": 0.959067762, "content": 0.0945488214, "gradient": 0.000117321753,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder with files like the published ones."""
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """torch's cache is empty, and there is no package lpips."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("trainables.perceptual.find_spec", lambda name: None)
    return tmp_path / "home" / "hub" / "checkpoints"


def our_figures(case, published):
    bands, _, (i, j) = CASES[case]
    values = {f"Training.Losses.{key}": value for key, value in losses_of(case).items()}
    values |= {"Model.in_bands": bands, "Data.crop_size": SIDE, "TruncatedVGG.i": i, "TruncatedVGG.j": j}
    configuration = tiny(**values, **{PLACE: str(published)})
    losses, perceptual = configuration.Training.Losses, perceptual_of(configuration, CPU)
    sr, hr = pair(bands)
    figures = image_metrics(sr, hr, losses, perceptual)
    sr.requires_grad_()
    content = content_loss(sr, hr, losses, perceptual)
    content.backward()
    assert sr.grad.isfinite().all()
    return figures | {"content": float(content.detach()), "gradient": float(sr.grad.square().mean().sqrt())}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_metrics_are_those_recorded_of_opensr_srgan(case, published):
    assert our_figures(case, published) == pytest.approx(RECORDED[case], rel=2e-5)


@pytest.mark.peer
@pytest.mark.parametrize("case", CASES)
def test_losses_and_metrics_are_opensr_srgans(case, published, tmp_path, monkeypatch):
    for package in ("torchvision", "lpips", "opensr_srgan"):
        pytest.importorskip(package)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = peers_figures(case, published, tmp_path)
    ours = our_figures(case, published)
    # a gradient has ReLUs and poolings in it that a rounding turns
    assert ours.pop("gradient") == pytest.approx(theirs.pop("gradient"), rel=1e-4)
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_metrics_are_means_of_batches_weighted_by_their_images():
    (sr, hr), few = pair(3), slice(None, 2)
    sr, hr = torch.cat([sr, sr[few] * 2]), torch.cat([hr, hr[few].flip(-1)])
    found = image_metrics(sr, hr, LossSettings(), None, size=2)
    # as opensr-srgan's validation of these five logs them with val_batch_size 2
    recorded = {"l1": 0.356859118, "sam": 0.386438936, "tv": 1.16314113, "psnr": 12.8275938, "ssim": 0.585665166}
    assert found == pytest.approx(recorded | {"perceptual": 0.0}, rel=1e-6)
    assert image_metrics(sr, hr, LossSettings(), None)["psnr"] != pytest.approx(found["psnr"], rel=1e-3)


def test_images_are_clamped_for_the_metrics_alone():
    hr = torch.full((1, 3, 16, 16), 0.5)
    sr = hr.clone()
    sr[..., :8] = 1.7  # clamped to 1, it is off by 0.5 in half of the pixels; else by 1.2
    found = image_metrics(sr, hr, LossSettings(), None)
    assert found["psnr"] == pytest.approx(10 * math.log10(1 / 0.125), rel=1e-6)
    assert float(psnr(sr, hr, 1.0)) == pytest.approx(10 * math.log10(1 / 0.72), rel=1e-6)
    assert found["l1"] == pytest.approx(0.6, rel=1e-6)


def test_a_blur_is_a_convolution_of_reflected_images():
    bell = torch.tensor([0.1, 0.2, 0.4, 0.3, 0.0])
    images = torch.from_numpy(textured(3, 12, 20))[:, None]
    kernel = bell[:, None] * bell
    expected = functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), kernel[None, None])
    found = blur_matrix(12, bell) @ images @ blur_matrix(20, bell).T
    assert torch.allclose(found, expected, atol=1e-6)


def test_ssim_of_images_that_a_window_does_not_fit_in():
    assert float(ssim(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 1.0, 11)) == pytest.approx(1)


def test_what_a_network_sees_of_few_and_of_many_bands():
    def seen(bands, chosen=(0, 1, 2)):
        images = torch.arange(float(bands)).view(1, bands, 1, 1)
        return three_bands(images, torch.tensor(chosen)).flatten().tolist()

    assert [seen(1), seen(2), seen(3)] == [[0, 0, 0], [0, 1, 0], [0, 1, 2]]
    assert [seen(4), seen(6, (5, 0, 5))] == [[0, 1, 2], [5, 0, 5]]


def test_bands_are_drawn_by_seed_and_step_alone():
    def drawn(**changes):
        configuration = tiny(**{"Model.in_bands": 6, WEIGHT: 0.1} | changes)
        return [bands_at(step, configuration) for step in range(1, 200)]

    bands = drawn()
    assert bands == drawn()
    assert bands != drawn(**{"Training.seed": 1})
    assert all(len(set(three)) == 3 for three in bands)
    counts = np.bincount(np.array(bands).flatten(), minlength=6)
    assert len(counts) == 6
    assert counts.min() > 70  # of 199 · 3 / 6 expected each; three standard deviations are 21
    assert set(drawn(**{FIXED: [4, 0, 3]})) == {(4, 0, 3)}
    assert set(drawn(**{"Model.in_bands": 3})) == set(drawn(**{WEIGHT: 0.0})) == {(0, 1, 2)}


def test_a_reading_sees_the_fixed_bands_or_the_first_three(published):
    sr, hr = pair(5)
    values = {"Model.in_bands": 5, WEIGHT: 0.1, PLACE: str(published), "TruncatedVGG.i": 1, "Data.crop_size": SIDE}
    values["TruncatedVGG.j"] = 1
    free, fixed = (perceptual_of(tiny(**values, **{FIXED: chosen}), CPU) for chosen in (None, [4, 2, 0]))
    assert float(free(sr, hr)) == float(free(sr[:, :3], hr[:, :3]))
    assert float(fixed(sr, hr)) == float(free(sr, hr, torch.tensor([4.0, 2.0, 0.0])))
    assert float(fixed(sr, hr)) != float(free(sr, hr))


def test_a_network_is_loaded_once_and_draws_nothing(published):
    values = {WEIGHT: 0.1, PLACE: str(published), "Data.crop_size": SIDE}
    before = torch.get_rng_state()
    first = perceptual_of(tiny(**values), CPU)
    assert perceptual_of(tiny(**values, **{"Training.seed": 3}), CPU).distance is first.distance
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(weight.requires_grad for weight in first.distance.parameters())
    assert perceptual_of(tiny(**values | {WEIGHT: 0.0, PLACE: "nowhere"}), CPU) is None


def test_vgg19_ends_after_the_relu_that_is_asked_for():
    kinds = [type(layer).__name__ for layer in vgg19()]
    assert layers_upto(5, 4) == 36
    for i, j, convolutions, poolings in ((1, 1, 1, 0), (2, 1, 3, 1), (3, 4, 8, 2), (5, 2, 14, 4)):
        upto = kinds[: layers_upto(i, j)]
        assert (upto.count("Conv2d"), upto.count("MaxPool2d"), upto[-1]) == (convolutions, poolings, "ReLU")


@pytest.mark.parametrize("metric", ["vgg", "lpips", "laplacian"])
def test_equal_and_empty_images_have_distance_0_and_a_finite_gradient(metric, published):
    values = {WEIGHT: 0.1, METRIC: metric.upper(), PLACE: str(published), "Data.crop_size": SIDE}
    perceptual = perceptual_of(tiny(**values), CPU)
    for hr in (pair(3)[1], torch.zeros(1, 3, SIDE, SIDE)):
        sr = hr.clone().requires_grad_()
        distance = perceptual(sr, hr)
        distance.backward()
        assert float(distance.detach()) == 0
        assert sr.grad.isfinite().all()


def test_the_laplacian_distance_by_hand():
    """A constant is in what remains of the pyramid alone, the finest checkerboard in its first level alone."""
    hr = torch.rand(2, 4, 32, 32)
    checkers = torch.tensor([[0.25, -0.25], [-0.25, 0.25]]).repeat(16, 16)
    assert float(laplacian(hr + 0.3, hr)) == pytest.approx(0.3, rel=1e-5)
    assert float(laplacian(hr + checkers, hr)) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("side", [4, 20, 32])  # of one level, of three and an odd one, of three
def test_the_laplacian_distance_by_convolutions(side):
    def blurred(image, gain=1):
        for axis in (0, 1):
            image = convolve1d(image, gain * np.array([1, 4, 6, 4, 1]) / 16, axis=axis, mode="mirror")
        return image

    draw = np.random.default_rng(0)
    rest, expected = draw.standard_normal((side, side)), 0.0
    images = torch.from_numpy(rest)[None, None].float()
    for _ in range({4: 1, 20: 3, 32: 3}[side]):
        reduced, spread = blurred(rest)[::2, ::2], np.zeros_like(rest)
        spread[::2, ::2] = reduced
        expected += np.abs(rest - blurred(spread, gain=2)).mean()
        rest = reduced
    expected += np.abs(rest).mean()
    assert float(laplacian(images, torch.zeros_like(images))) == pytest.approx(expected, rel=1e-5)


def refused(**values):
    with pytest.raises(InvalidInput) as caught:
        perceptual_of(tiny(**{WEIGHT: 0.1, "Data.crop_size": SIDE} | values), CPU)
    [problem] = caught.value.problems
    return problem


def test_weights_that_are_not_there(nowhere, tmp_path, published):
    problem = refused()
    assert problem.key == METRIC
    assert f"vgg, and no {VGG} in {nowhere}" in problem.found
    assert "torchvision.models.vgg19(weights='DEFAULT')" in problem.fix
    assert "laplacian" in problem.fix
    problem = refused(**{METRIC: "lpips"})
    assert f"no {ALEX} and {HEADS} in" in problem.found
    assert "torchvision.models.alexnet" in problem.fix
    problem = refused(**{METRIC: "lpips", PLACE: str(tmp_path)})
    assert problem.key == PLACE
    assert str(tmp_path) in problem.found
    (tmp_path / ALEX).hardlink_to(published / ALEX)
    assert f"no {HEADS} in" in refused(**{METRIC: "lpips", PLACE: str(tmp_path)}).found


def test_weights_are_found_at_a_file_in_torchs_cache_and_in_the_package(nowhere, published, tmp_path, monkeypatch):
    values = {WEIGHT: 0.1, "Data.crop_size": SIDE, "TruncatedVGG.i": 1, "TruncatedVGG.j": 1}
    sr, hr = pair(3)
    wanted = float(perceptual_of(tiny(**values, **{PLACE: str(published)}), CPU)(sr, hr))
    assert float(perceptual_of(tiny(**values, **{PLACE: str(published / VGG)}), CPU)(sr, hr)) == wanted
    nowhere.mkdir(parents=True)
    for name in (VGG, ALEX):
        (nowhere / name).hardlink_to(published / name)
    assert float(perceptual_of(tiny(**values), CPU)(sr, hr)) == wanted
    (tmp_path / "lpips" / "weights" / "v0.1").mkdir(parents=True)
    (tmp_path / "lpips" / "weights" / "v0.1" / HEADS).hardlink_to(published / HEADS)
    (tmp_path / "lpips" / "__init__.py").write_text("raise ImportError('it is not imported')")
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(tmp_path))
    by_lpips = values | {METRIC: "lpips"}
    wanted = float(perceptual_of(tiny(**by_lpips, **{PLACE: str(published)}), CPU)(sr, hr))
    assert float(perceptual_of(tiny(**by_lpips), CPU)(sr, hr)) == wanted > 0


def test_files_that_are_no_weights(published, tmp_path):
    broken = tmp_path / VGG
    broken.write_bytes(b"nothing")
    assert str(broken) in refused(**{PLACE: str(tmp_path)}).found
    state = torch.load(published / VGG, weights_only=True)
    del state["features.34.bias"]
    torch.save(state, broken)  # strictly: also where the network ends before
    assert "features.34.bias" in refused(**{PLACE: str(tmp_path), "TruncatedVGG.i": 2, "TruncatedVGG.j": 2}).found
    torch.save(torch.load(published / ALEX, weights_only=True), broken)
    assert str(broken) in refused(**{PLACE: str(broken)}).found


def test_a_training_or_study_without_weights_is_refused_before_it_starts(nowhere, tmp_path):
    quiet = Console(quiet=True)
    document = small()
    training = document["training"]
    training["Training"] |= {"device": "cpu", "pretrain_g_only": True, "Losses": {}}
    file = write(tmp_path, training, "training.yaml")
    with pytest.raises(InvalidInput, match=f"{file}: {METRIC}: found vgg, and no {VGG}"):
        check_file(file, None, False, None, quiet, quiet)
    training["Training"]["Losses"] = {"perceptual_metric": "laplacian"}
    check_file(write(tmp_path, training, "training.yaml"), None, False, None, quiet, quiet)
    # one of the metrics that trials may have
    training["Training"]["Losses"] = {}
    training["Data"]["crop_size"] = SIDE
    document["space"][METRIC] = {"choice": ["laplacian", "lpips"]}
    file = write(tmp_path, document)
    with pytest.raises(InvalidInput, match=f"{file}: {METRIC}: found lpips, and no {ALEX}"):
        check_file(file, str(tmp_path / "runs"), False, None, quiet, quiet)
    document["space"][METRIC] = {"choice": ["laplacian", "lpips"]}
    document["space"][WEIGHT] = {"choice": [0.0, 0.1]}
    assert [one.Training.Losses.perceptual_metric for one in loaded(tmp_path, document).metrics()] == [
        "laplacian",
        "lpips",
    ]


@pytest.mark.parametrize(("key", "value", "beside", "expected"), [
    (METRIC, "nonsense", {}, "'vgg', 'lpips' or 'laplacian'"),
    (WEIGHT, -0.1, {}, "greater than or equal to 0"),
    (FIXED, [0, 1], {}, "at least 3 items"),
    (FIXED, [0, 1, 2, 3], {}, "at most 3 items"),
    (FIXED, [0, 1, -1], {}, "greater than or equal to 0"),
    (FIXED, [0, 1, 9], {"Model.in_bands": 4}, "three of the bands 0 to 3"),
    ("TruncatedVGG.i", 6, {}, "less than or equal to 5"),
    ("TruncatedVGG.j", 3, {"TruncatedVGG.i": 2}, "at most 2"),
    ("Data.crop_size", 12, {WEIGHT: 0.1}, "at least 16 px"),
    ("Data.crop_size", 16, {WEIGHT: 0.1, METRIC: "lpips"}, "at least 31 px"),
])  # fmt: skip
def test_values_that_no_metric_can_have(key, value, beside, expected):
    with pytest.raises(InvalidInput) as caught:
        tiny(**beside, **{key: value})
    said = {problem.key: problem.expected for problem in caught.value.problems}
    assert expected in said[key]


def test_weights_lie_relative_to_the_trainings_file(tmp_path, published):
    document = small()["training"]
    document["Training"] |= {"device": "cpu", "pretrain_g_only": True, "Losses": {"perceptual_weights": "weights"}}
    document["Data"]["crop_size"] = SIDE
    (tmp_path / "weights").symlink_to(published)
    quiet = Console(quiet=True)
    check_file(write(tmp_path, document, "training.yaml"), None, False, None, quiet, quiet)
    study = small()
    study["training"] = "training.yaml"
    assert loaded(tmp_path, study).training["Training"]["Losses"]["perceptual_weights"] == str(published)


def played(folder: Path, published, steps=6, **changes):
    scene = saved(folder / "scene.npy", textured(5))
    values = {"Data.path": scene, "Model.in_bands": 5, "Data.crop_size": SIDE, "TruncatedVGG.i": 1}
    values |= {"TruncatedVGG.j": 2, PLACE: str(published), "Data.normalization": "identity"}
    values |= {"Training.pretrain_g_only": True, "Discriminator.norm": False}
    state, imagery = begun(**values | changes)
    for _ in train(state, imagery):
        if state.step >= steps:
            break
    return state, imagery


@pytest.mark.parametrize("metric", ["vgg", "lpips", "laplacian"])
def test_a_metric_moves_pretraining_and_game_and_is_in_every_reading(metric, published, tmp_path):
    plain, _ = played(tmp_path, published)
    moved, imagery = played(tmp_path, published, **{WEIGHT: 0.5, METRIC: metric})
    for before, after in zip(plain.readings, moved.readings, strict=True):
        assert before["train_metrics/perceptual"] == before["val_metrics/perceptual"] == 0
        assert after["train_metrics/perceptual"] > 0
        assert after["val_metrics/perceptual"] > 0
        content = after["val_metrics/l1"] + 0.5 * after["val_metrics/perceptual"]
        assert after["validation/content_loss"] == pytest.approx(content, rel=1e-9)
        assert before["generator/content_loss"] < after["generator/content_loss"]
    with torch.no_grad():
        expected = moved.perceptual(moved.generator.eval()(imagery.pairs.lr), imagery.pairs.hr)
    assert moved.readings[-1]["val_metrics/perceptual"] == pytest.approx(float(expected), rel=1e-4)
    assert not same(everything(plain), everything(moved), "generator")


def test_drawn_bands_are_the_same_in_a_training_that_goes_on(published, tmp_path):
    whole, _ = played(tmp_path, published, **{WEIGHT: 5.0})
    fixed, _ = played(tmp_path, published, **{WEIGHT: 5.0, FIXED: [0, 1, 2]})
    half, imagery = played(tmp_path, published, steps=2, **{WEIGHT: 5.0})
    half.save(tmp_path / "checkpoint.pt")
    resumed = State.load(tmp_path / "checkpoint.pt", half.configuration, CPU)
    for _ in train(resumed, imagery):
        if resumed.step >= whole.step:
            break
    parts = [{k: v for k, v in everything(one).items() if k.startswith("gen")} for one in (whole, resumed, fixed)]
    assert same(parts[0], parts[1])
    assert not same(parts[0], parts[2])
