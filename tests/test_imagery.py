"""Scenes of every kind, what is wrong with them, the split by area, and crops that are functions of the step."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.nn import functional

from tests.tiny import coordinates, saved, textured, tiny
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
    place = {"crs": "EPSG:32621", "transform": rasterio.transform.from_origin(0, 0, 30, 30)}
    with rasterio.open(path, "w", driver="GTiff", dtype=image.dtype, nodata=nodata, **shape, **place) as file:
        file.write(image)


def picture(path, image, **options):
    Image.fromarray(image.transpose(1, 2, 0)).save(path, **options)


WRITERS = {
    "scene.tif": geotiff,
    "scene.TIFF": geotiff,
    "scene.png": picture,
    "scene.npy": np.save,
    "rows_columns_bands.npy": lambda path, image: np.save(path, image.transpose(1, 2, 0)),
    "scene.npz": lambda path, image: np.savez(path, image=image),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in WRITERS for kind in ("uint8", "uint16", "float32") if kind == "uint8" or "png" not in name],
)
def test_a_scene_is_read_as_it_was_written(tmp_path, name, kind):
    image = (textured() * {"uint8": 255, "uint16": 20000, "float32": 1.5}[kind]).astype(kind)
    WRITERS[name](tmp_path / name, image)
    read = imagery(tmp_path / name, **{"Data.normalization": "scale", "Data.scale": [10.0, 200.0]})
    assert torch.allclose(read.scenes[0].hr, torch.from_numpy((image.astype("float32") - 10) / 190), atol=1e-4)
    assert read.scenes[0].hr.dtype == read.scenes[0].lr.dtype == torch.float32
    assert read.scenes[0].usable.all()


def test_a_jpeg_is_read_nearly_as_it_was_written(tmp_path):
    image = np.repeat((np.mgrid[:96, :256][1][None] / 2), 3, axis=0).astype("uint8")
    picture(tmp_path / "scene.jpg", image, quality=95)
    read = imagery(tmp_path / "scene.jpg", **IDENTITY)
    assert read.scenes[0].hr.shape == image.shape
    assert np.abs(read.scenes[0].hr.numpy() - image).max() < 4


def test_the_pairs_of_an_lr_hr_folder_are_taken_as_they_are(tmp_path):
    for part, seed in (("train", 0), ("val", 1)):
        saved(tmp_path / part / "HR" / "a.npy", textured(height=64, width=128, seed=seed))
        saved(tmp_path / part / "LR" / "a.npy", textured(height=16, width=32, seed=seed + 2))
    found = pairs_of(tmp_path, **IDENTITY)
    assert [scene.name for scene in found.scenes] == ["a.npy", "a.npy"]
    assert all(np.array_equal(s.hr, textured(height=64, width=128, seed=i)) for i, s in enumerate(found.scenes))
    assert all(np.array_equal(s.lr, textured(height=16, width=32, seed=i + 2)) for i, s in enumerate(found.scenes))
    assert set(found.train_positions[:, 0]) == {0}
    assert np.isin(found.pairs.hr, textured(height=64, width=128, seed=1)).all()
    assert np.isin(found.pairs.lr, textured(height=16, width=32, seed=3)).all()


def truncated(folder):
    geotiff(folder / "broken.tif", (textured() * 255).astype("uint8"))
    whole = (folder / "broken.tif").read_bytes()
    (folder / "broken.tif").write_bytes(whole[: len(whole) // 2])
    return {"Data.path": "broken.tif"}, "broken.tif", "Data.path"


def garbage(folder):
    (folder / "broken.tif").write_bytes(b"no imagery at all")
    return {"Data.path": "broken.tif"}, "broken.tif", "Data.path"


def garbage_array(folder):
    saved(folder / "broken.npy", np.array(["a", "b"]))
    return {"Data.path": "broken.npy"}, "broken.npy", "Data.path"


def missing(folder):
    return {"Data.path": "absent.tif"}, "absent.tif", "Data.path"


def empty(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "readme.txt").write_text("no scenes")
    return {"Data.path": "empty"}, "empty", "Data.path"


def all_nodata(folder):
    geotiff(folder / "void.tif", np.zeros((3, 96, 256), "uint16"), nodata=0)
    return {"Data.path": "void.tif"}, "void.tif", "Data.path"


def not_finite(folder):
    saved(folder / "nan.npy", np.full((3, 96, 256), np.nan, np.float32))
    return {"Data.path": "nan.npy"}, "nan.npy", "Data.path"


def four_bands(folder):
    saved(folder / "four.npy", textured(bands=4))
    return {"Data.path": "four.npy"}, "four.npy", "Model.in_bands"


def smaller_than_a_crop(folder):
    saved(folder / "small.npy", textured(height=12, width=256))
    return {"Data.path": "small.npy"}, "small.npy", "Data.crop_size"


def smaller_than_a_cell(folder):
    saved(folder / "small.npy", textured(height=3, width=3))
    return {"Data.path": "small.npy"}, "small.npy", "Data.crop_size"


def too_few_pairs(folder):
    saved(folder / "few.npy", textured(height=20, width=100))
    return {"Data.path": "few.npy"}, "few.npy", "Data.crop_size"


def without_contrast(folder):
    saved(folder / "flat.npy", np.ones((3, 96, 256), np.float32))
    return {"Data.path": "flat.npy"}, "flat.npy", "Data.percentiles"


def lr_of_another_size(folder):
    saved(folder / "train" / "HR" / "a.npy", textured())
    saved(folder / "train" / "LR" / "a.npy", textured(height=24, width=63))
    return {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "."}, "LR/a.npy", "Data.root_dir"


def lr_missing(folder):
    saved(folder / "train" / "HR" / "a.npy", textured())
    return {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "."}, "LR/a.npy", "Data.root_dir"


@pytest.mark.parametrize(
    "make",
    [
        truncated, garbage, garbage_array, missing, empty, all_nodata, not_finite, four_bands, smaller_than_a_crop,
        smaller_than_a_cell, too_few_pairs, without_contrast, lr_of_another_size, lr_missing,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_unusable_imagery_is_one_problem_that_names_file_and_key(tmp_path, make):
    values, file, key = make(tmp_path)
    values = {k: str(tmp_path / v) if k in ("Data.path", "Data.root_dir") else v for k, v in values.items()}
    with pytest.raises(InvalidInput) as caught:
        Imagery(tiny(**values), CPU)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert problem.file.endswith(file)
    assert problem.found and problem.expected


def test_every_broken_file_of_a_folder_is_named(tmp_path):
    saved(tmp_path / "good.npy", textured())
    for make in (garbage, four_bands, all_nodata):
        make(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        imagery(tmp_path)
    assert [Path(problem.file).name for problem in caught.value.problems] == ["broken.tif", "four.npy", "void.tif"]


@pytest.mark.parametrize("marked", ["in the file", "in the configuration", "as nan"])
def test_no_crop_touches_nodata(tmp_path, marked):
    hole = np.nan if marked == "as nan" else -9999.0
    image = np.full((3, 128, 320), 0.5, np.float32)
    image[1, 40, 60] = image[:, 90:100, 120:122] = image[0, :, 300] = hole
    geotiff(tmp_path / "scene.tif", image, nodata=hole if marked == "in the file" else None)
    found = imagery(tmp_path, **IDENTITY, **({"Data.nodata": hole} if marked == "in the configuration" else {}))
    lr, hr = found.batch(0, "train", 0, 2000)
    for images in (lr, hr, found.pairs.lr, found.pairs.hr):
        assert torch.allclose(images, torch.tensor(0.5), atol=1e-5)
    assert len({*map(tuple, found.train_positions)}) > 500  # the rest of the scene is used


@pytest.mark.parametrize("which", ["HR", "LR"])
def test_no_crop_touches_nodata_of_either_image_of_a_pair(tmp_path, which):
    images = {"HR": np.full((3, 96, 256), 0.5, np.float32), "LR": np.full((3, 24, 64), 0.5, np.float32)}
    images[which][:, 10, 10] = np.nan
    for name, image in images.items():
        saved(tmp_path / "train" / name / "a.npy", image)
    for images in pairs_of(tmp_path, **IDENTITY).batch(0, "train", 0, 2000):
        assert images.isfinite().all()


@pytest.mark.parametrize("side", [None, "right", "left", "top", "bottom"])
@pytest.mark.parametrize("shape", [(128, 256), (256, 128)])
def test_training_and_validation_are_one_crop_apart(tmp_path, side, shape):
    path = saved(tmp_path / "scene.npy", coordinates(*shape))
    found = imagery(path, **IDENTITY, **({"Data.val_side": side} if side else {}))
    trained, held_out = found.batch(0, "train", 0, 3000)[1], found.pairs.hr
    side = side or ("right" if shape[1] > shape[0] else "bottom")
    axis = side in ("left", "right")
    low, high = (trained, held_out) if side in ("right", "bottom") else (held_out, trained)
    assert low[:, int(axis)].max() + CROP < high[:, int(axis)].min()
    edge = held_out[:, int(axis)]
    outside = edge.min() if side in ("right", "bottom") else shape[axis] - 1 - edge.max()
    assert abs(outside - 0.8 * shape[axis]) < 4 + CROP  # all but val_fraction, in whole cells
    assert len({float(value) for value in trained[:, int(axis), 0, 0]}) > 100  # and the rest is used


def test_crops_start_at_multiples_of_the_scaling_factor_and_show_the_same_place(tmp_path):
    scene = coordinates(128, 256)
    found = imagery(saved(tmp_path / "scene.npy", scene), **IDENTITY)
    whole = functional.interpolate(torch.from_numpy(scene)[None], scale_factor=0.25, mode="bicubic", antialias=True)[0]
    for lr, hr in zip(found.pairs.lr, found.pairs.hr, strict=True):
        row, column = int(hr[0].min()), int(hr[1].min())
        assert row % 4 == column % 4 == 0
        assert np.array_equal(hr, scene[:, row : row + CROP, column : column + CROP])
        assert torch.allclose(lr, whole[:, row // 4 : row // 4 + 4, column // 4 : column // 4 + 4], atol=1e-3)


def test_flips_and_turns_keep_a_pair_together():
    lr, hr = load_imagery(tiny(**{"Data.crop_size": 64}), CPU).batch(0, "train", 0, 64)
    again = functional.interpolate(hr, scale_factor=0.25, mode="bicubic", antialias=True)
    inner = slice(2, -2)  # at a crop's edge the reduction of the whole scene saw more
    assert torch.allclose(lr[..., inner, inner], again[..., inner, inner], atol=1e-4)


def test_all_eight_orientations_occur(tmp_path):
    _, hr = imagery(saved(tmp_path / "scene.npy", coordinates(128, 256)), **IDENTITY).batch(0, "train", 0, 200)
    corners = {(bool(c[0, 0, 0] < c[0, -1, -1]), bool(c[1, 0, 0] < c[1, -1, -1]), bool(c[0, 0, 0] == c[0, 0, 1])) for c in hr}
    assert len(corners) == 8


def test_crops_depend_on_seed_stream_and_step_alone():
    found = load_imagery(tiny(), CPU)
    first = found.batch(3, "train", 7, 4)
    found.batch(3, "train", 8, 4)
    torch.manual_seed(0)
    np.random.seed(0)
    fresh = Imagery(tiny(), CPU)
    assert all(torch.equal(a, b) for again in (found, fresh) for a, b in zip(first, again.batch(3, "train", 7, 4), strict=True))
    for other in ((4, "train", 7), (3, "best response", 7), (3, "train", 8)):
        assert not torch.equal(first[1], found.batch(*other, 4)[1])


@pytest.mark.parametrize("fraction", [0.2, 0.02])  # the second is less than a crop: a crop is held out all the same
def test_percentiles_are_of_the_training_area_only(tmp_path, fraction):
    image = textured(height=280, width=256).copy()
    held_out = max(CROP, round(fraction * 256))
    image[:, :, -held_out:] += 1000
    values = {"Data.val_fraction": fraction, "Data.val_side": "right", "Data.percentiles": [0.0, 100.0]}
    found = imagery(saved(tmp_path / "a.npy", image), **values)
    trained = image[:, :, : 256 - held_out]
    assert trained.min() <= found.low < 0.1
    assert 0.9 < found.high <= trained.max()


def test_percentiles_leave_out_scenes_that_are_held_out_whole(tmp_path):
    for index in range(5):
        saved(tmp_path / f"{index}.npy", textured(height=40, width=40) + (1000 if index > 2 else 0))
    assert imagery(tmp_path, **{"Data.val_fraction": 0.4}).high <= 1


def test_percentiles_are_those_of_numpy_and_become_0_and_1(tmp_path):
    image = textured(height=128, width=256) * 50 + 7
    found = imagery(saved(tmp_path / "a.npy", image), **{"Data.percentiles": [10.0, 90.0]})
    low, high = np.percentile(image[:, :, : round(256 * 0.8)], [10, 90])
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.01)  # a gap of one crop may count or not
    assert np.allclose(found.scenes[0].hr, (image - found.low) / (found.high - found.low), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ({"Data.normalization": "scale", "Data.scale": [2.0, 6.0]}, 2, 6),
        ({"Data.normalization": "normalise_10k"}, 0, 10000),
        ({"Data.normalization": "zero_one"}, 0, 1),
        (IDENTITY, 0, 1),
    ],
)
def test_a_fixed_scale(tmp_path, values, low, high):
    found = imagery(saved(tmp_path / "a.npy", textured()), **values)
    assert np.allclose(found.scenes[0].hr, (textured() - low) / (high - low), atol=1e-6)


def test_scenes_too_small_to_split_are_held_out_whole(tmp_path):
    for index in range(5):
        saved(tmp_path / f"{index}.npy", np.full((3, 40, 40), index, np.float32))
    found = imagery(tmp_path, **IDENTITY, **{"Data.val_fraction": 0.4})
    assert set(found.batch(0, "train", 0, 200)[1].unique().tolist()) == {0, 1, 2}
    assert set(found.pairs.hr.unique().tolist()) == {3, 4}


def test_long_scenes_are_all_split(tmp_path):
    for index in range(2):
        saved(tmp_path / f"{index}.npy", np.full((3, 96, 256), index, np.float32))
    found = imagery(tmp_path, **IDENTITY)
    assert set(found.batch(0, "train", 0, 200)[1].unique().tolist()) == set(found.pairs.hr.unique().tolist()) == {0, 1}


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


def test_describe_says_what_there_is(tmp_path):
    said = imagery(saved(tmp_path / "a.npy", textured()), **IDENTITY).describe()
    assert all(part in said for part in ("1 scene(s)", "256×96 px", "3 bands", "0–1", "64 held-out pairs, overlapping"))
