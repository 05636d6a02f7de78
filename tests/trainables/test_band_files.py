"""Scenes of one file a band: grouped by their names, in the bands' order, and whole or refused."""

import numpy as np
import pytest
import rasterio
import torch

from tests.support.images import tiff
from tests.support.tiny import textured, tiny
from trainables.errors import InvalidInput
from trainables.image_files import ground, parts, read_image
from trainables.imagery import Imagery
from trainables.scenes import find_scenes

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 4_600_000)}
IMAGE = (textured(bands=4) * 4000).astype("uint16")
BANDS = dict(zip(("B04", "B03", "B02", "B08"), IMAGE, strict=True))


def put(path, band, **profile):
    """One band, georeferenced, in the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"} if path.suffix == ".jp2" else {}
    kind |= {"height": band.shape[0], "width": band.shape[1], "count": 1, "dtype": band.dtype.name} | PLACE | profile
    with rasterio.open(path, "w", **kind) as out:
        out.write(band, 1)


def configured(path, bands=3, names=None, **dotted):
    return tiny(**{"Data.path": str(path), "Model.in_bands": bands, "Data.bands": names} | dotted)


def images_of(configuration):
    scale = {"Data.normalization": "identity"}
    settings = {"Data.path": configuration.Data.path, "Model.in_bands": configuration.Model.in_bands}
    imagery = Imagery(tiny(**settings, **scale, **{"Data.bands": configuration.Data.bands}), torch.device("cpu"))
    return {scene.name: scene.hr.numpy() for scene in imagery.scenes}


@pytest.mark.parametrize("suffix", [".jp2", ".tif"])
@pytest.mark.parametrize("names", [["B04", "B03", "B02"], ["B02", "B03", "B04", "B08"], ["B08"]])
def test_files_that_differ_in_the_bands_name_are_one_scene(tmp_path, suffix, names):
    for scene in ("a", "b/c"):
        for name, band in BANDS.items():
            put(tmp_path / f"{scene}_{name}_10m{suffix}", band if scene == "a" else band[:, ::-1])
    put(tmp_path / f"a_SCL_10m{suffix}", IMAGE[0])
    found = images_of(configured(tmp_path, len(names), names))
    every = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    expected = np.stack([BANDS[name] for name in names])
    assert found.keys() == {f"a_{every}_10m{suffix}", f"c_{every}_10m{suffix}"}
    assert np.array_equal(found[f"a_{every}_10m{suffix}"], expected)
    assert np.array_equal(found[f"c_{every}_10m{suffix}"], expected[:, :, ::-1])


def test_a_scene_is_named_as_shells_do(tmp_path):
    for name, band in BANDS.items():
        put(tmp_path / f"s_{name}.tif", band, nodata=0)
    scene = tmp_path / "s_{B08,B02}.tif"
    image, valid = read_image(scene, None, "IN")
    assert np.array_equal(image, np.stack([BANDS["B08"], BANDS["B02"]]))
    assert np.array_equal(valid, (image != 0).all(0))
    assert ground(scene).crs.to_epsg() == 32633
    assert parts(scene) == [tmp_path / "s_B08.tif", tmp_path / "s_B02.tif"]
    assert images_of(configured(scene, 2)).keys() == {scene.name}
    before = find_scenes(configured(scene, 2)).stamps()
    put(tmp_path / "s_B02.tif", BANDS["B02"][:, ::-1])
    assert find_scenes(configured(scene, 2)).stamps() != before


@pytest.mark.parametrize(("other", "found"), [
    ({"band": IMAGE[2][::2, ::2]}, "128×48 px of uint16 beside 256×96 px of uint16"),
    ({"band": IMAGE[2].astype("float32")}, "256×96 px of float32"),
    ({"band": IMAGE[2], "transform": rasterio.Affine(10, 0, 500_010, 0, -10, 4_600_000)}, "do not lie on each other"),
    ({"band": None}, "a scene without B02"),
])  # fmt: skip
def test_bands_that_make_no_image_are_one_problem(tmp_path, other, found):
    put(tmp_path / "s_B04.tif", IMAGE[0])
    put(tmp_path / "s_B03.tif", IMAGE[1])
    if other["band"] is not None:
        put(tmp_path / "s_B02.tif", **other)
    with pytest.raises(InvalidInput, match=found) as refused:
        images_of(configured(tmp_path, 3, ["B04", "B03", "B02"]))
    assert len(refused.value.problems) == 1


def test_a_file_of_several_bands_is_no_band(tmp_path):
    for name in ("B04", "B03", "B02"):
        (tmp_path / f"s_{name}.tif").write_bytes(tiff(IMAGE[:2], extra=["other"]))
    with pytest.raises(InvalidInput, match="with bands or a mask of its own"):
        images_of(configured(tmp_path, 3, ["B04", "B03", "B02"]))


def test_arrays_of_one_band_each_are_refused(tmp_path):
    for name in ("B04", "B03"):
        np.save(tmp_path / f"s_{name}.npy", IMAGE[:1])
    with pytest.raises(InvalidInput, match="arrays of one band each"):
        images_of(configured(tmp_path, 2, ["B04", "B03"]))


@pytest.mark.parametrize(("bands", "names"), [(3, ["B04", "B03"]), (2, ["B04", "B04"]), (2, ["B04", "a/b"]), (2, [])])
def test_names_of_bands_that_cannot_be_are_refused(bands, names):
    with pytest.raises(InvalidInput, match="Data.bands"):
        tiny(**{"Model.in_bands": bands, "Data.bands": names})


def safe(folder, level):
    """Sentinel-2's folders as they are handed out, what is in them beside the bands too."""
    tile = "T33TVN_20240601T100031"
    inside = folder / f"S2A_MSI{level}_20240601T100031.SAFE" / "GRANULE" / f"{level}_T33TVN" / "IMG_DATA"
    coarse = {"transform": rasterio.Affine(20, 0, 500_000, 0, -20, 4_600_000)}
    if level == "L1C":
        for name, band in BANDS.items():
            put(inside / f"{tile}_{name}.jp2", band)
        put(inside / f"{tile}_B05.jp2", IMAGE[0][::2, ::2], **coarse)
        put(inside / f"{tile}_TCI.jp2", IMAGE[0])
    else:
        for name, band in BANDS.items():
            put(inside / "R10m" / f"{tile}_{name}_10m.jp2", band)
        put(inside / "R10m" / f"{tile}_TCI_10m.jp2", IMAGE[0])
        for name in ("B02", "B03", "B04", "B05", "B06", "B07"):
            put(inside / "R20m" / f"{tile}_{name}_20m.jp2", IMAGE[0][::2, ::2] + int(name[1:]), **coarse)
    put(inside.parent / "QI_DATA" / "MSK_CLDPRB_20m.jp2", IMAGE[0])
    return inside.parents[2]


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize("within", [True, False])
def test_a_safe_folder_is_a_scene_of_its_10_m_bands(tmp_path, level, bands, within):
    folder = safe(tmp_path, level)
    ((name, image),) = images_of(configured(tmp_path if within else folder, bands)).items()
    assert np.array_equal(image, IMAGE[:bands])
    assert name.startswith("T33TVN_20240601T100031_{B04,B03,B02")


def test_a_file_of_a_safe_folder_that_is_named_is_itself(tmp_path):
    inside = safe(tmp_path, "L2A") / "GRANULE" / "L2A_T33TVN" / "IMG_DATA" / "R20m"
    scene = inside / "T33TVN_20240601T100031_{B05,B06}_20m.jp2"
    assert find_scenes(configured(scene, 2)).high == [scene]
    assert find_scenes(configured(inside / "T33TVN_20240601T100031_B05_20m.jp2", 1)).high == [
        inside / "T33TVN_20240601T100031_B05_20m.jp2"
    ]


def test_bands_of_20_m_are_taken_from_a_safe_folder_by_their_names(tmp_path):
    folder = safe(tmp_path, "L2A")
    ((scene, _),) = find_scenes(configured(folder, 3, ["B05", "B06", "B07"])).train
    image, _ = read_image(scene, None, "Data.path")
    assert np.array_equal(image, np.stack([IMAGE[0][::2, ::2] + at for at in (5, 6, 7)]))
    for bands, names, found in ((2, None, "none, and a .SAFE folder"), (2, ["B05", "B08"], "no resolution")):
        with pytest.raises(InvalidInput, match=found):
            find_scenes(configured(folder, bands, names))
