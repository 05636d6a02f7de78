"""The cluster files pass Ray's own validation, and ours of what that lets pass; so does the lock they install from."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import boto3
import moto
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.autoscaler.tags import (
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from tests.support.service import ROOT
from tune_srgan.cluster.nodes import growth_of
from tune_srgan.study.loading import load_study

FILES = {
    "aws": ROOT / "ray_cluster.yaml",
    "gcp": ROOT / "clusters/gcp.yaml",
    "local": ROOT / "clusters/local.yaml",
    "kuberay": ROOT / "clusters/kuberay.yaml",
}
LOCK = (ROOT / "clusters/requirements.lock").read_text(encoding="utf-8")
LOCKED = re.findall(r"--extra (\w+)", LOCK)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CLUSTER = {one.name: str(one.specifier) for one in map(Requirement, EXTRAS["cluster"])}
RAY, TORCH = (CLUSTER[name].removeprefix("==") for name in ("ray", "torch"))
IMAGE_TAG = f"{RAY}-py311-cu130"
LAUNCHER_COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
SECRET_VALUE = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-f]{32}|[A-Za-z0-9+/]{40}")
SECRET_NAME = re.compile(r"(?i)(.+[_-](key|token)|(.*[_-])?(password|secret|token))$")
GONE = object()
NEEDED = ("clusters", "data", "search_spaces", "trainables", "tune_srgan", "pyproject.toml", "tune.py")


def load(kind: str) -> dict[str, Any]:
    return yaml.safe_load(FILES[kind].read_text(encoding="utf-8"))


def problems(kind: str, config: dict[str, Any]) -> list[str]:
    """What is wrong with a cluster file: ours first, Ray's where we see nothing."""
    checks = [*exposures(config), *(kuberay(config) if kind == "kuberay" else launcher(kind, config))]
    found = [problem for fine, problem in checks if not fine]
    try:
        ask_ray(kind, copy.deepcopy(config))
    except Exception as error:  # each of its parts refuses in its own way
        found = found or [f"Ray: {type(error).__name__}: {error}"]
    return found


def ask_ray(kind: str, config: dict[str, Any]) -> None:
    """What `ray up` checks before it asks a cloud for anything, and KubeRay's autoscaler when it starts."""
    if kind == "kuberay":
        cluster = {"metadata": config["metadata"], "spec": config["spec"]["rayClusterSpec"]}
        validate_config(_derive_autoscaling_config_from_ray_cr(cluster))
    else:
        validate_config(prepare_config(config))


def exposures(config: Any, name: str = "") -> Iterator[tuple[bool, str]]:
    """Open addresses and secrets, in every value, assignment of a command and literal of an environment."""
    if isinstance(config, (dict, list)):
        if isinstance(config, dict) and {"name", "value"} <= config.keys():
            yield from exposures(config["value"], config["name"])
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from exposures(value, str(key))
        return
    text = str(config)
    yield "0.0.0.0" not in text, f"{name} is open to every address"
    assigned = [(name, text), *re.findall(r"([\w-]+)=([^\s;]+)", text)]
    named = any(SECRET_NAME.match(key) and "/" not in value for key, value in assigned)  # a path is none
    yield not (named or SECRET_VALUE.search(text)), f"{name} looks like a secret"


def launcher(kind: str, config: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """What Ray's launcher does not look at, for machines it starts itself or reaches by ssh."""
    commands = {part: config.get(f"{part}_commands", []) for part in LAUNCHER_COMMANDS}
    starts = [line for part in LAUNCHER_COMMANDS for line in commands[part] if "ray start" in line]
    head = next((line for line in starts if "--head" in line), "")
    everything = [line for part in commands.values() for line in part]
    yield "cluster_name" in config, "no cluster_name"
    yield config.get("max_workers", 0) > 0, "no max_workers"
    yield config.get("idle_timeout_minutes", 0) > 0, "no idle_timeout_minutes"
    mounts = config.get("file_mounts", {})
    yield all(mounts.get(f"~/tune-srgan/{part}") == part for part in NEEDED), "the checkout does not reach the nodes"
    yield "." not in mounts.values(), "Ray reads the whole checkout"
    yield "~/.ray/auth_token" in mounts, "no token reaches the nodes"
    yield all(line.startswith(". ~/tune-srgan/clusters/node.sh; ") for line in starts), "Ray starts without node.sh"
    yield "--dashboard-host=127.0.0.1" in head, "the dashboard is not the head's alone"
    yield any("setup_node.sh" in line for line in commands["setup"]), "the nodes do not install the lock"
    yield any("TUNE_SRGAN_STORAGE=" in line for line in commands["setup"]), "no storage that the nodes share"
    yield not any(re.search(r"\b(pip|conda|uv)\b", line) for line in everything), "versions beside the lock's"
    yield from on_premises(config, head) if kind == "local" else cloud(kind, config)


def on_premises(config: dict[str, Any], head: str) -> Iterator[tuple[bool, str]]:
    provider = config["provider"]
    yield bool(provider.get("head_ip") and provider.get("worker_ips")), "no addresses"
    yield "--num-cpus=0" in head and "--num-gpus=0" in head, "the head takes trials"
    # none would ever be started later; see the file
    yield config.get("min_workers") == config.get("max_workers"), "not all machines join"
    yield "RAY_enable_autoscaler_v2=0" in head, "the newer autoscaler starts no second machine"


def cloud(kind: str, config: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    provider, types = config["provider"], dict(config["available_node_types"])
    machine = {"aws": "InstanceType", "gcp": "machineType"}[kind]
    region, zones = provider.get("region"), provider.get("availability_zone")
    yield bool(region), "no region"
    yield bool(zones) and all(zone.startswith(region or zone) for zone in zones.split(",")), "no zone of the region"
    yield kind != "gcp" or "project_id" in provider, "no project_id"
    for name, node_type in types.items():
        node = node_type["node_config"]
        yield machine in node, f"{name}: no {machine}"
        if kind == "aws":
            yield bool(re.fullmatch(r"ami-[0-9a-f]{17}", node.get("ImageId", ""))), f"{name}: no pinned image"
            yield "IamInstanceProfile" in node, f"{name}: no instance profile"
        else:
            disk = node["disks"][0]["initializeParams"]
            yield bool(re.search(r"/images/[^/]+-v\d{8}$", disk.get("sourceImage", ""))), f"{name}: no pinned image"
            yield disk["diskType"].split("/")[1] == zones, f"{name}: a disk of another zone"
    head = types.pop(config["head_node_type"])
    yield head["resources"].get("CPU") == 0 and not head["resources"].get("GPU"), "the head takes trials"
    yield not is_spot(head["node_config"]), "the head is on spot"
    yield len(types) > 1, "one type of GPU node alone: a study stops when it is sold out"
    heard = [line for line in config["worker_start_ray_commands"] if "tune_srgan.cluster.preemption" in line]
    yield bool(heard), "nobody hears of a preemption"
    for name, node_type in types.items():
        yield is_spot(node_type["node_config"]), f"{name}: not on spot"
        yield node_type.get("min_workers") == 0, f"{name}: does not start from none"
        yield kind == "aws" or node_type["resources"].get("GPU", 0) > 0, f"{name}: no GPU"  # AWS: Ray looks it up


def is_spot(node: dict[str, Any]) -> bool:
    aws, gcp = node.get("InstanceMarketOptions", {}), node.get("scheduling", {})
    return aws.get("MarketType") == "spot" or gcp.get("provisioningModel") == "SPOT"


def kuberay(config: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    spec = config["spec"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    yield (config.get("apiVersion"), config.get("kind")) == ("ray.io/v1", "RayJob"), "no RayJob"
    yield "name" in config["metadata"], "no cluster_name"
    yield bool(re.match(r"python tune\.py run \S+ --storage (s3|gs)://", spec.get("entrypoint", ""))), "no study"
    yield "--concurrent " in spec.get("entrypoint", ""), "nobody knows how many at once"
    yield "--take-over" in spec.get("entrypoint", ""), "a lost head is not followed"
    yield spec.get("shutdownAfterJobFinishes") is True, "goes on costing after the study"
    yield cluster.get("rayVersion") == RAY, f"rayVersion is not {RAY}"
    yield cluster.get("authOptions") == {"mode": "token"}, "no token"
    yield cluster.get("enableInTreeAutoscaling") is True, "no autoscaling"
    yield cluster.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) > 0, "no idle_timeout_minutes"
    yield head["rayStartParams"].get("num-cpus") == "0", "the head takes trials"
    yield gpus(head) == 0, "the head has a GPU"
    for group in (head, *workers):
        images = [container["image"].partition(":")[2] for container in group["template"]["spec"]["containers"]]
        yield set(images) == {IMAGE_TAG}, f"{group.get('groupName', 'head')}: the image is not of {IMAGE_TAG}"
    for group in workers:
        selector = group["template"]["spec"].get("nodeSelector", {})
        yield group.get("minReplicas") == group.get("replicas") == 0, "does not start from none"
        yield group.get("maxReplicas", 0) > 0, "no max_workers"
        yield gpus(group) > 0, "no GPU"
        yield any("spot" in label for label in selector), "not on spot"
        hooks = [container.get("lifecycle", {}) for container in group["template"]["spec"]["containers"]]
        yield (
            all("tune_srgan.cluster.preemption --now" in str(hook.get("preStop")) for hook in hooks),
            "nobody hears of a preemption",
        )


def gpus(group: dict[str, Any]) -> int:
    containers = group["template"]["spec"]["containers"]
    return sum(container["resources"]["limits"].get("nvidia.com/gpu", 0) for container in containers)


def lock_problems(lock: str) -> list[str]:
    """What is wrong with the lock, for this project."""
    found, locked = [], {}
    for entry in re.split(r"\n(?=\S)", "\n".join(line for line in lock.splitlines() if not line.startswith("#"))):
        first, *rest = (line.removesuffix(" \\").strip() for line in entry.splitlines())
        name, _, locked_version = first.partition("==")
        locked[name] = locked_version
        if not rest or not all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in rest):
            found.append(f"{first}: not by hashes alone")
    for wanted in map(Requirement, sum((EXTRAS[extra] for extra in LOCKED), start=PROJECT["dependencies"])):
        version = locked.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted}: the lock has {version}")
    return found


def put(path: str, value: Any) -> Any:
    """A change of one value of a file; GONE takes it out."""

    def change(config: Any) -> None:
        *parents, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
        for key in parents:
            config = config[key]
        if value is GONE:
            del config[last]
        else:
            config[last] = value

    return change


RUN = "python tune.py run a.yaml --storage s3://b/c"
POD = "spec/rayClusterSpec/headGroupSpec/template/spec/containers/0"
GPU_POD = "spec/rayClusterSpec/workerGroupSpecs/0"


@pytest.mark.parametrize("kind", FILES)
def test_a_cluster_file_has_no_problem(kind):
    assert problems(kind, load(kind)) == []


@pytest.mark.parametrize("kind", FILES)
def test_five_places_are_marked(kind):
    assert sorted(re.findall(r"# EDIT (\d+): ", FILES[kind].read_text(encoding="utf-8"))) == list("12345")


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("aws", put("cluster_name", GONE), "no cluster_name"),
        ("aws", put("provider/region", GONE), "no region"),
        ("aws", put("provider/availability_zone", "eu-west-1a"), "no zone"),
        ("aws", put("provider/type", GONE), "Ray: "),
        ("aws", put("available_node_types/l4/node_config/InstanceType", GONE), "l4: no InstanceType"),
        ("aws", put("available_node_types/l4/node_config/ImageId", "resolve:ssm:/a/b"), "l4: no pinned image"),
        ("aws", put("available_node_types/l4/node_config/InstanceMarketOptions", {}), "l4: not on spot"),
        ("aws", put("available_node_types/l4/min_workers", 1), "l4: does not start from none"),
        ("aws", put("available_node_types/l4/resources/GPU", -1), "Ray: "),
        ("aws", put("available_node_types/head/resources", {"CPU": 2}), "the head takes trials"),
        ("aws", put("available_node_types/head/node_config/InstanceMarketOptions", {"MarketType": "spot"}), "spot"),
        ("aws", put("max_workers", 0), "no max_workers"),
        ("aws", put("idle_timeout_minutes", 0), "no idle_timeout"),
        ("aws", put("no_such_knob", 1), "Ray: "),
        ("aws", put("head_start_ray_commands/0", "ray stop --address=0.0.0.0:6379"), "open to every address"),
        ("aws", put("head_start_ray_commands/1", ". ~/tune-srgan/clusters/node.sh; ray start --head"), "dashboard"),
        ("aws", put("worker_start_ray_commands/1", "ray start --address=$RAY_HEAD_IP:6379"), "without node.sh"),
        ("aws", lambda config: config["file_mounts"].pop("~/.ray/auth_token"), "no token"),
        ("gcp", lambda config: config["file_mounts"].pop("~/tune-srgan/search_spaces"), "does not reach the nodes"),
        ("local", lambda config: config["file_mounts"].update({"~/tune-srgan": "."}), "Ray reads the whole checkout"),
        ("aws", put("setup_commands/2", "pip install ray==2.59.0"), "versions beside the lock's"),
        ("aws", put("setup_commands/2", "export WANDB_API_KEY=abc"), "looks like a secret"),
        ("aws", put("setup_commands/2", "echo AKIAABCDEFGHIJKLMNOP"), "looks like a secret"),
        ("aws", put("worker_start_ray_commands/2", GONE), "nobody hears of a preemption"),
        ("gcp", put("provider/project_id", GONE), "no project_id"),
        ("gcp", put("provider/region", GONE), "no region"),
        ("gcp", put("available_node_types/a100/node_config/machineType", GONE), "a100: no machineType"),
        ("gcp", put("available_node_types/a100/resources", {"CPU": 12}), "a100: no GPU"),
        ("gcp", put("available_node_types/a100/node_config/scheduling", {}), "a100: not on spot"),
        ("gcp", put("available_node_types/head/resources", {"CPU": 0, "GPU": 1}), "the head takes trials"),
        ("local", put("provider/worker_ips", GONE), "no addresses"),
        ("local", put("min_workers", 0), "not all machines join"),
        ("local", put("setup_commands/0", "true"), "do not install the lock"),
        ("aws", put("setup_commands/1", GONE), "no storage"),
        ("kuberay", put("apiVersion", "ray.io/v1alpha1"), "no RayJob"),
        ("kuberay", put("spec/rayClusterSpec/rayVersion", "2.59.0"), "rayVersion"),
        ("kuberay", put("spec/rayClusterSpec/authOptions", GONE), "no token"),
        ("kuberay", put("spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", "2"), "the head takes trials"),
        ("kuberay", put("spec/rayClusterSpec/headGroupSpec/rayStartParams/dashboard-host", "0.0.0.0"), "open to"),
        ("kuberay", put(f"{POD}/image", "rayproject/ray:2.60.0-py312-cu130"), "head: the image"),
        ("kuberay", put(f"{POD}/env", [{"name": "WANDB_API_KEY", "value": "abc"}]), "looks like a secret"),
        ("kuberay", put(f"{GPU_POD}/minReplicas", 1), "does not start from none"),
        ("kuberay", put(f"{GPU_POD}/template/spec/containers/0/lifecycle", GONE), "nobody hears of a preemption"),
        ("kuberay", put("spec/entrypoint", f"{RUN} --take-over"), "how many at once"),
        ("kuberay", put("spec/entrypoint", f"{RUN} --concurrent 32"), "lost head"),
        ("kuberay", put(f"{GPU_POD}/template/spec/nodeSelector", GONE), "not on spot"),
        ("kuberay", put(f"{GPU_POD}/template/spec/containers/0/resources/limits/cpu", "many"), "Ray: "),
    ],
)
def test_each_mistake_is_one_problem(kind, change, problem):
    config = load(kind)
    change(config)
    found = problems(kind, config)
    assert len(found) == 1
    assert problem in found[0]


def test_ray_starts_these_machines_on_aws(tmp_path, monkeypatch):
    """All that Ray's launcher does there before the first ssh, against an AWS in this process."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a new ssh key there
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws():
        profile = boto3.client("iam").create_instance_profile(InstanceProfileName="tune-srgan")["InstanceProfile"]
        config = load("aws")
        for node_type in config["available_node_types"].values():
            node_type["node_config"]["IamInstanceProfile"] = {"Arn": profile["Arn"]}
        config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(config))
        config = AWSNodeProvider.bootstrap_config(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node_type in config["available_node_types"].items():
            role = "head" if name == config["head_node_type"] else "worker"
            tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_NODE_NAME: name, TAG_RAY_USER_NODE_TYPE: name}
            provider.create_node(node_type["node_config"], tags | {TAG_RAY_NODE_STATUS: "uninitialized"}, 1)
        reservations = boto3.client("ec2", config["provider"]["region"]).describe_instances()["Reservations"]
    started = [instance for reservation in reservations for instance in reservation["Instances"]]
    assert all(profile["Arn"] == instance["IamInstanceProfile"]["Arn"] for instance in started)
    assert {instance["InstanceType"]: instance.get("InstanceLifecycle") for instance in started} == {
        node_type["node_config"]["InstanceType"]: "spot" if node_type["resources"].get("GPU") else None
        for node_type in config["available_node_types"].values()
    }
    wanted = load_study(ROOT / "search_spaces/srgan.yaml")[0].resources
    assert growth_of(config).holds(wanted) == 4 * config["max_workers"]  # as the head finds it
    resources = {name: node_type["resources"] for name, node_type in config["available_node_types"].items()}
    assert resources.pop("head") == {"CPU": 0}
    assert {(found["CPU"], found["GPU"]) for found in resources.values()} == {(8, 1)}


@pytest.fixture
def checkout(tmp_path):
    """A checkout as people have it: a study of their own beside ours, an environment, links that lead nowhere."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "checkout" / name)
    place = tmp_path / "checkout"
    study = (place / "search_spaces/quickstart.yaml").read_text(encoding="utf-8")
    (place / "search_spaces/mine.yaml").write_text(study.replace("study: quickstart", "study: mine"))
    (place / ".venv/bin").mkdir(parents=True)
    for link in (".venv/bin/python", "imagery"):
        (place / link).symlink_to("/nowhere/at/all")
    return place


@pytest.mark.parametrize("kind", sorted(set(FILES) - {"kuberay"}))
def test_what_is_mounted_is_all_that_a_node_needs_and_nothing_else(kind, checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(checkout)
    mounts = {far: near for far, near in load(kind)["file_mounts"].items() if far.startswith("~/tune-srgan/")}
    hash_runtime_conf(mounts, None, load(kind))  # as `ray up` begins; it opens every file
    node = tmp_path / "node"
    for far, near in mounts.items():
        place = node / far.removeprefix("~/tune-srgan/")
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (checkout / near).is_dir() else shutil.copyfile)(checkout / near, place)
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for said in (
        ["-c", "import setuptools.build_meta as build; print(build.prepare_metadata_for_build_editable('.'))"],
        ["tune.py", "check", "search_spaces/mine.yaml"],
    ):
        done = subprocess.run([sys.executable, *said], cwd=node, env=outside, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "search_spaces/mine.yaml is a valid study" in done.stdout


def test_the_lock_is_of_this_project_and_by_hashes():
    assert LOCKED == ["cluster", "gcs", "postgres", "s3"]
    assert lock_problems(LOCK) == []
    assert "://" not in LOCK  # from whichever index a node uses


@pytest.mark.parametrize(
    ("pattern", "instead", "problem"),
    [
        (rf"^ray=={RAY}", "ray==2.59.0", f"ray[default,tune]=={RAY}: the lock has 2.59.0"),
        (r"^torch==[\s\S]*?\n(?=\w)", "", f"torch=={TORCH}: the lock has None"),
        (r"^(numpy==\S+) \\\n(    --hash\S+( \\)?\n)+", r"\1\n", "not by hashes alone"),
        (r"^(numpy==\S+ \\\n    --hash=)\S+", r"\1md5:0", "not by hashes alone"),
    ],
)
def test_a_wrong_lock_is_seen(pattern, instead, problem):
    wrong, times = re.subn(pattern, instead, LOCK, count=1, flags=re.MULTILINE)
    assert times == 1
    assert problem in "\n".join(lock_problems(wrong))


def test_what_the_nodes_run_is_of_the_same_versions():
    node, dockerfile = ((ROOT / "clusters" / name).read_text(encoding="utf-8") for name in ("node.sh", "Dockerfile"))
    assert "export RAY_AUTH_MODE=token" in node
    assert f"FROM rayproject/ray:{IMAGE_TAG}\n" in dockerfile
    assert f"torch=={TORCH}" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "sys.version_info[:2] != (3, 11)" in (ROOT / "clusters/setup_node.sh").read_text(encoding="utf-8")
    assert "--python-version 3.11 " in LOCK
