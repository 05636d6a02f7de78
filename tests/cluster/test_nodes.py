"""Studies on a cluster of several nodes: joined, submitted as jobs, refused where a node sees not what it should."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests.support.rays import cluster, node_without
from tests.support.service import ROOT, command, finish, wait_for, write_study
from tests.support.studies import loaded, small
from trainables.errors import InvalidInput
from tune_srgan.cluster import nodes as module


@pytest.fixture(scope="module")
def rays():
    with cluster(nodes=2, dashboard=True, on_head={"TUNE_SRGAN_STORAGE": "/of/the/head"}) as made:
        yield made


def dashboard(rays):
    return f"http://{rays.webui_url}"


def alive(address):
    """Nodes that train."""
    text = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    return int(subprocess.check_output(["python", "-c", text, address], text=True).split()[-1])


@pytest.mark.ray
def test_a_submitted_study_runs_on_the_head_and_is_followed(rays, tmp_path):
    write_study(tmp_path, trials=2, startup=2)
    shared, where = tmp_path / "shared", dashboard(rays)
    refused = command("submit", "tiny.yaml", "--address", where, cwd=tmp_path)
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "tiny.yaml: storage: found runs; expected an absolute path or a URL" in err
    told = ("--address", where, "--storage", str(shared))
    said = finish(command("submit", "tiny.yaml", *told, cwd=tmp_path))
    assert f"joined the Ray cluster at {rays.gcs_address}" in said
    assert said.count("64 held-out pairs") == 2  # both nodes looked at the imagery
    assert "2 trials: 2 exhausted" in said
    assert said.count("Winner") + said.count("No trial has kept the balance") == 1  # no line of the log comes twice
    assert len(list((shared / "tiny/trials").glob("*/outcome.json"))) == 2
    there = json.loads(finish(command("status", "tiny", "--json", *told, cwd=tmp_path)))
    assert there["trials"] == {"exhausted": 2}
    none = command("best", str(shared / "tiny"), "--address", where, cwd=tmp_path)
    none.communicate(timeout=60)
    assert none.returncode == 1
    said = finish(command("resume", "tiny", *told, cwd=tmp_path))
    assert "All trials of 'tiny' have ended" in said


@pytest.mark.ray
def test_what_a_node_does_not_see_is_said_before_anything_starts(rays, tmp_path):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("no mount namespace of one's own")
    file, hidden = write_study(tmp_path), tmp_path / "heads"
    hidden.mkdir()
    (tmp_path / "all").mkdir()
    with node_without(rays.gcs_address, hidden):
        wait_for(lambda: alive(rays.gcs_address) == 4, 60, 1)
        told = ("--address", rays.gcs_address)
        driver = command("run", "tiny.yaml", *told, "--storage", str(hidden), cwd=tmp_path)
        _, err = driver.communicate(timeout=90)
        assert driver.returncode == 2, err
        assert "storage: found a folder that" in err
        assert "does not share" in err
        assert not list(hidden.rglob("trial.json"))
        study = yaml.safe_load(file.read_text())
        study["training"]["Data"]["path"] = str(hidden / "scene.npy")
        file.write_text(yaml.safe_dump(study))
        np.save(hidden / "scene.npy", np.random.default_rng(0).random((3, 128, 256)).astype(np.float32))
        check = command("check", "tiny.yaml", *told, "--storage", str(tmp_path / "all"), cwd=tmp_path)
        _, err = check.communicate(timeout=90)
        assert check.returncode == 2, err
        assert "Data.path" in err
        assert "a path that every node sees" in err
        assert not list((tmp_path / "all").rglob("*"))


GPU_NODE, CPU_NODE = {"CPU": 8, "GPU": 1}, {"CPU": 8}


def grows(monkeypatch, *kinds, nodes=8, there=()):
    """A cluster with a head that trains nothing, nodes that are there, and those that may come."""
    monkeypatch.setattr(module, "alive_nodes", lambda: [{"Resources": dict(found)} for found in ({}, *there)])
    monkeypatch.setattr(module, "_growth", lambda: module.Growth([(kind, count) for kind, count in kinds], nodes))
    monkeypatch.setattr(module, "_is_ours", lambda: False)


def study_of(tmp_path, **resources):
    return loaded(tmp_path, small() | {"resources": {"gpus": 0.25} | resources})


def test_a_cluster_that_grows_from_none_is_asked_for_all_it_may_become(monkeypatch, tmp_path):
    study = study_of(tmp_path)
    grows(monkeypatch, (GPU_NODE, 8), (GPU_NODE, 8), (GPU_NODE, 8))
    assert module.slots(study) == 32  # four a GPU, on eight nodes of whatever kind
    assert module.has_gpus()
    assert module.has_others(study)
    grows(monkeypatch, (CPU_NODE, 8), (GPU_NODE, 2), ({"CPU": 64, "GPU": 8}, 1))
    assert module.slots(study) == 40  # one node of eight GPUs, two of one
    grows(monkeypatch, (GPU_NODE, 1), there=[GPU_NODE, GPU_NODE, GPU_NODE])
    assert module.slots(study) == 12
    assert module.slots(study_of(tmp_path, concurrent=3)) == 3


def test_what_a_cluster_can_never_hold_and_what_nobody_knows_are_one_error_each(monkeypatch, tmp_path):
    study = study_of(tmp_path)
    grows(monkeypatch, (CPU_NODE, 8))
    assert not module.has_gpus()
    with pytest.raises(InvalidInput, match=r"0\.25 GPU\(s\) for a trial"):
        module.slots(study)
    grows(monkeypatch, there=[GPU_NODE])
    assert module.slots(study) == 4
    assert not module.has_others(study)
    grows(monkeypatch)
    with pytest.raises(InvalidInput, match="Give --concurrent"):
        module.slots(study)
    assert module.slots(study_of(tmp_path, concurrent=32)) == 32


def test_a_file_that_says_nothing_of_growth_is_none():
    for config in (None, [], "", {"max_workers": "many"}, {"max_workers": 2}):
        assert module.growth_of(config) == module.Growth([], 0)


CLOSE = """
import ray, sys
from tune_srgan.cluster import nodes

class Worker:
    def close(self, reason):
        nodes.close_this_node(reason)

    def node(self):
        return nodes.whereabouts()[0]

ray.init(sys.argv[1], logging_level="ERROR")
start = ray.remote(num_cpus=1)(Worker).remote
first = start()
closed = ray.get(first.node.remote())
ray.get(first.close.remote("its GPU fell off the bus"))
assert ray.get(first.node.remote()) == closed  # what is at work there goes on
ray.kill(first)
for _ in range(3):
    other = start()
    assert ray.get(other.node.remote(), timeout=60) != closed
    ray.kill(other)
print("closed")
"""


@pytest.mark.ray
def test_no_trial_comes_to_a_node_that_was_closed(tmp_path):
    with cluster(nodes=2) as made:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        told = [sys.executable, "-c", CLOSE, made.gcs_address]
        said = subprocess.run(told, capture_output=True, text=True, timeout=120, env=environment)
    assert said.stdout.split() == ["closed"], said.stderr


@pytest.mark.ray
def test_what_no_node_can_hold_is_said_at_once(tmp_path):
    file = write_study(tmp_path)
    study = yaml.safe_load(file.read_text())
    study["resources"] |= {"cpus": 1000}
    file.write_text(yaml.safe_dump(study))
    driver = command("run", "tiny.yaml", "--address", "local", cwd=tmp_path)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 2
    assert "resources: found 1000 CPU(s) and 0 GPU(s) for a trial" in err
