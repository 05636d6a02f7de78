"""Training steps a second: ours, and opensr-srgan's where it is installed, on the same networks, batch, crop and data.

Cases S, M and L, pretraining and game. The two sides alternate in one process; the peer runs as its users run it: its
LightningModule, its data module, its Trainer arguments. That the networks are the same is checked before: the peer's
weights are loaded into ours, and both give the same images and logits.

    python benchmarks/throughput.py [--cases S M L] [--rounds 2] [--out throughput.json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.configuration import build_configuration
from trainables.dotted import with_values
from trainables.imagery import load_imagery
from trainables.names import from_opensr
from trainables.networks import Discriminator, Generator
from trainables.schema import Configuration
from trainables.state import State
from trainables.step import Stepper

CASES: dict[str, dict[str, Any]] = {
    "S": {
        "Data": {"crop_size": 96, "train_batch_size": 16},
        "Model": {"in_bands": 3},
        "Generator": {"model_type": "SRResNet", "n_blocks": 16, "n_channels": 64, "scaling_factor": 4},
        "Discriminator": {"model_type": "standard", "n_blocks": 8},
    },
    "M": {
        "Data": {"crop_size": 128, "train_batch_size": 16},
        "Model": {"in_bands": 4},
        "Generator": {"model_type": "esrgan", "n_blocks": 16, "n_channels": 64, "scaling_factor": 4},
        "Discriminator": {"model_type": "esrgan", "use_spectral_norm": False},
    },
}
CASES["L"] = CASES["M"] | {"Data": {"crop_size": 512, "train_batch_size": 6}}
PHASES = ("pretraining", "game")


def document(case: str, phase: str) -> dict[str, Any]:
    """A training's file for both sides, which stays in one phase; defaults are opensr-srgan's."""
    values = {
        "Data.normalization": "zero_one",
        "Training.device": "cuda",
        "Training.pretrain_g_only": phase == "pretraining",
        "Training.g_pretrain_steps": 10**9 if phase == "pretraining" else 0,
        "Training.adv_loss_ramp_steps": 500,
        "Training.label_smoothing": True,
        "Training.Losses.adv_loss_beta": 0.01,
        "Training.Losses.perceptual_weight": 0.0,
        "Optimizers.optim_g_lr": 1e-4,
        "Optimizers.optim_d_lr": 1e-5,
        "Schedulers.g_warmup_steps": 100,
        "Schedulers.g_warmup_type": "cosine",
        "Schedulers.metric_g": "val_metrics/l1",
        "Schedulers.metric_d": "validation/DISC_adversarial_loss",
    }
    return with_values(CASES[case], values)


def configuration_of(case: str, phase: str, scene: Path) -> Configuration:
    """The training here."""
    own = {
        "Data.path": str(scene),
        "Nash.validation_pairs": 64,
        "Training.precision": "bf16",
        "Training.max_steps": 10**7,
    }
    return build_configuration(with_values(document(case, phase), own), case, Path())


def write_scene(case: str, folder: Path) -> Path:
    """A scene of smooth noise, large enough for the case; what is in it does not change how long a step takes."""
    bands, crop = CASES[case]["Model"]["in_bands"], CASES[case]["Data"]["crop_size"]
    side = max(2048, 4 * crop)
    coarse = torch.from_numpy(np.random.default_rng(0).random((1, bands, side // 8, side // 8), np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, 2 * side), mode="bicubic")[0]
    path = folder / f"{case}.npy"
    np.save(path, smooth.clamp(0, 1).numpy())
    return path


def flops_of(case: str, phase: str) -> int:
    """Multiplications and additions of a step's convolutions and linear layers, forth and back, by torch's counter."""
    settings = build_configuration(CASES[case], case, Path())
    crop, batch, bands = settings.Data.crop_size, settings.Data.train_batch_size, settings.Model.in_bands
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        generator = Generator(bands, settings.Generator)
        low = crop // settings.Generator.scaling_factor
        sr = generator(torch.empty(batch, bands, low, low))
        total = sr.mean()
        if phase == "game":
            d = Discriminator(bands, settings.Discriminator)
            d(torch.empty(2 * batch, bands, crop, crop)).mean().backward()
            d.requires_grad_(False)
            total = total + d(sr).mean()
        total.backward()
    return int(counter.get_total_flops())


def measured_peak() -> float:
    """Floating-point operations a second of an 8192³ bfloat16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - began)


def begin(case: str, phase: str, scene: Path, **changed: Any) -> tuple[State, Stepper]:
    """A training at its first step; `changed` are other values of its Training section."""
    configuration = configuration_of(case, phase, scene)
    training = configuration.Training.model_copy(update=changed)
    configuration = configuration.model_copy(update={"Training": training})
    device = torch.device("cuda")
    state = State(configuration, device)
    return state, Stepper(state, load_imagery(configuration, device))


def our_rate(case: str, phase: str, scene: Path, steps: int, skip: int, **changed: Any) -> dict[str, Any]:
    """Steps a second of this project's step over `steps` steps after `skip`, and its peak memory in bytes."""
    _, stepper = begin(case, phase, scene, **changed)
    for losses in stepper.run(skip):
        losses.rows()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    plans = list(stepper.run(skip + steps))
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    assert plans[-1].rows()[:, 0].isfinite().all(), "the losses are not finite"
    return {"steps_per_s": steps / seconds, "peak_bytes": torch.cuda.max_memory_reserved()}


FAMILIES = {
    "dense layers": ("dense_layer",),
    "norms": ("norm_",),
    "after a convolution": ("finish_", "pixel_shuffle"),
    "sums over pixels": ("column_sums", "sum_shares", "sum_functor"),
    "weight gradients": ("wgrad", "weight_gradient"),
    "input gradients": ("dgrad",),
    "convolutions forward": ("fprop", "convolve"),
    "few bands": ("_taps",),
    "matrix products": ("gemm", "gemv", "dot_kernel", "cublas"),
    "optimiser": ("FusedOptimizer",),
    "copies and conversions": ("copy", "TensorListMetadata", "Memcpy", "AddPadding", "memset", "Memset", "index"),
}


def profile_of(case: str, phase: str, scene: Path) -> dict[str, Any]:
    """Where a step's time on the GPU goes: its kernels, its busy milliseconds, and their shares by family."""
    _, stepper = begin(case, phase, scene)
    steps = 25
    for losses in stepper.run(steps):
        losses.rows()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for losses in stepper.run(2 * steps):
            losses.rows()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return {"kernels": len(events) / steps} | families([(e.name, e.time_range.elapsed_us() / steps) for e in events])


def families(kernels: list[tuple[str, float]]) -> dict[str, Any]:
    """Busy milliseconds and the share of each family, of kernels' names and microseconds."""
    spent = dict.fromkeys([*FAMILIES, "others"], 0.0)
    for name, microseconds in kernels:
        family = next((family for family, marks in FAMILIES.items() if any(m in name for m in marks)), "others")
        spent[family] += microseconds
    busy = sum(spent.values())
    shares = {name: value / busy for name, value in sorted(spent.items(), key=lambda item: -item[1]) if value}
    return {"busy_ms": busy / 1e3, "shares": shares}


def peer_configuration(case: str, phase: str) -> Any:
    """The same training there, with what it requires besides."""
    from omegaconf import OmegaConf

    required = {
        "Data": {"dataset_type": "scenes", "val_batch_size": 4, "num_workers": 6},
        "Model": {"continue_training": False, "load_checkpoint": False},
        "Training": {"gpus": 1, "max_epochs": 1, "val_check_interval": 1.0, "limit_val_batches": 1},
        "Logging": {"num_val_images": 0, "wandb": {"enabled": False, "project": "throughput", "entity": None}},
    }
    return OmegaConf.merge(OmegaConf.create(document(case, phase)), required)


def differences(case: str, scene: Path) -> dict[str, float]:
    """How far, relatively, our networks' images and logits are from the peer's under its weights, in float32."""
    from opensr_srgan.model.SRGAN import SRGAN_model

    configuration = configuration_of(case, "game", scene)
    bands, crop = configuration.Model.in_bands, configuration.Data.crop_size
    low = crop // configuration.Generator.scaling_factor
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        theirs = SRGAN_model(config=peer_configuration(case, "game"))
    found = {}
    for name, ours, settings, side in (
        ("generator", Generator(bands, configuration.Generator), configuration.Generator, low),
        ("discriminator", Discriminator(bands, configuration.Discriminator), configuration.Discriminator, crop),
    ):
        peer = getattr(theirs, name).eval()
        from_opensr(ours, settings, peer.state_dict())
        with torch.no_grad():
            images = torch.rand(2, bands, side, side)
            expected, answer = peer(images), ours.eval()(images)
        found[name] = float((answer.flatten(1) - expected.flatten(1)).norm() / expected.norm())
    return found


def peer_rate(case: str, phase: str, crops: tuple[torch.Tensor, torch.Tensor], steps: int, skip: int) -> dict[str, Any]:
    """Steps a second of opensr-srgan over `steps` batches after `skip`, and its peak memory in bytes."""
    import pytorch_lightning as pl
    from opensr_srgan.data.dataset_selector import datamodule_from_datasets
    from opensr_srgan.model.SRGAN import SRGAN_model
    from opensr_srgan.utils.build_trainer_kwargs import build_lightning_kwargs
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

    config = peer_configuration(case, phase)
    batch = config.Data.train_batch_size
    lr, hr = crops

    class Crops(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, length: int) -> None:
            self.length = length

        def __len__(self) -> int:
            return self.length

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return lr[index % len(lr)], hr[index % len(hr)]

    class Clock(pl.Callback):
        began = ended = 0.0

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            if index + 1 == skip:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                self.began = time.perf_counter()
            elif index + 1 == skip + steps:
                torch.cuda.synchronize()
                self.ended = time.perf_counter()

    torch.set_float32_matmul_precision("medium")  # as its command line does
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False  # torch's defaults, not our step's
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        kwargs, _ = build_lightning_kwargs(
            config,
            CSVLogger(save_dir=folder),
            ModelCheckpoint(dirpath=folder, monitor="val_metrics/l1", mode="min", save_last=True, save_top_k=2),
            EarlyStopping(monitor="val_metrics/l1", patience=250, mode="min", check_finite=True),
        )
        kwargs["callbacks"].append(clock)
        data = datamodule_from_datasets(config, Crops((skip + steps) * batch), Crops(8))
        with (
            Path(os.devnull).open("w") as nothing,
            contextlib.redirect_stdout(nothing),
        ):  # its progress bar draws all the same
            pl.Trainer(**kwargs).fit(SRGAN_model(config=config), datamodule=data)
    torch.set_float32_matmul_precision("highest")
    return {"steps_per_s": steps / (clock.ended - clock.began), "peak_bytes": torch.cuda.max_memory_reserved()}


def describe_machine() -> dict[str, str]:
    """What the figures belong to."""
    found = {
        "device": torch.cuda.get_device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_cores": str(os.cpu_count()),
    }
    for package in ("triton", "opensr-srgan", "pytorch-lightning"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def main() -> None:
    """Measure in turns, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2, help="of ours and the peer's, in turns")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    machine = describe_machine()
    has_peer = "opensr-srgan" in machine
    peak = measured_peak()
    results: dict[str, Any] = {"machine": machine, "bf16_flops_per_s": peak, "cases": {}}
    print(f"{machine}\nmeasured bf16 peak {peak / 1e12:.0f} TFLOP/s")
    if not has_peer:
        print("opensr-srgan is not installed: ours alone")
    print("case  phase        ours it/s  peer it/s  ratio  ours TFLOP/s  of peak  ours GB  peer GB", flush=True)
    for case in chosen.cases:
        with tempfile.TemporaryDirectory() as folder:
            scene = write_scene(case, Path(folder))
            far = differences(case, scene) if has_peer else {}
            if far:
                results.setdefault("differences", {})[case] = far
                print("      the same networks, to " + ", ".join(f"{by:.1g} ({name})" for name, by in far.items()))
                assert max(far.values()) < 1e-5, "the two sides have different networks"
            for phase in PHASES:
                result = compare(case, phase, scene, chosen.rounds if has_peer else 1, has_peer)
                results["cases"].setdefault(case, {})[phase] = result
                mine, theirs = result["ours"], result.get("peer")
                rate = mine["steps_per_s"] * result["flops"]
                columns = [f"{case:5s} {phase:12s} {mine['steps_per_s']:9.1f}"]
                columns.append(f"{theirs['steps_per_s']:10.2f} {result['ratio']:6.1f}" if theirs else " " * 17)
                columns.append(f"{rate / 1e12:13.0f} {rate / peak:8.1%} {mine['peak_bytes'] / 1e9:8.1f}")
                columns.append(f"{theirs['peak_bytes'] / 1e9:8.1f}" if theirs else "")
                print(" ".join(columns))
                top = list(result["profile"]["shares"].items())[:5]
                print("      " + ", ".join(f"{name} {share:.0%}" for name, share in top), flush=True)
                if chosen.out:
                    chosen.out.write_text(json.dumps(results, indent=1))


def compare(case: str, phase: str, scene: Path, rounds: int, has_peer: bool) -> dict[str, Any]:
    """Ours and the peer's in turns; the median of each side, and their ratio."""
    few, many = {"S": (100, 1000), "M": (60, 300), "L": (30, 100)}[case]
    measured: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    crops = crops_of(case, scene) if has_peer else None
    for _ in range(rounds):
        measured["ours"].append(our_rate(case, phase, scene, many, 50))
        torch.cuda.empty_cache()
        if crops is not None:
            measured["peer"].append(peer_rate(case, phase, crops, few, 20))
            torch.cuda.empty_cache()
    profile = profile_of(case, phase, scene)
    torch.cuda.empty_cache()
    found: dict[str, Any] = {"flops": flops_of(case, phase), "rounds": measured, "profile": profile}
    for side, rates in measured.items():
        if rates:
            middle = statistics.median(rate["steps_per_s"] for rate in rates)
            found[side] = {"steps_per_s": middle, "peak_bytes": max(rate["peak_bytes"] for rate in rates)}
    if has_peer:
        found["ratio"] = found["ours"]["steps_per_s"] / found["peer"]["steps_per_s"]
    return found


def crops_of(case: str, scene: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight batches of the same scene's crops, in the host's memory, for the peer's loader."""
    imagery = load_imagery(configuration_of(case, "game", scene), torch.device("cpu"))
    lr, hr = imagery.batch(0, "train", 0, 8 * CASES[case]["Data"]["train_batch_size"])
    return lr.contiguous(), hr.contiguous()


if __name__ == "__main__":
    main()
