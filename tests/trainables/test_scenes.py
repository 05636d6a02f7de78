"""Scenes at a URL are fetched once a machine, large ones decoded once: one process does it, the others share."""

import os
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from tests.support.object_store import s3
from tests.support.service import ROOT
from tests.support.tiny import saved, textured, tiny
from trainables import cache as module
from trainables import decoding, scenes
from trainables.errors import InvalidInput
from trainables.imagery import Imagery

CPU = torch.device("cpu")
LOAD = """
import sys, torch
from tests.support.tiny import tiny
from trainables import decoding, imagery
decoding.SHARED_FROM = 0
made = imagery.Imagery(tiny(**{"Data.path": sys.argv[1]}), torch.device("cpu"))
print(made.digest, sum("lr.npy" in line or "hr.npy" in line for line in open("/proc/self/maps")))
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of one's own."""
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    return tmp_path / "machine"


@pytest.fixture(scope="module")
def bucket():
    with s3() as made:
        yield made


def put(url, image, tmp_path):
    """A scene at a URL."""
    np.save(tmp_path / "scene.npy", image)
    with fsspec.open(url, "wb") as file:
        file.write((tmp_path / "scene.npy").read_bytes())
    return url


def load(path):
    return Imagery(tiny(**{"Data.path": str(path)}), CPU)


def forget():
    """As another process would be: what this one uses is let go."""
    for lock in module._used.values():
        lock.close()
    module._used.clear()


def gets(bucket, name):
    return bucket.requests[f"GET {name}"]


def test_a_scene_at_a_url_is_fetched_once_and_again_when_it_changes(bucket, tmp_path):
    url = put(f"{bucket.url}/one/scene.npy", textured(seed=1), tmp_path)
    local = load(tmp_path / "scene.npy")
    before = gets(bucket, "scene.npy")
    assert load(url).digest == local.digest
    forget()
    assert load(url).digest == local.digest
    assert gets(bucket, "scene.npy") == before + 1
    put(url, textured(seed=2), tmp_path)
    forget()
    assert load(url).digest == load(tmp_path / "scene.npy").digest != local.digest
    assert gets(bucket, "scene.npy") == before + 2


def test_a_folder_at_a_url_keeps_its_structure(bucket, tmp_path):
    for part in ("train", "val"):
        high = textured(seed=len(part))
        low = high[:, ::4, ::4]
        for kind, image in (("HR", high), ("LR", low)):
            put(f"{bucket.url}/pairs/{part}/{kind}/a.npy", image, tmp_path)
            saved(tmp_path / "pairs" / part / kind / "a.npy", image)
    kind = {"Data.dataset_type": "LRHRFolderDataset"}
    here = Imagery(tiny(**kind, **{"Data.root_dir": str(tmp_path / "pairs")}), CPU)
    there = Imagery(tiny(**kind, **{"Data.root_dir": f"{bucket.url}/pairs"}), CPU)
    assert there.digest == here.digest


def test_a_taco_file_is_fetched_and_what_is_decoded_of_it_is_shared(bucket, monkeypatch, machine):
    pytest.importorskip("tacoreader")
    local = Path(__file__).with_name("pairs.taco")
    with fsspec.open(f"{bucket.url}/sen2naip/pairs.taco", "wb") as file:
        file.write(local.read_bytes())

    def digest(place):
        kind = {"Data.dataset_type": "SEN2NAIP", "Data.normalization": "normalise_10k", "Data.crop_size": None}
        return Imagery(tiny(**kind, **{"Data.sen2naip_taco_file": str(place)}), CPU).digest

    own = digest(local)
    assert digest(f"{bucket.url}/sen2naip/pairs.taco") == own
    monkeypatch.setattr(decoding, "SHARED_FROM", 0)
    assert digest(local) == own
    monkeypatch.setattr(scenes, "_read", lambda *_: pytest.fail("decoded again"))
    assert digest(local) == own
    assert len(list(machine.glob("imagery/scenes-*[0-9a-f]/"))) == 1


def test_a_copy_that_was_altered_is_fetched_again(bucket, tmp_path, machine):
    url = put(f"{bucket.url}/altered/scene.npy", textured(seed=3), tmp_path)
    digest = load(url).digest
    (copy,) = machine.glob("imagery/url-*/files/scene.npy")
    copy.write_bytes(copy.read_bytes()[:-4] + b"\1\2\3\4")
    forget()
    assert load(url).digest == digest


def test_where_the_store_is_away_a_copy_serves_and_without_one_it_is_one_error(bucket, tmp_path, monkeypatch):
    url = put(f"{bucket.url}/away/scene.npy", textured(seed=4), tmp_path)
    digest = load(url).digest
    forget()

    def away(*_, **__):
        raise OSError("503 Slow Down")

    monkeypatch.setattr(fsspec.core, "url_to_fs", away)
    assert load(url).digest == digest
    with pytest.raises(InvalidInput, match="503 Slow Down") as refused:
        load(f"{bucket.url}/never/scene.npy")
    assert refused.value.problems[0].key == "Data.path"


def test_what_is_wrong_with_a_url_is_one_error(bucket, monkeypatch, tmp_path):
    for url, found in ((f"{bucket.url}/nothing", "no imagery there"), ("nosuch://x/y", "cannot be read")):
        with pytest.raises(InvalidInput, match=found):
            load(url)
    url = put(f"{bucket.url}/large/scene.npy", textured(seed=5), tmp_path)
    monkeypatch.setenv("TUNE_SRGAN_CACHE_GB", "0.0001")
    with pytest.raises(InvalidInput, match="do not fit into .* its limit is 0.0001 GB"):
        load(url)


def test_two_who_want_the_same_fetch_it_once(bucket, tmp_path, monkeypatch):
    url = put(f"{bucket.url}/both/scene.npy", textured(seed=6), tmp_path)
    before, environment = gets(bucket, "scene.npy"), os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", LOAD, url], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert gets(bucket, "scene.npy") == before + 1
    assert said == {f"{load(tmp_path / 'scene.npy').digest} 2\n"}  # both map both pools


def test_large_scenes_are_decoded_once_and_to_the_bit(tmp_path, monkeypatch, machine):
    paths = [saved(tmp_path / "scenes" / f"{name}.npy", textured(seed=seed)) for seed, name in enumerate("ab")]
    own = load(tmp_path / "scenes")
    monkeypatch.setattr(decoding, "SHARED_FROM", 0)
    assert load(tmp_path / "scenes").digest == own.digest
    (entry,) = machine.glob("imagery/scenes-*[0-9a-f]/")
    monkeypatch.setattr(scenes, "_read", lambda *_: pytest.fail("decoded again"))
    shared = load(tmp_path / "scenes")
    assert shared.digest == own.digest
    assert [scene.name for scene in shared.scenes] == ["a.npy", "b.npy"]
    assert (shared.low, shared.high) == (own.low, own.high)
    assert all(torch.equal(one.hr, other.hr) for one, other in zip(shared.scenes, own.scenes, strict=True))
    monkeypatch.undo()
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(machine))
    monkeypatch.setattr(decoding, "SHARED_FROM", 0)
    saved(Path(paths[0]), textured(seed=7))
    assert load(tmp_path / "scenes").digest != own.digest
    assert len(list(machine.glob("imagery/scenes-*[0-9a-f]/"))) == 2


def test_where_there_is_no_room_every_process_has_its_own(tmp_path, monkeypatch, machine):
    path = saved(tmp_path / "scene.npy", textured())
    own = load(path)
    monkeypatch.setattr(decoding, "SHARED_FROM", 0)
    monkeypatch.setenv("TUNE_SRGAN_CACHE_GB", "0.0001")
    assert load(path).digest == own.digest
    assert not list(machine.glob("imagery/scenes-*[0-9a-f]/"))


def entry(folder, name, age, size=1000):
    def make():
        (folder / name / "content").write_bytes(b"x" * size)

    module.used(folder / name, make)
    os.utime(folder / name, (age, age))


def test_room_is_made_by_what_nobody_uses_the_oldest_first(tmp_path, monkeypatch):
    for age, name in enumerate(("a", "b", "c", "d")):
        entry(tmp_path, name, 100 + age)
    for name in ("b", "c", "d"):
        module._used.pop(tmp_path / name).close()  # `a` is the oldest, and used
    monkeypatch.setenv("TUNE_SRGAN_CACHE_GB", str(4e-6))
    module.make_room(tmp_path, 1500)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "d"]
    with pytest.raises(OSError, match="do not fit"):
        module.make_room(tmp_path, 3500)
    assert (tmp_path / "a").exists()


def test_what_a_killed_process_left_is_made_anew_and_what_failed_leaves_nothing(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "rest").touch()
    made = []

    def make():
        assert not (tmp_path / "half" / "rest").exists()
        made.append(1)

    module.used(tmp_path / "half", make)
    forget()
    module.used(tmp_path / "half", make)
    assert made == [1]
    with pytest.raises(RuntimeError):
        module.used(tmp_path / "bad", lambda: (_ for _ in ()).throw(RuntimeError))
    assert not (tmp_path / "bad").exists()
