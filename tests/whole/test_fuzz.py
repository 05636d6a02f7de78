"""Whatever lies where a file should be: a result or one clear error; no other exception, no hang, nothing executed.

The same inputs every time. `FUZZ_EXAMPLES=50 pytest tests/whole/test_fuzz.py` tries 50 times as many, others each time.
"""

import copy
import io
import itertools
import math
import os
import pickle
import resource
import signal
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.opensr import CONFIG_20M
from tests.support.service import ROOT
from tests.support.studies import PATIENCE, PRETRAIN, WEIGHT, small
from tests.support.tiny import BASE, begun, textured, tiny
from trainables import imagery as images
from trainables.configuration import dump_configuration, load_configuration
from trainables.dotted import flatten, with_values
from trainables.errors import InvalidInput
from trainables.image_files import suffixes
from trainables.places import SAMPLE
from trainables.pretraining import pack
from trainables.schema import Configuration
from trainables.state import State
from trainables.trainer import train
from tune_srgan.search.sharing import SharedPretraining, Snapshots, expected_savings, points_of
from tune_srgan.store.objects import storage_at
from tune_srgan.study.loading import load_study
from tune_srgan.upscaling.files import upscale
from tune_srgan.upscaling.generator import load_generator

CPU = torch.device("cpu")
LIMIT_S, LIMIT_BYTES = 10, 2e9  # of one input, of all
MORE = int(os.environ.get("FUZZ_EXAMPLES", "1"))


def fuzz(count, *inputs):
    """Of a test with one argument: so many drawn, and the inputs that once failed."""

    def decorate(test):
        for found in inputs:
            test = example(found)(test)
        return settings(
            max_examples=count * MORE,
            derandomize=MORE == 1,
            database=None,
            # `answer` has one that ends what does not return
            suppress_health_check=list(HealthCheck),
        )(test)

    return decorate


class TooLong(BaseException):
    """No Exception, so that nobody under test can take it for one of theirs."""


def answer(ask, *arguments):
    """What a function returns; None where it refuses with clear problems. All else is a failure, 10 s too."""

    def too_long(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        return ask(*arguments)
    except InvalidInput as error:
        assert error.problems
        assert all(problem.file and problem.found and problem.expected for problem in error.problems)
        return None
    except TooLong:
        pytest.fail(f"no answer within {LIMIT_S} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all; in the end nothing was executed and memory stayed within its limit."""
    found, before = tmp_path_factory.mktemp("fuzz"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield found
    assert not (found / "executed").exists()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LIMIT_BYTES


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# Study files and training files.

NAMES = ["", ".", "..", "../../x", "/", "~", "~nobody/x", "a\0b", "\ud800", "\x1b[31m", "\n", "\u202e\ufeff", " "]
NAMES += ["<script>alert(1)</script>", "x" * 3000, "a.b.c", "Training..x", "Training.", "1e5", "yes", "null", "=", "<<"]
NAMES += ["study.yaml", "s3://", "sample", "int", "choice", "{{x}}", "*a", "2001-01-01", "Training", "Data", "Nash"]
NUMBERS = [0, 1, 2, 3, -1, 9, 64, 1000, 2**31, 2**63, 2**64, 10**400, 10**12, 0.5, -0.0, 5e-324, 1e-9, 1e308, -1e308]
NUMBERS += [math.nan, math.inf, -math.inf]
KEYS = list(flatten(Configuration().model_dump()))
SPACES = ROOT / "search_spaces"
SHIPPED = {file: file.read_text(encoding="utf-8") for file in sorted(SPACES.rglob("*.yaml"))}
TRAININGS = [BASE, CONFIG_20M, *(yaml.safe_load(text) for file, text in SHIPPED.items() if file.parent != SPACES)]
STUDIES = [yaml.safe_load(text.replace("base/", f"{SPACES}/base/")) for text in SHIPPED.values() if "study:" in text]
STUDIES += [small()] * 3  # where the training can be mutated too

numbers = st.sampled_from(NUMBERS)
scalars = st.sampled_from(NAMES) | numbers | st.none() | st.booleans() | st.text(max_size=6) | st.integers()
scalars |= st.floats() | st.dates() | st.datetimes() | st.binary(max_size=6)
keys = st.sampled_from(NAMES) | st.text(max_size=6) | st.integers(-2, 2) | st.sampled_from([None, True, 0.5, (1, 2)])
sections = st.sampled_from([*Configuration.model_fields, "study", "space", "training"])


def mappings(parts):
    return st.dictionaries(keys | sections, parts, max_size=4)


nested = st.recursive(scalars, lambda parts: st.lists(parts, max_size=4) | mappings(parts), max_leaves=12)
parameters = st.builds(
    lambda kind, ends, more: {kind: ends} | more,
    st.sampled_from(["int", "float", "choice"]),
    st.lists(numbers, min_size=2, max_size=2) | st.tuples(st.integers(0, 9), st.integers(0, 99)).map(list),
    st.fixed_dictionaries({}, optional={"step": numbers | st.integers(1, 3), "log": st.booleans()}),
)


def places(document):
    """Every key or index of a document with what holds it, on all levels."""
    items = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    return [found for key in items for found in [(document, key), *places(document[key])]]


@st.composite
def mutated(draw, documents):
    """A valid document of which one to three nodes were replaced, deleted, added, copied or turned a little."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    training, space = document.get("training", document), document.get("space")
    edits = ["replace", "delete", "add", "copy", "turn", "turn", "known", "search" if space else "known"]
    for edit in draw(st.lists(st.sampled_from(edits), min_size=1, max_size=3)):
        (holder, key), (other, there) = (draw(st.sampled_from(places(document) or [({"": 0}, "")])) for _ in "ab")
        if key not in holder if isinstance(holder, dict) else key >= len(holder):
            continue  # gone with what held it
        if edit == "replace":
            holder[key] = draw(nested)
        elif edit == "delete":
            del holder[key]
        elif edit == "add" and isinstance(holder, dict):
            holder[draw(keys)] = draw(nested)
        elif edit == "copy":
            other[there] = copy.deepcopy(holder[key])
        elif edit == "turn" and isinstance(holder[key], int | float):
            holder[key] = draw(st.sampled_from([holder[key] * 2, holder[key] + 1, holder[key] / 2, not holder[key]]))
        elif edit == "known" and isinstance(training, dict):
            training.update(with_values(training, {draw(st.sampled_from(KEYS)): draw(scalars)}))
        elif edit == "search" and isinstance(space, dict):
            space[draw(st.sampled_from(KEYS))] = draw(parameters)
    return document


def loaded_study(file):
    """A study that loads builds its trainings, is the same when dumped and loaded, and stays in its storage."""
    found = answer(load_study, file)
    if found is None:
        return
    study, _ = found
    for share in (0.0, 0.4, 0.999) if len(study.space) <= 8 else ():  # of more keys not every corner is tried
        study.configuration({key: parameter.at(share) for key, parameter in study.space.items()})
        assert study.lowest() and study.highest()
    assert len(answer(points_of, study)) <= 32
    assert Path("/storage", study.study).resolve().parent == Path("/storage")
    again, _ = load_study(put(file.parent / "dumped.yaml", study.dump().encode()))
    assert again == study
    assert again.holds(study)


def loaded_training(file):
    """A training that loads is the same when dumped and loaded."""
    found = answer(load_configuration, file)
    if found is not None:
        assert load_configuration(put(file.parent / "dumped.yaml", dump_configuration(found).encode())) == found


def loaded_both(folder, content):
    loaded_training(put(folder / "training.yaml", content))
    loaded_study(put(folder / "study.yaml", content))
    loaded_study(put(folder / "other.yaml", b"study: x\nspace: {}\ntraining: training.yaml\n"))


@fuzz(100, b"\xff\xfe", b"a: " + b"[" * 500)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes(folder, content):
    loaded_both(folder, content)


@fuzz(150)
@given(nested | mappings(nested))
def test_any_document(folder, document):
    loaded_both(folder, yaml.safe_dump(document).encode())


def laughs(opening, part, closing):
    """Each of twelve levels stands for ten of the one before."""
    levels = ([part.format(n, level) for n in range(10)] for level in range(12))
    lines = [f"a{at + 1}: &a{at + 1} {opening}{', '.join(parts)}{closing}" for at, parts in enumerate(levels)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


FRAGMENTS = ["a: ", "- ", "{", "}", "[", "]", ", ", ": ", "? ", "\n", "\n  ", "\n    ", "|\n", ">-\n", "---\n", "&a "]
FRAGMENTS += ["*a", "<<: *a", "'", '"', "#", "%YAML 1.1\n", "\t", "1:" * 200 + "1.5", "0x" + "f" * 5000, "9" * 5000]
FRAGMENTS += ["1e5", "_", "!x ", "!!python/object/apply:os.mkdir [executed]", "2001-99-99", '"\\ud800"', '"\\0"']
FRAGMENTS += [".nan", "study: x", "Data: ", "path: ", "training: ", "Training: ", "space: ", "storage: ", "seed: "]
TAGS = ["int", "float", "bool", "timestamp", "binary", "set", "omap", "pairs", "map", "str", "null"]
FRAGMENTS += [f"!!{tag} " for tag in TAGS]
ONCE = ["a: &a [*a, *a]", "Data: &a {path: *a}", "&a ? *a\n: 1", "a: " + "[" * 99 + "]" * 99]
ONCE += [laughs("{", "x{}: *a{}", "}"), laughs("[", "*a{1}", "]"), laughs("{<<: [", "*a{1}", "]}")]
ONCE += ["a: !!int ''", "!!map [a, b]", "a: !!bool x", "a: !!timestamp x", "a: 2001-99-99", "a: " + "1:" * 200 + "1.5"]
ONCE += ["Data: {crop_size: 0x" + "f" * 5000 + "}", 'Data: {path: "a\\0b"}', '"\\ud800": 1', 'Data: {path: "\\ud800"}']
ONCE += ["Data: {path: ~nobody/x}", "Training: {Losses.perceptual_weight: 1}", "Logging: {wandb: {project: '1e5'}}"]
ONCE += ["Discriminator: {n_blocks: 20000}", "Discriminator: {n_blocks: 1000000000000000}", "Data: {nodata: .nan}"]
ONCE += ["Data: {percentiles: [.nan, 50]}", "Data: {scale: [.nan, .inf], normalization: scale}"]
ONCE += ["Training: {Losses: {l1_weight: .inf}}", "!!python/object/apply:os.mkdir [executed]"]
ONCE += ["{" + ", ".join(f"k{n}: 1" for n in range(30_000)) + "}"]
ONCE += ["space: {" + ", ".join(f"Training.k{n}: 1" for n in range(700)) + "}"]


@fuzz(200, *ONCE)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join))
def test_any_text_of_yaml(folder, text):
    loaded_both(folder, text.replace("executed", str(folder / "executed")).encode())


@fuzz(150)
@given(st.tuples(st.sampled_from(sorted(SHIPPED)), st.integers(0), st.integers(0, 20), st.sampled_from(FRAGMENTS)))
def test_a_shipped_file_with_something_put_in(folder, change):
    file, at, cut, fragment = change
    text = SHIPPED[file].replace("base/", f"{SPACES}/base/")
    at %= len(text)
    loaded = loaded_study if file.parent == SPACES else loaded_training
    loaded(put(folder / "a.yaml", (text[:at] + fragment + text[at + cut :]).encode()))


def edited(path, value):
    """The small study with a value at a path of keys."""
    document = small()
    *above, last = path.split("/")
    place = document
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return document


REGRESSIONS = [edited("study", name) for name in ("1e5", "../x", "x\n", "..")]
REGRESSIONS += [edited("storage", name) for name in ("", "~nobody", "a\0b")]
REGRESSIONS += [edited("training", name) for name in ("a\0b", "../" * 99, "x" * 300)]
REGRESSIONS += [edited("training/Data/path", "~nobody/x"), edited("training/Data/nodata", math.nan)]
REGRESSIONS += [edited("search/learn_from", ["a\0b"]), edited("resources/cpus", math.inf)]
REGRESSIONS += [edited("search/try_first", [{PRETRAIN: math.nan}, {WEIGHT: 10**400}, {PRETRAIN: ""}])]
STEPS = [([0.1, 0.2], math.inf), ([0.1, 0.2], math.nan), ([0, 1], 1e12), ([-1e308, 1e308], 1.0), ([0, 1], 5e-324)]
REGRESSIONS += [edited("space/Training.Losses.l1_weight", {"float": ends, "step": step}) for ends, step in STEPS]
REGRESSIONS += [edited("space/Optimizers.eps", {"float": [5e-324, 1.0], "log": True})]
REGRESSIONS += [edited("space/Generator.small_kernel_size", {"int": [3, 9]})]
REGRESSIONS += [edited(f"space/{PATIENCE}", {"choice": list(range(4000))})]
REGRESSIONS += [edited("objective/max_steps", 10**12) | {"space": {PRETRAIN: {"int": [1, 10**11]}}}]


@fuzz(300, *REGRESSIONS)
@given(mutated(STUDIES))
def test_a_mutated_study(folder, document):
    loaded_study(put(folder / "study.yaml", yaml.safe_dump(document, sort_keys=False).encode()))


@fuzz(300, with_values(BASE, {"Schedulers.metric_g": ""}))
@given(mutated(TRAININGS))
def test_a_mutated_training(folder, document):
    loaded_training(put(folder / "training.yaml", yaml.safe_dump(document, sort_keys=False).encode()))


def test_a_study_without_end_is_foreseen(folder):
    file = put(folder / "study.yaml", yaml.safe_dump(edited("search/trials", 10**9)).encode())
    sharing, saved, total = answer(expected_savings, load_study(file)[0], 10**9)
    assert 0 < saved < total
    assert 0 < sharing <= 10**9


# Imagery.


def tiff(image, nodata=None, **profile):
    count, height, width = image.shape
    shape = {"count": count, "height": height, "width": width, "dtype": image.dtype}
    with warnings.catch_warnings(action="ignore"), rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", nodata=nodata, **shape, **profile) as out:
            out.write(image)
        return file.read()


def written(save, *arguments, **options):
    found = io.BytesIO()
    save(found, *arguments, **options)
    return found.getvalue()


def picture(image, kind, **options):
    return written(Image.fromarray(image).save, kind, **options)


VRT = '<VRTDataset rasterXSize="256" rasterYSize="96">' + "".join(
    f'<VRTRasterBand dataType="UInt16" band="{band}"><SimpleSource><SourceFilename>{{0}}</SourceFilename>'
    f'<SourceBand>{band}</SourceBand><SrcRect xOff="400" yOff="400" xSize="256" ySize="96"/>'
    '<DstRect xOff="0" yOff="0" xSize="256" ySize="96"/></SimpleSource></VRTRasterBand>'
    for band in (1, 2, 3)
)


def virtual(source):
    return VRT.format(source).encode() + b"</VRTDataset>"


SCENE = (textured() * 255).astype("uint8")
FILES = {
    "plain.tif": tiff(SCENE),
    "tiled.tif": tiff(SCENE, tiled=True, blockxsize=64, blockysize=64, compress="deflate"),
    "float.tif": tiff(textured(), nodata=0.5, compress="lzw"),
    "rgb.png": picture(SCENE.transpose(1, 2, 0), "PNG"),
    "deep.png": picture(SCENE[0].astype("uint16") * 99, "PNG"),
    "bits.png": picture(SCENE[0] > 99, "PNG"),
    "a.jpg": picture(SCENE.transpose(1, 2, 0), "JPEG"),
    "a.webp": picture(SCENE.transpose(1, 2, 0), "WEBP", lossless=True),
    "a.bmp": picture(SCENE.transpose(1, 2, 0), "BMP"),
    "a.jp2": picture(SCENE.transpose(1, 2, 0), "JPEG2000"),
    "a.ppm": picture(SCENE.transpose(1, 2, 0), "PPM"),
    "a.vrt": virtual(SAMPLE),
    "a.npy": written(np.save, textured()),
    "b.npy": written(np.save, SCENE.transpose(1, 2, 0)),
    "a.npz": written(np.savez_compressed, SCENE),
}
BANDS = {"deep.png": 1, "bits.png": 1}


@st.composite
def damaged(draw, whole):
    """Bits flipped, words overwritten, parts cut out or repeated; much of it near the ends, where headers are."""
    found = bytearray(whole)
    edits = st.sampled_from(["flip", "flip", "word", "cut", "repeat", "truncate"])
    for edit in draw(st.lists(edits, min_size=1, max_size=3)):
        at = draw(st.integers(0, 200) | st.integers(-200, -1) | st.integers(0, len(whole))) % max(len(found), 1)
        if edit == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "word":
            found[at : at + 4] = struct.pack("<I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**32 - 1])))
        elif edit == "truncate":
            del found[at:]
        else:
            part = slice(at, at + draw(st.integers(1, 64)))
            found[part] = found[part] * (2 if edit == "repeat" else 0)
    return bytes(found)


def damaged_files():
    return st.sampled_from(sorted(FILES)).flatmap(lambda name: st.tuples(st.just(name), damaged(FILES[name])))


def seen(**dotted):
    """Load imagery; where it loads, a batch can be cut of it. Pixels may be any number: overflows are no matter."""
    images._loaded.clear()

    def ask():
        configuration = tiny(**dotted)
        found = images.load_imagery(configuration, CPU)
        lr, hr = found.batch(0, "train", 0, 2)
        crop, bands = configuration.Data.crop_size, configuration.Model.in_bands
        assert (hr.shape, lr.shape) == ((2, bands, crop, crop), (2, bands, crop // 4, crop // 4))
        return found.describe()

    with warnings.catch_warnings(action="ignore"):
        return answer(ask)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_seen(folder, name):
    path = put(folder / name, FILES[name])
    assert seen(**{"Data.path": str(path), "Model.in_bands": BANDS.get(name, 3)}) is not None


@fuzz(200)
@given(st.tuples(damaged_files(), damaged_files()))
def test_damaged_images(folder, files):
    for at, (name, content) in enumerate(files):  # the second often under another kind's name
        other = f"a{sorted(suffixes())[len(content) % 7]}"
        path = put(folder / (other if at and len(content) % 2 else name), content)
        seen(**{"Data.path": str(path), "Model.in_bands": BANDS.get(name, 3)})
        path.unlink()


FILLS = {
    "texture": lambda shape, draw: draw.random(shape) * 200,
    "constant": lambda shape, draw: np.full(shape, 7.0),
    "nan": lambda shape, draw: np.full(shape, math.nan),
    "inf": lambda shape, draw: np.where(draw.random(shape) < 0.001, math.inf, draw.random(shape)),
    "huge": lambda shape, draw: draw.random(shape) * 1e300,
    "holes": lambda shape, draw: np.where(draw.random(shape) < 0.001, math.nan, draw.random(shape)),
}
KINDS = ["f4", "f8", "f2", ">f4", "g", "u1", ">u2", "i8", "u8", "?", "c8", "m8[s]", "M8[s]", "O", "S3", "V4"]
sizes = st.sampled_from([0, 1, 3, 4, 15, 16, 17, 96, 100])
odd_shapes = st.tuples(st.sampled_from([3, 1, 4, 0]), sizes, sizes) | st.lists(sizes, max_size=3).map(tuple)
shapes = st.sampled_from([(3, 96, 256)] * 3 + [(96, 256, 3), (3, 20, 20), (1, 3, 96, 256)]) | odd_shapes
PLAIN = ("texture", "f4", (3, 96, 256))
scenes = st.just(PLAIN) | st.tuples(st.sampled_from(sorted(FILLS)), st.sampled_from(KINDS[:6] * 3 + KINDS), shapes)
DOTTED = {
    "Data.crop_size": [16, 32, 96, 4096, 2**20, 2**40],
    "Data.val_fraction": [0.01, 0.5, 0.99],
    "Data.val_side": ["left", "top"],
    "Data.nodata": [7.0, math.nan, math.inf, 1e308, -1.0],
    "Data.percentiles": [[0.0, 100.0], [5e-324, 1e-300], [99.0, 100.0]],
    "Data.normalization": ["identity", "scale"],
    "Data.scale": [[0.0, 5e-324], [-1e300, 1e300], [0.0, 255.0]],
    "Data.dataset_type": ["LRHRFolderDataset"],
    "Nash.validation_pairs": [65, 10**9],
}
dotted_values = st.sampled_from([(key, value) for key, values in DOTTED.items() for value in values])
WERE = [([PLAIN] * 2, {"Data.crop_size": 2**20}), ([("texture", "f4", (3, 20, 20))] * 2, {"Data.val_fraction": 0.99})]
WERE += [([("texture", kind, (3, 96, 256))], {}) for kind in ("c8", "?", "m8[s]")]
WERE += [([("huge", "f8", (3, 96, 256))], {})]
WERE += [([PLAIN] * 3, {"Data.dataset_type": "LRHRFolderDataset"})]


@fuzz(200, *WERE)
@given(st.tuples(st.lists(scenes, min_size=1, max_size=3), st.lists(dotted_values, max_size=2).map(dict)))
def test_any_arrays(folder, scenes_and_settings):
    scenes, dotted = scenes_and_settings
    files = []
    for at, (fill, kind, shape) in enumerate(scenes):
        with warnings.catch_warnings(action="ignore"):
            array = FILLS[fill](shape, np.random.default_rng(at))
            array = array.astype("i8" if kind[0] in "mM" else "f8").astype(kind)
        paired = "Data.dataset_type" in dotted
        place = ("train/HR/a.npy", "train/LR/a.npy", "val/HR/a.npy")[at] if paired else f"{at}.npy"
        files.append(put(folder / "scenes" / place, written(np.save, array)))
    seen(**{"Data.path": str(folder / "scenes"), "Data.root_dir": str(folder / "scenes")} | dotted)
    for file in files:
        file.unlink()


def npy_that_claims(*shape):
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64


def png_that_claims(width, height):
    found = bytearray(FILES["rgb.png"])
    found[16:24] = struct.pack(">II", width, height)
    found[29:33] = struct.pack(">I", zlib.crc32(found[12:29]))
    return bytes(found)


def tiff_that_claims(path, side):
    """A sparse one: no block is written, all are there."""
    shape = {"count": 3, "height": side, "width": side, "dtype": "uint8", "blockxsize": 8192, "blockysize": 8192}
    with warnings.catch_warnings(action="ignore"):
        rasterio.open(path, "w", driver="GTiff", tiled=True, compress="deflate", SPARSE_OK=True, **shape).close()
    return path.read_bytes()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 256 96\n%%EndComments\nshowpage\n%%EOF\n"
REFUSED = {
    "huge.npy": lambda folder: npy_that_claims(3, 10**6, 10**6),
    "large.npy": lambda folder: npy_that_claims(3, 40_000, 40_000),
    "overflowing.npy": lambda folder: npy_that_claims(2**40, 2**40, 2**40),
    "negative.npy": lambda folder: npy_that_claims(3, -96, 256),
    "huge.png": lambda folder: png_that_claims(2**31 - 1, 2**31 - 1),
    "large.png": lambda folder: png_that_claims(10_000, 10_000),
    "huge.tif": lambda folder: tiff_that_claims(folder / "sparse.tif", 65_536),
    "empty.npz": lambda folder: written(np.savez),
    "empty.npy": lambda folder: b"",
    "pickle.npy": lambda folder: pickle.dumps(Payload(folder / "executed")),
    "object.npy": lambda folder: written(np.save, np.array([Payload(folder / "executed")], object)),
    "object.npz": lambda folder: written(np.savez, np.array([Payload(folder / "executed")], object)),
    "vrt.tif": lambda folder: virtual(put(folder / "a.tif", FILES["plain.tif"])),
    "eps.png": lambda folder: EPS,  # Pillow would have Ghostscript draw it
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_claims_too_much_or_names_others_is_refused(folder, name):
    assert seen(**{"Data.path": str(put(folder / name, REFUSED[name](folder)))}) is None


@pytest.mark.parametrize(("side", "fits"), [(2000, False), (200, True)])
def test_an_image_larger_than_memory_is_refused(tmp_path, monkeypatch, side, fits):
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)  # 4 MB
    image = np.random.default_rng(0).integers(0, 255, (3, side, side), "uint8")
    assert (seen(**{"Data.path": str(put(tmp_path / "a.tif", tiff(image)))}) is not None) == fits


@pytest.mark.parametrize("path", ["x" * 300, "/dev/null", "/dev/null/x", "a\0b", "~nobody/x"])
def test_a_path_that_is_none(path):
    assert seen(**{"Data.path": path}) is None


# Checkpoints, snapshots, winners.

LONG = {"Training.g_pretrain_steps": 16}


@pytest.fixture(scope="module")
def trained():
    """A state of the game, its imagery, and the snapshots of its pretraining at steps 4 and 8."""
    state, imagery = begun(**LONG)
    snapshots = {}
    for _ in itertools.islice(train(state, imagery), 12):
        if state.step in (4, 8):
            snapshots[state.step] = pack(state)
    assert state.discriminator is not None
    return state, imagery, snapshots


@pytest.fixture(scope="module")
def winner(trained):
    """What a best.pt holds."""
    state = trained[0]
    figures = {"low": 0.0, "high": 1.0, "step": state.step}
    return {"generator": state.judged.state_dict(), "configuration": state.configuration.model_dump_json()} | figures


def packed(content, **options):
    return written(lambda file: torch.save(content, file, **options))


@st.composite
def altered(draw, content):
    """A saved dictionary of which parts were replaced, deleted or added, on any level."""
    found = copy.deepcopy(content)
    tensors = [torch.zeros(()), torch.zeros(0), torch.full((2, 2), math.nan), torch.zeros(3, dtype=torch.int8)]
    values = st.sampled_from([*tensors, [], {}, None]) | numbers | st.sampled_from(NAMES[:7]) | st.booleans()
    for edit in draw(st.lists(st.sampled_from(["replace", "delete", "add"]), min_size=1, max_size=3)):
        holder, key = draw(st.sampled_from(places(found) or [(found, "x")]))
        if edit == "delete" and holder:
            del holder[key]
        elif edit == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", 0, "step"]))] = draw(values)
        else:
            holder[key] = draw(values)
    return found


def foreign(mark):
    """Files of other kinds."""
    return {
        "nothing": b"",
        "text": b"hello",
        "pickle": pickle.dumps(Payload(mark)),
        "torch's pickle": packed({"step": Payload(mark)}),
        "torch's old pickle": packed(Payload(mark), _use_new_zipfile_serialization=False),
        "list": packed([1, 2]),
        "number": packed(3),
        "dictionary": packed({"a": torch.zeros(2)}),
        "archive": FILES["a.npz"],
        "progress alone": packed({"step": 5, "readings": [], "scale": [0.0, 1.0]}),
    }


def gone_on_from(folder, content, configuration):
    """A checkpoint that loads is one that a training can go on from."""
    found = answer(State.load, put(folder / "checkpoint.pt", content), configuration, CPU)
    if found is not None:
        assert found.step >= 0
        assert all(isinstance(value, int | float) for reading in found.readings for value in reading.values())
    return found


def test_a_whole_checkpoint_and_a_whole_winner_load(folder, trained, winner):
    assert gone_on_from(folder, packed(trained[0].content()), trained[0].configuration).step == trained[0].step
    assert answer(upscaled, put(folder / "best.pt", packed(winner))) == 1


@fuzz(120)
@given(data=st.data())
def test_a_damaged_checkpoint(folder, trained, data):
    gone_on_from(folder, data.draw(damaged(packed(trained[0].content()))), trained[0].configuration)


@fuzz(80)
@given(data=st.data())
def test_an_altered_checkpoint(folder, trained, data):
    gone_on_from(folder, packed(data.draw(altered(trained[0].content()))), trained[0].configuration)


@pytest.mark.parametrize("name", foreign(""))
def test_a_foreign_checkpoint_or_winner_is_refused(folder, name):
    path = put(folder / "foreign.pt", foreign(folder / "executed")[name])
    assert answer(State.load, path, tiny(), CPU) is None
    assert answer(load_generator, path) is None


@pytest.mark.parametrize("other", ["Generator.n_channels", "Discriminator.base_channels", "Training.EMA.enabled"])
def test_a_checkpoint_of_another_configuration_is_refused(folder, trained, other):
    values = {other: True if "EMA" in other else 8}
    assert gone_on_from(folder, packed(trained[0].content()), tiny(**LONG, **values)) is None


class Shared:
    """Whole snapshots at 4 and 8; whatever lies beside them, a trial starts, and what was wrong is told."""

    def __init__(self, trained, folder):
        state, imagery, self.contents = trained
        self.configuration, self.complaints, self.folder = state.configuration, [], folder / "pretraining"
        self.snapshots = Snapshots(storage_at(str(self.folder)), 1e9, self.complaints.append)
        self.pretraining = SharedPretraining.of(self.snapshots, [4, 8], self.configuration, imagery, CPU)
        for step, content in self.contents.items():
            self.keep(step, content)

    def keep(self, step, content):
        self.snapshots.keep(self.pretraining.path, step, lambda: content)

    def start(self):
        self.complaints.clear()
        return answer(self.pretraining.start, self.configuration, CPU, -1)  # beyond none: what says it is of step 0 too

    def file(self, name):
        return self.folder / self.pretraining.path / name


@pytest.fixture(scope="module")
def shared(trained, folder):
    return Shared(trained, folder)


@pytest.mark.parametrize("name", ["²", "-4", "x", "00000008.tmp", "9" * 200])
def test_what_is_no_snapshot_is_passed_over(shared, name):
    put(shared.file(name), b"foreign")
    assert shared.start().step == 8
    assert not shared.complaints
    shared.file(name).unlink()


@fuzz(100)
@given(data=st.data())
def test_a_damaged_snapshot_costs_a_complaint(shared, data):
    whole = shared.file("00000008").read_bytes()
    content = data.draw(damaged(whole))
    put(shared.file("00000008"), content)
    assert shared.start().step == (8 if content == whole else 4)
    assert len(shared.complaints) == (content != whole)
    put(shared.file("00000008"), whole)


@fuzz(80)
@given(data=st.data())
def test_a_sealed_snapshot_of_something_else_costs_a_complaint(shared, folder, data):
    inside = torch.load(io.BytesIO(shared.contents[8]), weights_only=True)
    others = foreign(folder / "executed")
    name = data.draw(st.sampled_from(["altered"] * 20 + list(others)))
    shared.keep(12, others[name] if name in others else packed(data.draw(altered(inside))))
    found = shared.start()
    assert (found is None) == bool(shared.complaints)
    assert found is None or (name == "altered" and found.content()["step"] >= 0)
    shared.file("00000012").unlink()


def upscaled(weights):
    """A winner that loads can be used."""
    generator = load_generator(weights)
    with torch.no_grad():
        image = generator.network(torch.zeros(1, generator.bands, 8, 8))
    assert image.shape[-1] == 8 * generator.factor
    return generator.high - generator.low


@fuzz(100)
@given(data=st.data())
def test_a_damaged_winner(folder, winner, data):
    answer(upscaled, put(folder / "best.pt", data.draw(damaged(packed(winner)))))


@fuzz(80)
@given(data=st.data())
def test_an_altered_winner(folder, winner, data):
    values = data.draw(st.dictionaries(st.sampled_from(KEYS), numbers | st.sampled_from(NAMES[:7]), max_size=1))
    configuration = with_values(yaml.safe_load(winner["configuration"]), values)
    content = winner | {"configuration": yaml.safe_dump(configuration, default_flow_style=True, width=10**6)}
    answer(upscaled, put(folder / "best.pt", packed(content if values else data.draw(altered(winner)))))


@pytest.mark.parametrize("key", ["n_channels", "n_blocks", "large_kernel_size"])
@pytest.mark.parametrize("value", [999, 10**5 + 1, 10**9 + 1])
def test_a_winner_that_claims_too_much_is_refused(folder, winner, key, value):
    configuration = Configuration.model_validate_json(winner["configuration"])
    claimed = configuration.Generator.model_copy(update={key: value})
    text = configuration.model_copy(update={"Generator": claimed}).model_dump_json()
    assert answer(load_generator, put(folder / "best.pt", packed(winner | {"configuration": text}))) is None


def arrays(shape, kind):
    return "a.npy", written(np.save, np.ones(shape, "i8").astype(kind))


@fuzz(50, arrays((3, 0, 5), "f4"), arrays((3, 4, 4), "f2"), arrays((3, 4, 4), ">u2"))
@given(damaged_files() | st.builds(arrays, odd_shapes | st.just((3, 4, 17)), st.sampled_from(KINDS)))
def test_upscaling_any_image(folder, winner, file):
    name, content = file
    weights, source = put(folder / "best.pt", packed(winner)), put(folder / f"upscaled_{name}", content)
    with warnings.catch_warnings(action="ignore"):
        answer(upscale, source, weights, folder / "out.tif")
