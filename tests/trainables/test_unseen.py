"""Test imagery: its pairs in the training's numbers, read when they are asked for; what has been seen is refused."""

import itertools
import shutil

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine
from torch.nn import functional

from tests.support.data_sets import write_examples, write_tiles
from tests.support.tiny import begun, coordinates, everything, same, saved, textured, tiny
from trainables import decoding, scenes
from trainables.errors import InvalidInput
from trainables.imagery import Imagery, load_imagery
from trainables.places import SAMPLE
from trainables.pretraining import fingerprint
from trainables.trainer import train

CPU = torch.device("cpu")
CROP, PIXEL_M = 16, 30
IDENTITY = {"Data.normalization": "identity"}


def geotiff(path, image, east_px=0, crs="EPSG:32621", nodata=None):
    """An image (bands, H, W) so many pixels east of a place; returns its path."""
    shape = dict(zip(("count", "height", "width"), image.shape, strict=True))
    transform = Affine(PIXEL_M, 0, 500_000 + PIXEL_M * east_px, 0, -PIXEL_M, 7_200_000)
    place = {"crs": crs, "transform": transform if crs else None}
    with rasterio.open(path, "w", driver="GTiff", dtype=image.dtype.name, nodata=nodata, **shape, **place) as file:
        file.write(image)
    return str(path)


def numbers(seed, height=96, width=256, bands=3):
    return (textured(bands, height, width, seed) * 8000 + 100 * (seed + 1)).astype("uint16")


@pytest.fixture
def trained(tmp_path):
    """A training's scene, 256 px wide, with a georeference."""
    return geotiff(tmp_path / "trained.tif", numbers(0))


def imagery(trained, test, **dotted):
    return Imagery(tiny(**{"Data.path": str(trained), "Data.test_path": str(test)}, **dotted), CPU)


def test_test_pairs_are_crops_of_their_own_file_scaled_by_the_trainings_percentiles(tmp_path, trained):
    file = geotiff(tmp_path / "test.tif", numbers(1, 64, 84), east_px=300)
    pairs = imagery(trained, file).test
    with rasterio.open(trained) as scene:  # 13 of 64 cells are held out, 4 lie between
        low, high = np.percentile(scene.read()[:, :, : 4 * (64 - 13 - 4)].astype(np.float64), [0.1, 99.9])
    with rasterio.open(file) as scene:
        whole = (scene.read().astype(np.float64) - low) / (high - low)
    assert len(pairs.hr) == 4 * 5 and not pairs.overlapping  # of 64 wanted; the last 4 columns are no crop
    reduced = functional.interpolate(torch.from_numpy(whole)[None], scale_factor=0.25, mode="bicubic", antialias=True)
    for pair, (row, column) in enumerate(itertools.product(range(0, 64, CROP), range(0, 80, CROP))):
        expected = whole[:, row : row + CROP, column : column + CROP]
        assert np.allclose(pairs.hr[pair], expected, atol=2e-6)
        cells = slice(row // 4, row // 4 + 4), slice(column // 4, column // 4 + 4)
        assert np.allclose(pairs.lr[pair], reduced[0][:, *cells], atol=2e-6)
    bicubic = functional.interpolate(pairs.lr, scale_factor=4, mode="bicubic")
    assert torch.allclose(pairs.bicubic, bicubic, atol=1e-6)
    assert int(pairs.detailed.sum()) == 12  # the upper 60 %


def test_of_a_large_test_scene_as_many_as_are_asked_for_lie_evenly_in_it_and_never_overlap(tmp_path, trained):
    found = imagery(trained, saved(tmp_path / "test.npy", coordinates(256, 512)), **IDENTITY)
    corners = np.stack([found.test.hr[:, axis].amin((1, 2)) for axis in (0, 1)], 1).astype(int)
    assert len(corners) == len({tuple(corner) for corner in corners}) == 64
    assert (corners % CROP == 0).all()
    assert np.bincount(corners[:, 0] // 64).tolist() == [16, 16, 16, 16]
    assert np.bincount(corners[:, 1] // 256).tolist() == [32, 32]
    assert found.describe().endswith(f"; 64 test pairs of {tmp_path / 'test.npy'}")


def test_pairs_of_several_scenes_are_of_each_and_touch_no_nodata(tmp_path, trained):
    (tmp_path / "test").mkdir()
    ring = np.full((3, 40, 40), 0.5, np.float32)
    ring[:, [0, -1]] = ring[:, :, [0, -1]] = -1.0  # 4 × 4 of 10 × 10 cells lie beyond what bicubic reduction reaches
    geotiff(tmp_path / "test" / "a.tif", ring, 300, nodata=-1.0)
    geotiff(tmp_path / "test" / "b.tif", np.full((3, 32, 36), 0.25, np.float32), 400)
    holed = np.full((3, 16, 64), 0.75, np.float32)
    holed[:, 3, 20] = np.nan
    geotiff(tmp_path / "test" / "c.tif", holed, 500)
    found = imagery(trained, tmp_path / "test", **IDENTITY)
    values = [0.5] + [0.25] * 4 + [0.75] * 2
    for images in (found.test.hr, found.test.lr):
        expected = torch.tensor(values)[:, None, None, None].expand(images.shape)
        assert torch.allclose(images, expected, atol=1e-6)
    assert f"; 7 test pairs of {tmp_path / 'test'}, as many as lie side by side" in found.describe()


def tiles(folder, *parts, size=32):
    """{part}/{LR,HR} of 4 tiles; returns the HR ones of the last part."""
    for number, part in enumerate(parts):
        images = [numbers(4 * number + index, size, size) for index in range(4)]
        for index, image in enumerate(images):
            for side, content in (("HR", image), ("LR", image[:, ::4, ::4])):
                saved(folder / part / side / f"{index}.npy", np.ascontiguousarray(content))
    return images


def of_tiles(folder, **dotted):
    kind = {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": str(folder)}
    return Imagery(tiny(**kind, **{"Data.normalization": "normalise_10k"}, **dotted), CPU)


def test_tiles_in_a_test_folder_are_taken_by_themselves_as_they_are(tmp_path):
    images = tiles(tmp_path, "train", "val", "test")
    found = of_tiles(tmp_path)
    quarters = [image[:, r : r + 16, c : c + 16] for image in images for r in (0, 16) for c in (0, 16)]
    assert np.allclose(found.test.hr, np.stack(quarters) / np.float32(10000), atol=1e-6)
    assert np.array_equal(found.test.lr, found.test.hr[:, :, ::4, ::4])
    assert f"; 16 test pairs of {tmp_path}/test, as many as" in found.describe()


def test_tiles_named_in_the_file_go_before_those_in_a_test_folder(tmp_path):
    tiles(tmp_path, "train", "val", "test")
    images = tiles(tmp_path / "more", "a", "b", "c", "d")
    found = of_tiles(tmp_path, **{"Data.test_path": str(tmp_path / "more" / "d")})
    assert np.allclose(found.test.hr[0], images[0][:, :16, :16] / np.float32(10000), atol=1e-6)
    assert len(found.test.hr) == 16
    with pytest.raises(InvalidInput, match="the pixels of the training's 0.npy; and so 1.npy, 2.npy, 3.npy"):
        of_tiles(tmp_path, **{"Data.test_path": str(tmp_path / "more" / "b")}).check_test()  # held out: val/ again


def test_without_test_imagery_there_is_none(tmp_path, trained):
    assert Imagery(tiny(**{"Data.path": trained}), CPU).test is None
    tiles(tmp_path, "train", "val")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes.txt").write_text("none yet")
    found = of_tiles(tmp_path)
    assert found.test is None
    assert "test" not in found.describe().replace(str(tmp_path), "")


def test_a_crop_that_the_tiles_chose_is_that_of_the_test_tiles_and_one_half_alone_is_refused(tmp_path):
    write_tiles(tmp_path, bands=3, factor=4)
    tiles(tmp_path, "test", size=64)
    found = of_tiles(tmp_path, **{"Data.crop_size": None})
    assert found.crop == 56 and found.test.hr.shape == (4, 3, 56, 56)
    (tmp_path / "test" / "LR" / "2.npy").unlink()
    with pytest.raises(InvalidInput, match="test: Data.root_dir: found 1 HR without LR: 2.npy"):
        of_tiles(tmp_path, **{"Data.crop_size": None}).check_test()


def test_examples_to_test_on_are_all_of_a_folder(tmp_path):
    write_examples(tmp_path / "set", bands=3)
    (tmp_path / "test").mkdir()
    image = numbers(7, 64, 64)
    np.savez(tmp_path / "test" / "hr_00000.npz", hr=image.transpose(1, 2, 0))
    kind = {"Data.dataset_type": "ExampleDataset", "Data.root_dir": str(tmp_path / "set"), "Data.crop_size": None}
    kind["Data.test_path"] = str(tmp_path / "test")
    found = Imagery(tiny(**kind), CPU)
    side = found.crop
    assert np.allclose(found.test.hr[0], image[:, :side, :side] / np.float32(10000), atol=1e-6)
    (tmp_path / "test" / "hr_00000.npz").unlink()
    with pytest.raises(InvalidInput, match="Data.test_path: found 0 files of hr_.*npz; expected hr_.*npz"):
        Imagery(tiny(**kind), CPU).check_test()


def beside(folder, *names):
    """Folder `test` with these files in it."""
    (folder / "test").mkdir()
    for name in names:
        shutil.copy(folder / name, folder / "test" / name)
    return folder / "test"


def linked(folder):
    (folder / "test").mkdir()
    (folder / "test" / "other name.tif").symlink_to(folder / "trained.tif")
    return folder / "test"


def copied(folder):
    with rasterio.open(folder / "trained.tif") as scene:
        return saved(folder / "copy.npy", scene.read())


def cut(folder):
    geotiff(folder / "apart.tif", numbers(3), 300)
    geotiff(folder / "cut.tif", numbers(2, 64, 64), 200)
    return beside(folder, "apart.tif", "cut.tif")


def broken(folder):
    file = geotiff(folder / "broken.tif", numbers(2), 300)
    content = (folder / "broken.tif").read_bytes()
    (folder / "broken.tif").write_bytes(content[: len(content) // 2])
    return file


SEEN = "expected imagery that neither training nor choice sees, geographically apart. Name imagery of another place."
ROOM = "expected test imagery with room for a crop of 16 px without nodata. Use larger test imagery."
REFUSED = {  # how it is made, the file and key that are named, what is said
    "own file": (lambda f: f / "trained.tif", "trained.tif", "Data.test_path", f"a file of the training's own; {SEEN}"),
    "own folder": (lambda f: f, "trained.tif", "Data.test_path", f"a file of the training's own; {SEEN}"),
    "link": (linked, "test/other name.tif", "Data.test_path", f"a file of the training's own; {SEEN}"),
    "copy": (copied, "copy.npy", "Data.test_path", f"the pixels of the training's trained.tif; {SEEN}"),
    "cut": (cut, "test/cut.tif", "Data.test_path", f"ground that the training's trained.tif covers; {SEEN}"),
    "bands": (lambda f: geotiff(f / "a.tif", numbers(2, bands=4), 300), "a.tif", "Model.in_bands",
              "4 bands; expected 3. Use imagery with 3 bands, or set Model.in_bands: 4 where all of it has as many."),
    "small": (lambda f: geotiff(f / "a.tif", numbers(2, 12, 90), 300), "a.tif", "Data.test_path",
              f"no crop of 16 px without nodata in the test area; {ROOM}"),
    "less than a cell": (lambda f: geotiff(f / "a.tif", numbers(2, 3, 3), 300), "a.tif", "Data.test_path",
                         f"a scene of less than 4 px; {ROOM}"),
    "missing": (lambda f: f / "none.tif", "none.tif", "Data.test_path", "no such file or folder; expected imagery"),
    "empty": (beside, "test", "Data.test_path", "no imagery in it; expected imagery"),
    "broken": (broken, "broken.tif", "Data.test_path", "a file that cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_tests_nothing_is_one_problem(tmp_path, trained, name):
    make, file, key, said = REFUSED[name]
    found = imagery(trained, make(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        found.check_test()
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{tmp_path / file}: {key}: found {said}")
    with pytest.raises(InvalidInput):
        found.describe()


@pytest.mark.parametrize(("east", "crs"), [(256, "EPSG:32621"), (-256, "EPSG:32621"), (0, "EPSG:32622"), (0, None)])
def test_what_lies_beside_it_or_does_not_say_where_is_no_seen_ground(tmp_path, trained, east, crs):
    assert len(imagery(trained, geotiff(tmp_path / "test.tif", numbers(1), east, crs)).test.hr) == 64


def test_test_imagery_in_another_unit_is_refused(tmp_path, trained):
    test = saved(tmp_path / "test.npy", textured(seed=3) * np.float32(1e6) + 20000)
    found = imagery(trained, test, **{"Data.normalization": "normalise_10k"})
    with pytest.raises(
        InvalidInput, match="test.npy: Data.normalization: found values of which nearly all are clamped"
    ):
        found.check_test()


def test_scenes_of_nothing_but_one_value_may_be_equal(tmp_path):
    for part, seeds in (("train", (0, 1)), ("val", (2, 3)), ("test", (4, 5))):
        for name, seed in zip("ab", seeds, strict=True):
            image = numbers(seed, 64, 64) if name == "a" else np.full((3, 64, 64), 20000, "uint16")
            for side, content in (("HR", image), ("LR", image[:, ::4, ::4])):
                saved(tmp_path / part / side / f"{name}.npy", np.ascontiguousarray(content))
    assert len(of_tiles(tmp_path).test.hr) == 32


def first_readings(state, seen):
    return [
        {key: value for key, value in reading.items() if not key.startswith("time/")}
        for reading in itertools.islice(train(state, seen), 3)
    ]


def test_a_training_reads_no_test_imagery_and_is_the_same_with_it(tmp_path, trained, monkeypatch):
    file = tmp_path / "test.tif"
    geotiff(file, numbers(1), 300)
    read, original = [], scenes._read
    monkeypatch.setattr(scenes, "_read", lambda high, *rest: read.append(high.name) or original(high, *rest))
    state, seen = begun(**{"Data.path": trained, "Data.test_path": str(file)})
    file.unlink()  # nobody asks for it
    readings = first_readings(state, seen)
    alone, without = begun(**{"Data.path": trained})
    assert first_readings(alone, without) == readings
    assert same(everything(alone), everything(state))
    assert read == ["trained.tif"] * 2
    assert seen.digest == without.digest
    assert fingerprint(state.configuration, seen, CPU) == fingerprint(alone.configuration, without, CPU)
    with pytest.raises(InvalidInput, match="test.tif: Data.test_path: found no such file"):
        seen.check_test()


def test_the_trials_of_a_process_read_it_once(tmp_path, trained, monkeypatch):
    where = {"Data.path": trained, "Data.test_path": geotiff(tmp_path / "test.tif", numbers(1), 300)}
    pairs = load_imagery(tiny(**where), CPU).test
    monkeypatch.setattr(scenes, "_read", lambda *_: pytest.fail("read again"))
    assert load_imagery(tiny(**where, **{"Training.Losses.adv_loss_beta": 0.5}), CPU).test is pairs


def test_large_test_imagery_is_decoded_once_a_machine_and_leaves_the_trainings_copy_as_it_is(
    tmp_path, trained, monkeypatch
):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    monkeypatch.setattr(decoding, "SHARED_FROM", 0)
    test = geotiff(tmp_path / "test.tif", numbers(1), 300)

    def entries():
        return {entry.name for entry in tmp_path.glob("machine/imagery/scenes-*[0-9a-f]/")}

    Imagery(tiny(**{"Data.path": trained}), CPU)
    own = entries()
    found = imagery(trained, test)
    assert entries() == own
    pairs = found.test
    assert len(entries() - own) == 1
    monkeypatch.setattr(scenes, "_read", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(imagery(trained, test).test.hr, pairs.hr)
    monkeypatch.undo()
    assert torch.equal(imagery(trained, test).test.hr, pairs.hr)


def test_a_cut_of_the_shipped_sample_is_seen_ground(tmp_path):
    with rasterio.open(SAMPLE) as scene:
        place = scene.transform @ Affine.translation(100, 200)
        profile = scene.profile | {"height": 64, "width": 64, "transform": place}
        with rasterio.open(tmp_path / "cut.tif", "w", **profile) as out:
            out.write(scene.read(window=((200, 264), (100, 164))))
    with pytest.raises(InvalidInput, match="cut.tif: Data.test_path: found ground that the training's landsat8_sample"):
        imagery("sample", tmp_path / "cut.tif").check_test()
