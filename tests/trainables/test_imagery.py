"""Scenes of every kind, what is wrong with them, the split by area, and crops that are functions of the step."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.nn import functional

from tests.support.tiny import coordinates, saved, textured, tiny
from trainables.errors import InvalidInput
from trainables.imagery import Imagery, load_imagery

CROP = 16
CPU = torch.device("cpu")
IDENTITY = {"Data.normalization": "identity"}


def imagery(path, **dotted):
    return Imagery(tiny(**{"Data.path": str(path)}, **dotted), CPU)


def pairs_of(folder, **dotted):
    return Imagery(tiny(**{"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": str(folder)}, **dotted), CPU)


def geotiff(path, image, nodata=None):
    shape = dict(zip(("count", "height", "width"), image.shape, strict=True))
    place = {"crs": "EPSG:32621", "transform": rasterio.Affine(30, 0, 0, 0, -30, 0)}
    with rasterio.open(path, "w", driver="GTiff", dtype=image.dtype, nodata=nodata, **shape, **place) as file:
        file.write(image)


WRITERS = {
    "scene.tif": geotiff,
    "scene.png": lambda path, image: Image.fromarray(image.transpose(1, 2, 0)).save(path),
    "bands_first.npy": np.save,
    "bands_last.npy": lambda path, image: np.save(path, image.transpose(1, 2, 0)),
    "scene.npz": lambda path, image: np.savez(path, image=image),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in WRITERS
        for kind in ("uint8", "uint16", "float32")
        if kind == "uint8" or "png" not in name
    ],
)
def test_a_scene_is_read_as_it_was_written(tmp_path, name, kind):
    image = (textured() * {"uint8": 255, "uint16": 20000, "float32": 1.5}[kind]).astype(kind)
    WRITERS[name](tmp_path / name, image)
    (scene,) = imagery(tmp_path / name, **{"Data.normalization": "scale", "Data.scale": [10.0, 200.0]}).scenes
    assert torch.allclose(scene.hr, torch.from_numpy((image.astype("float32") - 10) / 190), atol=1e-4)
    assert scene.hr.dtype == scene.lr.dtype == torch.float32
    assert scene.usable.all()


def test_a_jpeg_is_read_nearly_as_it_was_written(tmp_path):
    image = np.repeat((np.mgrid[:96, :256][1][None] / 2), 3, axis=0).astype("uint8")
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "scene.jpg", quality=95)
    assert np.abs(imagery(tmp_path / "scene.jpg", **IDENTITY).scenes[0].hr.numpy() - image).max() < 4


def test_the_pairs_of_an_lr_hr_folder_are_taken_as_they_are(tmp_path):
    hr = [textured(height=64, width=128, seed=seed) for seed in (0, 1)]
    lr = [textured(height=16, width=32, seed=seed) for seed in (2, 3)]
    for index, part in enumerate(("train", "val")):
        saved(tmp_path / part / "HR" / "a.npy", hr[index])
        saved(tmp_path / part / "LR" / "a.npy", lr[index])
    found = pairs_of(tmp_path, **IDENTITY)
    for index, (low, high) in enumerate((found.batch(0, "train", 0, 64), (found.pairs.lr, found.pairs.hr))):
        assert np.isin(high, hr[index]).all() and np.isin(low, lr[index]).all()


def truncated(folder):
    geotiff(folder / "broken.tif", (textured() * 255).astype("uint8"))
    whole = (folder / "broken.tif").read_bytes()
    (folder / "broken.tif").write_bytes(whole[: len(whole) // 2])


def scene(image):
    return lambda folder: saved(folder / "scene.npy", image)


def pair(lr):
    def make(folder):
        saved(folder / "train" / "HR" / "a.npy", textured())
        if lr is not None:
            saved(folder / "train" / "LR" / "a.npy", lr)

    return make


@pytest.mark.parametrize(("make", "file", "key", "found"), [
    pytest.param(truncated, "broken.tif", "Data.path", "cannot be read", id="truncated"),
    pytest.param(lambda f: (f / "a.tif").write_bytes(b"none"), "a.tif", "Data.path", "cannot be read", id="garbage"),
    pytest.param(scene(np.array(["a"])), "scene.npy", "Data.path", "cannot be read", id="no numbers"),
    pytest.param(lambda _: None, "absent.tif", "Data.path", "no such file or folder", id="missing"),
    pytest.param(lambda f: (f / "empty").mkdir(), "empty", "Data.path", "no imagery in it", id="empty folder"),
    pytest.param(lambda f: geotiff(f / "void.tif", np.zeros((3, 96, 256), "uint16"), nodata=0),
                 "void.tif", "Data.path", "nothing but nodata", id="all nodata"),
    pytest.param(scene(np.full((3, 96, 256), np.nan)), "scene.npy", "Data.path", "nothing but nodata", id="all nan"),
    pytest.param(scene(textured(bands=4)), "scene.npy", "Model.in_bands", "4 bands", id="wrong band count"),
    pytest.param(scene(textured(height=12)), "scene.npy", "Data.crop_size", "no crop of 16 px", id="less than a crop"),
    pytest.param(scene(textured(height=3, width=3)), "scene.npy", "Data.crop_size", "px", id="less than a cell"),
    pytest.param(scene(textured(height=20, width=100)), "scene.npy", "Data.crop_size", "held-out", id="too few pairs"),
    pytest.param(scene(np.ones((3, 96, 256))), "scene.npy", "Data.percentiles", "the same value", id="no contrast"),
    pytest.param(pair(textured(height=24, width=63)), "LR/a.npy", "Data.root_dir", "(3, 24, 63)", id="LR too small"),
    pytest.param(pair(None), "LR/a.npy", "Data.root_dir", "cannot be read", id="LR missing"),
])  # fmt: skip
def test_unusable_imagery_is_one_problem_that_names_file_and_key(tmp_path, make, file, key, found):
    make(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        pairs_of(tmp_path) if "LR" in file else imagery(tmp_path / file)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert problem.file.endswith(file)
    assert found in problem.found


def test_every_broken_file_of_a_folder_is_named(tmp_path):
    saved(tmp_path / "a.npy", textured())
    saved(tmp_path / "b.npy", textured(bands=4))
    truncated(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        imagery(tmp_path)
    assert [Path(problem.file).name for problem in caught.value.problems] == ["b.npy", "broken.tif"]


@pytest.mark.parametrize("marked", ["in the file", "in the configuration", "as nan"])
def test_no_crop_touches_nodata(tmp_path, marked):
    hole = np.nan if marked == "as nan" else -9999.0
    image = np.full((3, 128, 320), 0.5, np.float32)
    image[1, 40, 60] = image[:, 90:100, 120:122] = image[0, :, 300] = hole
    geotiff(tmp_path / "scene.tif", image, nodata=hole if marked == "in the file" else None)
    found = imagery(tmp_path, **IDENTITY, **({"Data.nodata": hole} if marked == "in the configuration" else {}))
    for images in (*found.batch(0, "train", 0, 2000), found.pairs.lr, found.pairs.hr):
        assert torch.allclose(images, torch.tensor(0.5), atol=1e-5)
    assert len(found.train_positions) > 500  # the rest of the scene is used


@pytest.mark.parametrize("which", ["HR", "LR"])
def test_no_crop_touches_nodata_of_either_image_of_a_pair(tmp_path, which):
    images = {"HR": np.full((3, 96, 256), 0.5, np.float32), "LR": np.full((3, 24, 64), 0.5, np.float32)}
    images[which][:, 10, 10] = np.nan
    for name, image in images.items():
        saved(tmp_path / "train" / name / "a.npy", image)
    for image in pairs_of(tmp_path, **IDENTITY).batch(0, "train", 0, 2000):
        assert (image == 0.5).all()


@pytest.mark.parametrize("side", [None, "right", "left", "top", "bottom"])
@pytest.mark.parametrize("shape", [(128, 256), (256, 128)])
def test_training_and_validation_are_one_crop_apart(tmp_path, side, shape):
    path = saved(tmp_path / "scene.npy", coordinates(*shape))
    found = imagery(path, **IDENTITY, **({"Data.val_side": side} if side else {}))
    side = side or ("right" if shape[1] > shape[0] else "bottom")
    axis = int(side in ("left", "right"))
    trained, held_out = found.batch(0, "train", 0, 3000)[1][:, axis], found.pairs.hr[:, axis]
    low, high = (trained, held_out) if side in ("right", "bottom") else (held_out, trained)
    assert low.max() + CROP < high.min()
    # val_fraction is held out, in whole cells; the rest less the gap is trained on
    outside = held_out.min() if side in ("right", "bottom") else shape[axis] - 1 - held_out.max()
    assert abs(outside - 0.8 * shape[axis]) < 4
    assert abs(trained.max() - trained.min() + 1 + CROP - outside) <= 4


def test_crops_start_at_whole_cells_and_lr_is_the_reduction_of_the_whole_scene(tmp_path):
    image = coordinates(128, 256)
    image[2] = textured(height=128)[0]
    found = imagery(saved(tmp_path / "scene.npy", image), **IDENTITY)
    whole = functional.interpolate(torch.from_numpy(image)[None], scale_factor=0.25, mode="bicubic", antialias=True)[0]
    for lr, hr in zip(found.pairs.lr, found.pairs.hr, strict=True):
        row, column = int(hr[0].min()), int(hr[1].min())
        assert row % 4 == column % 4 == 0
        assert np.array_equal(hr, image[:, row : row + CROP, column : column + CROP])
        assert torch.allclose(
            lr, whole[:, row // 4 : row // 4 + 4, column // 4 : column // 4 + 4], atol=1e-5, rtol=1e-5
        )


def test_flips_and_turns_keep_a_pair_together_and_all_eight_occur(tmp_path):
    image = coordinates(192, 384)
    path = saved(tmp_path / "scene.npy", image)
    lr, hr = imagery(path, **IDENTITY, **{"Data.crop_size": 32}).batch(0, "train", 0, 100)
    again = functional.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
    inner = slice(2, -2)  # at a crop's edge the reduction of the whole scene saw more
    assert torch.allclose(lr[..., inner, inner], again[..., inner, inner], atol=1e-3)
    down, across = hr[:, :2, -1, 0] - hr[:, :2, 0, 0], hr[:, :2, 0, -1] - hr[:, :2, 0, 0]
    assert len({tuple(way) for way in torch.cat([down, across], 1).tolist()}) == 8


def test_crops_depend_on_seed_stream_and_step_alone():
    found = load_imagery(tiny(), CPU)
    first = found.batch(3, "train", 7, 4)
    torch.manual_seed(0)
    np.random.seed(0)
    for again in (found, Imagery(tiny(), CPU)):
        assert all(torch.equal(*images) for images in zip(first, again.batch(3, "train", 7, 4), strict=True))
    for other in ((4, "train", 7), (3, "best response", 7), (3, "train", 8)):
        assert not torch.equal(first[1], found.batch(*other, 4)[1])


@pytest.mark.parametrize("fraction", [0.2, 0.02])  # the second is less than a crop: a crop is held out all the same
def test_percentiles_are_of_the_training_area_only(tmp_path, fraction):
    image = textured(height=280, width=256).copy()
    held_out = max(CROP, round(fraction * 256))
    image[:, :, -held_out:] += 1000
    values = {"Data.val_fraction": fraction, "Data.val_side": "right", "Data.percentiles": [10.0, 90.0]}
    found = imagery(saved(tmp_path / "a.npy", image), **values)
    expected = np.percentile(image[:, :, :-held_out], [10, 90])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.005)  # the gap of a crop may count or not
    assert np.allclose(found.scenes[0].hr, (image - found.low) / (found.high - found.low), rtol=1e-4, atol=1e-4)


def test_percentiles_leave_out_scenes_that_are_held_out_whole(tmp_path):
    for index in range(5):
        saved(tmp_path / f"{index}.npy", textured(height=40, width=40) + (1000 if index > 2 else 0))
    assert imagery(tmp_path, **{"Data.val_fraction": 0.4}).high <= 1


@pytest.mark.parametrize(("name", "scale", "low", "high"), [
    ("scale", [2.0, 6.0], 2, 6), ("normalise_10k", None, 0, 10000), ("zero_one", None, 0, 1), ("identity", None, 0, 1),
])  # fmt: skip
def test_a_fixed_scale(tmp_path, name, scale, low, high):
    path = saved(tmp_path / "a.npy", textured())
    found = imagery(path, **{"Data.normalization": name, "Data.scale": scale})
    assert np.allclose(found.scenes[0].hr, (textured() - low) / (high - low), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "trained", "held_out"), [((40, 40), {0, 1, 2}, {3, 4}), ((96, 256), {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4})]
)
def test_scenes_too_small_to_split_are_held_out_whole_and_long_ones_are_all_split(tmp_path, size, trained, held_out):
    for index in range(5):
        saved(tmp_path / f"{index}.npy", np.full((3, *size), index, np.float32))
    found = imagery(tmp_path, **IDENTITY, **{"Data.val_fraction": 0.4})
    assert set(found.batch(0, "train", 0, 500)[1].unique().tolist()) == trained
    assert set(found.pairs.hr.unique().tolist()) == held_out


@pytest.mark.parametrize(("wanted", "overlapping"), [(64, False), (100, True)])
def test_held_out_pairs_are_as_many_as_wanted_and_the_worst_60_percent_are_detailed(tmp_path, wanted, overlapping):
    path = saved(tmp_path / "a.npy", textured(height=256, width=400))  # 16 × 5 crops fit into the held-out 80 columns
    pairs = imagery(path, **{"Nash.validation_pairs": wanted}).pairs
    assert len(pairs.lr) == len(pairs.hr) == len(pairs.bicubic) == len(pairs.detailed) == wanted
    assert len({crop.numpy().tobytes() for crop in pairs.hr}) == wanted
    assert pairs.overlapping == overlapping
    assert torch.allclose(pairs.bicubic, functional.interpolate(pairs.lr, scale_factor=4, mode="bicubic"))
    error = (pairs.bicubic - pairs.hr).square().mean((1, 2, 3))
    assert int(pairs.detailed.sum()) == round(0.6 * wanted)
    assert error[pairs.detailed].min() > error[~pairs.detailed].max()


@pytest.mark.parametrize(("side", "batch", "steps"), [("right", 4, 17), ("left", 4, 17), ("right", 100, 1)])
def test_an_epoch_of_a_scene_sees_each_crop_of_its_training_area_once(tmp_path, side, batch, steps):
    # 24 × 64 low-resolution pixels, 13 columns held out and 4 between: 6 rows of 11 crops are left
    scene = saved(tmp_path / "scene.npy", textured())
    found = imagery(scene, **{"Data.val_side": side, "Data.train_batch_size": batch})
    assert found.epoch_steps == steps


def test_no_crop_of_an_epoch_touches_nodata(tmp_path):
    image = textured().copy()
    image[:, :40, :40] = 0.0  # 10 × 10 low-resolution pixels, and 2 around them: 3 × 3 crops
    found = imagery(saved(tmp_path / "scene.npy", image), **{"Data.nodata": 0.0, "Data.train_batch_size": 1})
    assert found.epoch_steps == 6 * 11 - 9


def test_an_epoch_of_tiles_sees_each_tile_once(tmp_path):
    for part, count in (("train", 7), ("val", 64)):
        for number in range(count):
            image = textured(height=32, width=32, seed=number)
            saved(tmp_path / part / "HR" / f"{number}.npy", image)
            saved(tmp_path / part / "LR" / f"{number}.npy", np.ascontiguousarray(image[:, ::4, ::4]))
    assert pairs_of(tmp_path, **{"Data.train_batch_size": 3}).epoch_steps == 3  # 3, 3 and 1 of them
