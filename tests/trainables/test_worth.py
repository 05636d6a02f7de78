"""What a finished training's images are worth: of which images, by which figures, and what is drawn of them."""

import copy
import math

import numpy as np
import pytest
import torch

from tests.support.perceptual import write_published
from tests.support.quality import write_dists
from tests.support.tiny import tiny
from trainables import merits
from trainables.imagery import Imagery
from trainables.learned import learned_at
from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, TEST, TRUTH, flat, loss_of, short_of
from trainables.pictures import maps
from trainables.quality import measure, medians
from trainables.spectra import radial_spectrum
from trainables.state import State
from trainables.trainer import train
from trainables.validation import scale_of, super_resolve
from trainables.worth import worth_of

CPU = torch.device("cpu")


def scene(seed, side=160):
    draw = np.random.default_rng(seed).random((3, side, side)).astype(np.float32)
    for _ in range(2):
        draw = (draw + np.roll(draw, 1, 1) + np.roll(draw, 1, 2)) / 3
    return draw


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A training on one scene with another to test on, to its end."""
    folder = tmp_path_factory.mktemp("worth")
    np.save(folder / "own.npy", scene(0))
    np.save(folder / "other.npy", scene(1))
    places = {"Data.path": str(folder / "own.npy"), "Data.test_path": str(folder / "other.npy")}
    configuration = tiny(**places, **{"Logging.num_val_images": 3})
    state, imagery = State(configuration, CPU), Imagery(configuration, CPU)
    readings = list(train(state, imagery))
    return state, imagery, readings, worth_of(state, imagery)


def test_every_image_is_measured_held_out_and_of_the_test_set(ended):
    state, imagery, _, worth = ended
    names = [BICUBIC, PRETRAINED, END]
    assert list(worth.quality) == [*names, *(TEST[name] for name in names)]
    scale = scale_of(state.configuration, imagery)
    for pairs, image in ((imagery.pairs, END), (imagery.test, TEST[END])):
        expected = medians(measure(super_resolve(state.judged, pairs.lr, 64), pairs.lr, pairs.hr, scale))
        assert worth.quality[image] == expected
        assert expected.keys() >= MERITS.keys() - {"shift", "lpips", "dists"}
    assert worth.quality[TEST[BICUBIC]] == medians(
        measure(imagery.test.bicubic, imagery.test.lr, imagery.test.hr, scale)
    )
    assert worth.quality[BICUBIC]["psnr"] != worth.quality[TEST[BICUBIC]]["psnr"]


def test_a_readings_figures_are_those_of_the_end(ended):
    _, _, readings, worth = ended
    assert all(merits.QUALITY + name in reading for reading in readings for name in ("psnr", "spectrum"))
    for name in ("psnr", "spectrum"):
        assert readings[-1][f"quality/{name}"] == pytest.approx(worth.quality[END][name])


def test_measuring_leaves_the_training_as_it_is(ended):
    state, imagery, *_ = ended
    before = copy.deepcopy(state.generator.state_dict()), torch.get_rng_state()
    worth_of(state, imagery)
    assert all(torch.equal(value, before[0][name]) for name, value in state.generator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])


def test_spectra_are_of_truth_and_of_each_image(ended):
    _, imagery, _, worth = ended
    assert worth.spectra["nyquist"] == 0.5 / imagery.factor
    assert worth.spectra["power"].keys() == {BICUBIC, PRETRAINED, END, TRUTH}
    frequencies, power = radial_spectrum(imagery.pairs.hr)
    assert worth.spectra["frequencies"] == frequencies.tolist()
    assert worth.spectra["power"][TRUTH] == pytest.approx(power.tolist(), abs=1e-3)


def test_a_sheet_and_a_map_show_the_same_pairs(ended):
    _, imagery, _, worth = ended
    side = imagery.crop + 2
    assert worth.columns == ["LR", BICUBIC, PRETRAINED, END, "HR"]
    assert worth.sheet.shape == (3 * side, 5 * side, 3)
    assert worth.maps.shape == (3 * side, 3 * side, 3)


def test_a_map_is_red_where_detail_is_invented_blue_where_it_is_omitted_white_as_in_truth_grey_elsewhere():
    omitted, invented = torch.tensor([[[0.0, 1.0, 0.0, math.nan]]]), torch.tensor([[[1.0, 0.0, 0.0, math.nan]]])
    red, blue, white, grey = maps([(omitted, invented)])[1, 1:5].tolist()
    assert red[0] > 2 * max(red[1:]) and blue[2] > 2 * max(blue[:2])
    assert white == [255, 255, 255] and grey == [230, 230, 230]


def test_without_pictures_or_test_set_neither_is_made():
    configuration = tiny(**{"Logging.num_val_images": 0, "Training.pretrain_g_only": False})
    state, imagery = State(configuration, CPU), Imagery(configuration, CPU)
    worth = worth_of(state, imagery)
    assert worth.sheet is None and worth.maps is None and worth.columns == []
    assert list(worth.quality) == [BICUBIC, END]


QUALITY = {BICUBIC: {"psnr": 30.0, "spectrum": -6.0, "sam": 2.0}, END: {"psnr": 29.0, "spectrum": 4.0, "sam": 1.5}}


@pytest.mark.parametrize(
    ("key", "floor", "short"),
    [
        ("quality/psnr", "bicubic", 1.0),
        ("quality/psnr", 28.0, -1.0),
        ("quality/spectrum", "bicubic", -2.0),
        ("quality/spectrum", -3.0, 1.0),
        ("quality/sam", 1.5, 0.0),
        ("quality/ssim", 0.5, math.nan),
    ],
)
def test_a_floor_is_missed_by_as_much_as_the_figure_is_worse(key, floor, short):
    assert short_of(key, QUALITY, floor) == pytest.approx(short, nan_ok=True)


def test_a_smaller_loss_is_better_and_names_are_flat():
    assert (loss_of("quality/psnr", QUALITY), loss_of("quality/sam", QUALITY)) == (-29.0, 1.5)
    assert flat(QUALITY)["quality/psnr"] == 29.0
    assert flat(QUALITY)["quality/bicubic/spectrum"] == -6.0


def test_learned_distances_judge_the_end_where_a_file_names_their_weights(tmp_path):
    folder = write_dists(write_published(tmp_path / "published"))
    configuration = tiny(**{"Logging.metric_weights": str(folder), "Logging.num_val_images": 0})
    state, imagery = State(configuration, CPU), Imagery(configuration, CPU)
    readings = list(train(state, imagery))
    found, pairs = worth_of(state, imagery).quality[END], imagery.pairs
    sr, dists = super_resolve(state.judged, pairs.lr, 64), learned_at(folder, CPU)["dists"]
    each = [float(dists(x[None], y[None])) for x, y in zip(sr, pairs.hr, strict=True)]
    assert found["dists"] == pytest.approx(float(np.quantile(each, 0.5)), rel=1e-5)
    assert not {"quality/dists", "quality/lpips"} & readings[-1].keys()  # at the end alone
    plain = tiny(**{"Logging.num_val_images": 0})
    assert configuration.Training == plain.Training and "dists" not in worth_of(state, Imagery(plain, CPU)).quality
