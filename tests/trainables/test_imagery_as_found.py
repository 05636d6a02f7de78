"""What goes in is what was meant: which files of a folder are taken, which images belong together, what is a border."""

import shutil

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from tests.support.tiny import tiny
from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput
from trainables.imagery import Imagery
from trainables.listing import described, images_in

CPU = torch.device("cpu")


def pixels(seed=0, side=128, bands=3, top=4000, dtype="uint16"):
    draw = np.random.default_rng(seed).random((bands, side, side))
    for _ in range(2):
        draw = (draw + np.roll(draw, 1, 1) + np.roll(draw, 1, 2)) / 3
    return (draw * top).astype(dtype)


def geotiff(file, image, east=500_000.0, crs="EPSG:32633", size=10.0):
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"width": image.shape[2], "height": image.shape[1], "count": len(image), "dtype": image.dtype.name}
    profile |= {"crs": crs, "transform": from_origin(east, 5_000_000.0, size, size)}
    with rasterio.open(file, "w", driver="GTiff", **profile) as out:
        out.write(image)
    return file


def imagery(path, **changes):
    return Imagery(tiny(**{"Data.path": str(path)}, **changes), CPU)


def names_in(folder, **changes):
    files, left_out = images_in(folder, DataSettings(path=str(folder), **changes))
    return [str(file.relative_to(folder)) for file in files], {one.file.name: one.why for one in left_out}


def refused(make):
    with pytest.raises(InvalidInput) as caught:
        make()
    return caught.value.problems


def test_hidden_files_copies_of_notebooks_browse_images_and_masks_are_left_out_and_said(tmp_path):
    image = pixels()
    geotiff(tmp_path / "s.tif", image)
    geotiff(tmp_path / ".ipynb_checkpoints" / "s-checkpoint.tif", image)
    (tmp_path / "._s.tif").write_bytes(b"\0\5\x16\7")  # what a Mac leaves beside a file
    geotiff(tmp_path / "S_BROWSE.tif", pixels(1, top=255, dtype="uint8"))
    geotiff(tmp_path / "s_udm2.tif", pixels(2, bands=8, top=1, dtype="uint8"))
    files, left_out = names_in(tmp_path)
    assert files == ["s.tif"]
    assert left_out == {
        "s-checkpoint.tif": "hidden",
        "._s.tif": "hidden",
        "S_BROWSE.tif": "Data.exclude *_browse.*",
        "s_udm2.tif": "Data.exclude *_udm2.*",
    }
    told = imagery(tmp_path).describe()
    assert told.startswith("1 scene(s)") and "left out 4 file(s): " in told and "s_udm2.tif (Data.exclude" in told


def test_patterns_say_which_files_are_taken(tmp_path):
    for name in ("2023/a.tif", "2024/a.tif", "2024/a_cloud.tif", "b.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names_in(tmp_path, include=["2024/*"])[0] == ["2024/a.tif", "2024/a_cloud.tif"]
    files, left_out = names_in(tmp_path, include=["*.TIF"], exclude=["*cloud*"])
    assert files == ["2023/a.tif", "2024/a.tif"]
    assert left_out == {"a_cloud.tif": "Data.exclude *cloud*", "b.npy": "not of Data.include"}
    assert described(images_in(tmp_path, DataSettings(path="x", include=["*.jp2"]))[1]) == (
        "left out 4 file(s): a.tif, a.tif, a_cloud.tif and 1 more (not of Data.include)"
    )
    [problem] = refused(lambda: imagery(tmp_path, **{"Data.include": ["*.jp2"]}))
    assert "left out 4 file(s)" in problem.found


def test_links_are_followed_and_each_file_is_taken_once(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    geotiff(elsewhere / "far.tif", pixels())
    folder = tmp_path / "scenes"
    geotiff(folder / "near.tif", pixels(1))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "linked_again").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "a_link.tif").symlink_to(folder / "near.tif")
    (folder / "dangling.tif").symlink_to(tmp_path / "gone.tif")
    files, left_out = names_in(folder)
    assert files == ["linked/far.tif", "near.tif"]
    assert left_out == {"a_link.tif": "the same file as near.tif"}


def test_the_same_pixels_are_never_on_both_sides(tmp_path):
    small = {"Data.crop_size": 64, "Data.val_fraction": 0.5}  # too small to be parted: whole scenes are held out
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        geotiff(tmp_path / f"{name}.tif", pixels(seed, 160))
    imagery(tmp_path, **small)
    shutil.copy(tmp_path / "a.tif", tmp_path / "d.tif")  # the last ones are held out
    [problem] = refused(lambda: imagery(tmp_path, **small))
    assert problem.file.endswith("d.tif") and problem.found == "held-out imagery with the pixels of a.tif"
    imagery(tmp_path)  # each scene is parted, those two alike


@pytest.mark.parametrize("other", [
    pixels(1, top=255, dtype="uint8"),
    pixels(1, top=1).astype("float32") + np.float32(0.3),
    pixels(1).astype("float32") / np.float32(10_000),
], ids=["8 bits", "ones", "reflectances"])  # fmt: skip
def test_scenes_in_another_unit_than_most_are_refused(tmp_path, other):
    for number in range(2):
        geotiff(tmp_path / f"s{number}.tif", pixels(number))
    geotiff(tmp_path / "t.tif", other)
    [problem] = refused(lambda: imagery(tmp_path))
    assert problem.file.endswith("t.tif") and str(other.dtype) in problem.found and "uint16" in problem.expected
    imagery(tmp_path, **{"Data.exclude": ["t.tif"]})


def test_a_dark_scene_and_other_types_of_one_unit_belong_together(tmp_path):
    geotiff(tmp_path / "land.tif", pixels(0))
    geotiff(tmp_path / "water.tif", pixels(1, top=90))
    geotiff(tmp_path / "as_float.tif", pixels(2).astype("float32"))
    assert imagery(tmp_path).describe().startswith("3 scene(s)")


PAIRS = {"Data.dataset_type": "LRHRFolderDataset", "Data.normalization": "scale", "Data.scale": [0.0, 4000.0]}


def pair(folder, name, high, low, **of_low):
    geotiff(folder / "HR" / name, high, size=2.5)
    geotiff(folder / "LR" / name, low, **of_low)


def pairs(folder, low_of, **of_low):
    for part, seed in (("train", 0), ("val", 1)):
        high = pixels(seed)
        pair(folder / part, "a.tif", high, low_of(high[:, ::4, ::4]), **of_low)
    return {**PAIRS, "Data.root_dir": str(folder)}


def test_a_pairs_images_have_one_unit_unless_lr_has_a_scale_of_its_own(tmp_path):
    keys = pairs(tmp_path, lambda low: (low // 16).astype("uint8"))
    problems = refused(lambda: Imagery(tiny(**keys), CPU))
    assert {problem.key for problem in problems} == {"Data.lr_scale"} and "uint8" in problems[0].found
    own = Imagery(tiny(**keys, **{"Data.lr_scale": [0.0, 250.0]}), CPU)
    scene = own.scenes[0]
    assert torch.allclose(scene.lr, scene.hr[:, ::4, ::4], atol=0.01)
    wrong = refused(lambda: Imagery(tiny(**keys, **{"Data.lr_scale": [0.0, 4000.0]}), CPU))
    assert wrong[0].key == "Data.lr_scale"


@pytest.mark.parametrize(("of_low", "found"), [
    ({"east": 700_000.0}, "another place (0% of the ground in common)"),
    ({"crs": "EPSG:3857"}, "another coordinate reference system (EPSG:3857, not EPSG:32633)"),
], ids=["place", "system"])  # fmt: skip
def test_a_pairs_images_are_of_one_place(tmp_path, of_low, found):
    keys = pairs(tmp_path, lambda low: low, **of_low)
    problems = refused(lambda: Imagery(tiny(**keys), CPU))
    assert problems[0].found.startswith(found)
    shifted = tmp_path / "shifted"
    Imagery(tiny(**pairs(shifted, lambda low: low, east=500_080.0)), CPU)  # by a quarter: a person's own business


def test_a_swaths_border_without_a_tag_is_said_and_what_leaves_it_out(tmp_path):
    image = pixels(side=256) + 1
    image[:, :, :100] = 0
    geotiff(tmp_path / "s.tif", image)
    found = imagery(tmp_path)
    [said] = found.cautions()
    share = float((found.train_positions[:, 2] + found.cells <= 25).mean())
    assert 0.2 < share < 0.6
    assert said.startswith(f"Data.nodata: about {share:.0%} of the crops are of one value, mostly 0")
    assert "Data.nodata: 0 leaves them out" in said
    assert not imagery(tmp_path, **{"Data.nodata": 0.0}).cautions()


def test_nodata_that_takes_most_of_the_imagery_is_named(tmp_path):
    image = pixels(side=256) + 1
    image[:, np.random.default_rng(0).random((256, 256)) < 0.2] = 0
    geotiff(tmp_path / "s.tif", image)
    [problem] = refused(lambda: imagery(tmp_path, **{"Data.nodata": 0.0}))
    assert "of the imagery is nodata, by the files' own value or mask, and by Data.nodata: 0" in problem.found
    image = pixels(side=512) + 1
    image[:, :, 100:400] = 0
    geotiff(tmp_path / "s.tif", image)
    [said] = imagery(tmp_path, **{"Data.nodata": 0.0, "Data.val_side": "right"}).cautions()
    assert said.startswith("Data.nodata: ") and "of the imagery is nodata" in said
