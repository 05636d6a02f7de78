"""Scenes of every kind, what is wrong with them, the split by area, and crops that are functions of the step."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch.nn import functional

from tests.support.tiny import coordinates, saved, textured, tiny
from trainables.configuration import build_configuration, dump_configuration
from trainables.errors import InvalidInput
from trainables.imagery import Imagery, load_imagery
from trainables.scenes import find_scenes, find_test_scenes
from trainables.unread import cautions

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


def picture(path, image, **options):
    Image.fromarray(image.transpose(1, 2, 0)).save(path, **options)


FORMATS = {  # in which tiles come, none of which loses anything
    **{"a.npy": np.save, "a.npz": np.savez, "a.jp2": lambda path, image: jpeg2000(path, image)},
    **{name: lambda path, image: geotiff(path, image) for name in ("a.tif", "a.TIFF")},
    **dict.fromkeys(("a.png", "a.bmp", "a.ppm"), picture),
    "a.webp": lambda path, image: picture(path, image, lossless=True),
}


def jpeg2000(path, image):
    shape = dict(zip(("count", "height", "width"), image.shape, strict=True))
    exact = {"QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", dtype=image.dtype, **shape, **exact) as file:
        file.write(image)


def tiles(folder, writer=np.save, name="a.npy", sides=("train", "val"), count=1, size=64, factor=4, unit=255):
    """LR/HR folders of tiles; the HR ones as they are, (count, 3, size, size)."""
    images = []
    for part in sides:
        for index in range(count):
            hr = (textured(height=size, width=size, seed=len(images)) * unit).astype(
                "uint8" if unit == 255 else "uint16"
            )
            for side, image in (("HR", hr), ("LR", hr[:, ::factor, ::factor])):
                path = folder / part / side / f"{index}{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                writer(path, np.ascontiguousarray(image))
            images.append(hr)
    return images


@pytest.mark.parametrize("name", FORMATS)
def test_tiles_of_every_format_are_read_as_they_were_written(tmp_path, name):
    images = tiles(tmp_path, FORMATS[name], name)
    found = pairs_of(tmp_path, **IDENTITY)
    for scene, image in zip(found.scenes, images, strict=True):
        assert np.array_equal(scene.hr, image)
        assert np.array_equal(scene.lr, image[:, ::4, ::4])


def test_what_is_no_image_is_passed_over_and_no_program_is_started_for_one(tmp_path):
    tiles(tmp_path)
    for side in ("LR", "HR"):
        for name in ("Thumbs.db", "readme.txt", "drawing.eps"):
            (tmp_path / "train" / side / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert len(pairs_of(tmp_path, **IDENTITY).scenes) == 2
    with pytest.raises(InvalidInput, match=r"a file whose suffix is '\.eps'"):
        imagery(tmp_path / "train" / "HR" / "drawing.eps")


@pytest.mark.parametrize(("high", "low"), [
    ("{}.tif", "{}x4.tif"),
    ("HR/{}.tif", "LR/{}x4.tif"),
    ("HR/hr_{}.tif", "LR/lr_{}.tif"),
    ("DIV2K_train_HR/{}.tif", "DIV2K_train_LR_bicubic/X4/{}x4.tif"),
])  # fmt: skip
def test_pairs_are_found_by_the_templates_of_their_names(tmp_path, high, low):
    images = []
    for part, name in (("train", "a"), ("train", "b"), ("train", "b/c"), ("val", "d"), ("test", "e")):
        hr = (textured(height=64, width=64, seed=len(images)) * 255).astype("uint8")
        for template, image in ((high, hr), (low, hr[:, ::4, ::4])):
            path = tmp_path / part / template.replace("{}", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            geotiff(path, np.ascontiguousarray(image))
        images.append(hr)
    named = {"Data.hr_names": high, "Data.lr_names": low}
    found = pairs_of(tmp_path, **named, **IDENTITY)
    assert len(found.scenes) == 4
    for scene in found.scenes:
        (hr,) = [image for image in images if np.array_equal(image, scene.hr)]
        assert np.array_equal(scene.lr, hr[:, ::4, ::4])
    settings = {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": str(tmp_path)}
    assert len(find_test_scenes(tiny(**settings, **named)).val) == 1


@pytest.mark.parametrize(("key", "name"), [
    ("hr_names", "a.tif"), ("hr_names", "{}{}.tif"), ("lr_names", "../{}"), ("lr_names", "/{}"), ("lr_names", "HR/{}"),
])  # fmt: skip
def test_a_template_that_names_no_pair_is_refused(key, name):
    with pytest.raises(InvalidInput, match=f"Data.{key}: found {re.escape(name)}"):
        tiny(**{f"Data.{key}": name})


@pytest.mark.parametrize(("part", "side", "found"), [
    ("train", "HR", "no such file or folder"),
    ("train", "LR", "1 HR without LR: 0a.npy"),
    ("val", "HR", "1 LR without HR: 0a.npy"),
    ("val", "LR", "1 HR without LR: 0a.npy"),
])  # fmt: skip
def test_a_side_that_is_not_there_is_one_problem(tmp_path, part, side, found):
    tiles(tmp_path)
    shutil.rmtree(tmp_path / part / side)
    with pytest.raises(InvalidInput) as caught:
        pairs_of(tmp_path)
    (problem,) = caught.value.problems
    assert problem.found == found and part in problem.file


def test_tiles_without_their_other_half_are_one_problem_a_folder(tmp_path):
    tiles(tmp_path, count=6)
    for index in range(5):
        (tmp_path / "train" / "LR" / f"{index}a.npy").unlink()
    (tmp_path / "val" / "LR" / "0a.npy").rename(tmp_path / "val" / "LR" / "0a.NPY")
    with pytest.raises(InvalidInput) as caught:
        pairs_of(tmp_path)
    assert [(Path(problem.file).name, problem.found) for problem in caught.value.problems] == [
        ("train", "5 HR without LR: 0a.npy, 1a.npy, 2a.npy and 2 more"),
        ("val", "1 LR without HR: 0a.NPY; 1 HR without LR: 0a.npy"),
    ]


def test_tiles_of_another_scale_are_one_problem_that_counts_them(tmp_path):
    tiles(tmp_path, count=28, factor=2)
    with pytest.raises(InvalidInput) as caught:
        pairs_of(tmp_path)
    (problem,) = caught.value.problems
    assert problem.file.endswith("train/LR/0a.npy")
    assert problem.found == (
        "(3, 32, 32) beside an HR image of (3, 64, 64); and so 10a.npy, 11a.npy, 12a.npy and 52 more"
    )
    assert problem.expected == "1/4 of the HR image in size"


TEN_THOUSAND = {"Data.normalization": "normalise_10k"}


def tiles_of(folder, pairs, **dotted):
    return pairs_of(folder, **{"Data.crop_size": None, "Nash.validation_pairs": pairs}, **TEN_THOUSAND, **dotted)


@pytest.mark.parametrize(("count", "size", "factor", "pairs", "crop", "overlapping"), [
    (64, 32, 4, 64, 32, False),  # as many tiles as pairs: whole ones
    (8, 64, 4, 64, 56, True),  # of 16 cells: 3 × 3 places of 14 in each of 8
    (8, 64, 4, 256, 44, True),  # 6 × 6 places of 11
    (8, 64, 2, 256, 54, True),  # of 32 cells: 6 × 6 places of 27
    (1, 128, 8, 64, 72, True),  # of 16 cells: 8 × 8 places of 9
])  # fmt: skip
def test_crops_are_as_large_as_the_tiles_allow(tmp_path, count, size, factor, pairs, crop, overlapping):
    tiles(tmp_path, count=count, size=size, factor=factor, unit=9000)
    found = tiles_of(tmp_path, pairs, **{"Generator.scaling_factor": factor})
    assert found.crop == crop
    assert found.pairs.hr.shape == (pairs, 3, crop, crop)
    assert found.pairs.overlapping == overlapping
    assert len({image.numpy().tobytes() for image in found.pairs.hr}) == pairs
    assert found.batch(0, "train", 0, 2)[1].shape == (2, 3, crop, crop)
    assert f"crops of {crop} px" in found.describe()


def test_a_crop_fits_into_the_smallest_tile_and_touches_no_nodata(tmp_path):
    tiles(tmp_path, count=8, unit=9000)
    for side, cells in (("HR", 48), ("LR", 12)):
        np.save(tmp_path / "train" / side / "0a.npy", np.full((3, cells, cells), 4000, np.uint16))
    assert tiles_of(tmp_path, 64).crop == 48
    holed = np.load(tmp_path / "val" / "HR" / "0a.npy").astype(np.float32)
    for index in range(8):
        holed[:, 31, 31] = np.nan
        np.save(tmp_path / "val" / "HR" / f"{index}a.npy", holed)
    assert tiles_of(tmp_path, 64).crop == 32  # 8 × 8 cells lie beside the hole at (7, 7) at 17 places, 9 × 9 at none


def test_without_a_val_folder_the_last_tiles_are_held_out_whole(tmp_path):
    images = tiles(tmp_path, sides=("train",), count=10, size=128, unit=9000)
    found = tiles_of(tmp_path, 64)
    held_out = np.stack(images[-2:]) / 10000
    assert np.isin(found.pairs.hr.numpy(), held_out.astype(np.float32)).all()
    assert found.crop == 108  # 6 × 6 places of 27 of 32 cells in both


def test_too_little_to_hold_out_is_one_problem_that_says_what_would_do(tmp_path):
    tiles(tmp_path, count=1, size=28, unit=9000)
    with pytest.raises(InvalidInput, match=r"1 held-out tile\(s\) of 28 px.*64 crops.*more or larger tiles into val/"):
        tiles_of(tmp_path, 64)
    tiles(tmp_path, count=1, size=64, unit=9000)
    needs = {"Discriminator.model_type": "esrgan"}
    assert tiles_of(tmp_path, 64, **needs).crop == 36
    with pytest.raises(InvalidInput, match="crops of 4 px, the largest of which there are 256.*at least 32 px.*fewer"):
        tiles_of(tmp_path, 256, **needs)
    loaded = tiny(**{"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": str(tmp_path)}, **TEN_THOUSAND
                  | {"Data.crop_size": None})  # fmt: skip
    assert load_imagery(loaded, CPU).crop == 36
    deeper = loaded.Discriminator.model_copy(update={"n_blocks": 4})  # another trial of a study, the same imagery
    with pytest.raises(InvalidInput, match="at least 64 px"):
        load_imagery(loaded.model_copy(update={"Discriminator": deeper}), CPU)


def examples(folder, count=26, size=64, unit=9000):
    folder.mkdir()
    images = [(textured(height=size, width=size, seed=seed) * unit) for seed in range(count)]
    for index, image in enumerate(images):
        kept = image.astype("uint16") if unit > 1 else image
        np.savez(folder / f"hr_{index:03d}.npz", other=np.zeros((1, 1, 1)), hr=kept.transpose(1, 2, 0))
    return [image.astype("uint16") if unit > 1 else image for image in images]


@pytest.mark.parametrize("unit", [12000, 1])
@pytest.mark.parametrize("factor", [2, 4])
def test_an_example_data_set_is_read_as_opensr_srgan_reads_it(tmp_path, unit, factor):
    """Its last 20 files are held out; reflectances are not clamped; reduced without antialiasing."""
    images = examples(tmp_path / "set", unit=unit)
    where = {"Data.dataset_type": "exampledataset", "Data.root_dir": str(tmp_path / "set"), "Data.crop_size": None}
    found = Imagery(tiny(**where, **{"Generator.scaling_factor": factor}), CPU)
    whole = np.stack(images).astype(np.float32) / np.float32(10000 if unit > 1 else 1)
    assert np.array_equal(np.stack([scene.hr for scene in found.scenes]), whole)
    lr = functional.interpolate(torch.from_numpy(whole), scale_factor=1 / factor, mode="bicubic")
    assert torch.equal(torch.stack([scene.lr for scene in found.scenes]), lr)
    assert np.isin(found.pairs.hr, whole[6:]).all()
    assert np.isin(found.batch(0, "train", 0, 64)[1], whole[:6]).all()
    assert (found.low, found.high) == (0, 10000 if unit > 1 else 1)
    told = [
        cautions(tiny(**where, **{"Generator.scaling_factor": factor}, **{"Data.normalization": name}))
        for name in ("normalise_10k", "sen2_stretch")
    ]  # the first is what is done of it
    assert list(told[0]) == (["Generator.scaling_factor"] if factor == 2 else [])
    assert told[1].keys() - told[0].keys() == {"Data.normalization"}


def test_example_data_without_a_place_lie_beside_the_file_or_where_it_is_run(tmp_path, monkeypatch):
    section = {"Data": {"dataset_type": "ExampleDataset"}}
    examples(tmp_path / "example_dataset", count=20)
    (tmp_path / "configs").mkdir()
    for folder, here in ((tmp_path, tmp_path / "configs"), (tmp_path / "configs", tmp_path)):
        monkeypatch.chdir(here)
        data = build_configuration(section, "file", folder).Data
        assert (data.dataset_type, data.root_dir) == ("ExampleDataset", str(tmp_path / "example_dataset"))
    with pytest.raises(InvalidInput, match="20 files of hr_.*more than 20 hr_"):
        Imagery(tiny(**{"Data.dataset_type": "ExampleDataset"}), CPU)


TACO = {  # made with tacotoolbox 0.3.3 and pytortilla 0.5.1: pair i has 1000·band + 500·i + 8·row + column
    "Data.dataset_type": "sen2naip", "Data.sen2naip_taco_file": str(Path(__file__).with_name("pairs.taco")),
    "Data.crop_size": None, "Data.normalization": "normalise_10k", "Data.sen2naip_val_fraction": 0.3,
}  # fmt: skip


def test_pairs_within_a_taco_file_are_read_as_they_are_and_its_last_ones_held_out():
    pytest.importorskip("tacoreader")
    found = Imagery(tiny(**TACO), CPU)
    bands, rows, columns = np.mgrid[:3, :64, :64]
    expected = np.stack([1000 * bands + 500 * index + 8 * rows + columns for index in range(9)]).astype(np.float32)
    expected /= np.float32(10000)
    assert np.array_equal(np.stack([scene.hr for scene in found.scenes]), expected)
    assert np.array_equal(np.stack([scene.lr for scene in found.scenes]), expected[..., ::4, ::4])
    assert found.batch(0, "train", 0, 500)[1].amin((1, 2, 3)).max() < expected[6].min() <= found.pairs.hr.min()
    assert found.crop == 48  # 5 × 5 places of 12 of 16 cells in each of 3


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.1, 1), (0.5, 5), (0.99, 8)])
def test_so_many_pairs_of_a_taco_file_are_held_out_as_in_opensr_srgan(fraction, held_out):
    pytest.importorskip("tacoreader")
    files = find_scenes(tiny(**TACO | {"Data.sen2naip_val_fraction": fraction}))
    assert (len(files.train), len(files.val)) == (9 - held_out, held_out)
    part, (name, size, _) = files.train[0][0], files.stamps()[0]
    assert name == str(part) and str(part).startswith("/vsisubfile/") and f"_{size}," in name


def test_a_taco_file_that_is_broken_or_has_no_reader_is_one_problem(tmp_path, monkeypatch):
    (tmp_path / "a.taco").write_bytes(b"none")
    monkeypatch.setitem(sys.modules, "tacoreader", None)
    with pytest.raises(InvalidInput, match=r"no tacoreader; .*pip install 'tune-srgan\[taco\]'"):
        Imagery(tiny(**TACO), CPU)
    monkeypatch.undo()
    pytest.importorskip("tacoreader")
    with pytest.raises(InvalidInput, match="a.taco: Data.sen2naip_taco_file: found a file that cannot be read"):
        Imagery(tiny(**TACO | {"Data.sen2naip_taco_file": str(tmp_path / "a.taco")}), CPU)


def test_kinds_of_data_sets_are_known_in_any_case_and_written_as_opensr_srgan_spells_them(tmp_path):
    for kind in ("LRHRFolderDataset", "ExampleDataset", "SEN2NAIP"):
        given = {"Data.root_dir": "x", "Data.sen2naip_taco_file": "x", "Data.normalization": "identity"}
        for spelling in (kind, kind.lower(), kind.upper()):
            configuration = tiny(**{"Data.dataset_type": spelling}, **given)
            assert f"dataset_type: {kind}\n" in dump_configuration(configuration)
    for kind, key in (("LRHRFolderDataset", "root_dir"), ("SEN2NAIP", "sen2naip_taco_file")):
        with pytest.raises(InvalidInput, match=f"Data.{key}: found None"):
            tiny(**{"Data.dataset_type": kind})
    for kind in ("cv", "SPOT6", "SISR_WW", "S2_6b"):
        with pytest.raises(InvalidInput) as caught:
            tiny(**{"Data.dataset_type": kind})
        (problem,) = caught.value.problems
        assert problem.found == f"'{kind}'" and "LRHRFolderDataset" in problem.fix


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
    pytest.param(pair(None), "train", "Data.root_dir", "1 HR without LR: a.npy", id="LR missing"),
])  # fmt: skip
def test_unusable_imagery_is_one_problem_that_names_file_and_key(tmp_path, make, file, key, found):
    make(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        pairs_of(tmp_path) if (tmp_path / "train").exists() else imagery(tmp_path / file)
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
        saved(tmp_path / f"{index}.npy", textured(height=40, width=40) + (50 if index > 2 else 0))
    assert imagery(tmp_path, **{"Data.val_fraction": 0.4}).high <= 1


@pytest.mark.parametrize(("name", "scale", "unit", "low", "high"), [
    ("scale", [2.0, 6.0], 1, 2, 6), ("normalise_10k", None, 9000, 0, 10000), ("zero_one", None, 1, 0, 1),
    ("identity", None, 5, 0, 1), ("sen2_stretch", None, 0.2, 0, 0.3),
])  # fmt: skip
def test_a_fixed_scale(tmp_path, name, scale, unit, low, high):
    path = saved(tmp_path / "a.npy", textured() * np.float32(unit))
    found = imagery(path, **{"Data.normalization": name, "Data.scale": scale})
    assert (found.low, found.high) == (low, high)
    assert np.allclose(found.scenes[0].hr, (textured() * unit - low) / (high - low), rtol=1e-5, atol=1e-6)


def test_nodata_is_the_lowest_number_of_a_signed_normalisation_and_in_no_crop(tmp_path):
    image = textured(height=128) * np.float32(0.2)
    image[:, 5, 5] = np.nan
    found = imagery(saved(tmp_path / "a.npy", image), **{"Data.normalization": "normalise_s2"})
    expected = np.where(np.isnan(image), -1, 2 * (image / 0.3) - 1)
    assert np.allclose(found.scenes[0].hr, expected, atol=1e-6)
    assert not found.scenes[0].usable[1, 1]


def test_reflectances_in_another_unit_are_refused_and_a_few_that_are_cut_off_are_told(tmp_path):
    path = saved(tmp_path / "a.npy", textured() * np.float32(10000) + 1)
    with pytest.raises(InvalidInput, match="Data.normalization: found values of which nearly all are clamped; .*0–0.3"):
        imagery(path, **{"Data.normalization": "sen2_stretch"})
    found = imagery(path, **{"Data.normalization": "normalise_10k"})
    assert "clamped" not in found.describe()
    path = saved(tmp_path / "b.npy", textured(height=160, width=320) * np.float32(13000))
    told = imagery(path, **{"Data.normalization": "normalise_10k"})
    share = float((told.pairs.hr == 1).float().mean())
    assert 0.01 < share < 0.2 and f"values 0–10000 as 0–1, {share:.0%} of them clamped" in told.describe()


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
            image = textured(height=32, width=32, seed=count * 100 + number)
            saved(tmp_path / part / "HR" / f"{number}.npy", image)
            saved(tmp_path / part / "LR" / f"{number}.npy", np.ascontiguousarray(image[:, ::4, ::4]))
    assert pairs_of(tmp_path, **{"Data.train_batch_size": 3}).epoch_steps == 3  # 3, 3 and 1 of them
