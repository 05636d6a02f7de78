"""What super-resolving a large scene costs: seconds, peak memory, and how far windows are from the image in one piece.

    python benchmarks/upscale.py [--size 10980] [--network small] [--cog] [--threads 2] [--out upscale.json]

A scene of four bands of 16 bits is made of the shipped sample, mirrored until it has the size, with a hole in it, and
super-resolved ×4 by `tune.py upscale` in a process of its own, whose resident memory is looked at ten times a second
(that of its children included). The networks have random weights: least is 1 block × 4 channels, small 2 × 16, full
SRResNet's 16 × 64, all on a bicubic skip. On a GPU in bfloat16; the network's own speed is that of windows of one size
in a row, without a file. The seams are the largest difference to a cut of the scene in one piece, in shares of the
range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.tiny import tiny  # noqa: E402
from trainables.gpu import precision  # noqa: E402
from trainables.networks import Generator  # noqa: E402
from trainables.places import SAMPLE  # noqa: E402
from tune_srgan import load_generator  # noqa: E402

LOW, HIGH, BANDS, FACTOR = 5888.0, 10241.0, 4, 4
CUT = 480  # low-resolution pixels a side, of which the seams are measured within
NETWORKS = {
    "least": {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
    "small": {"n_blocks": 2, "n_channels": 16, "large_kernel_size": 9},
    "full": {"n_blocks": 16, "n_channels": 64, "large_kernel_size": 9},
}


def write_generator(file: Path, network: str) -> None:
    """Write a best.pt of random weights."""
    torch.manual_seed(0)
    values: dict[str, Any] = {f"Generator.{name}": value for name, value in NETWORKS[network].items()}
    values |= {"Model.in_bands": BANDS, "Data.normalization": "scale", "Data.scale": [LOW, HIGH]}
    configuration = tiny(**values, **{"Training.precision": "bf16" if torch.cuda.is_available() else "fp32"})
    weights = Generator(BANDS, configuration.Generator)
    torch.nn.init.normal_(weights.last.conv.weight, std=1e-2)  # what is added to bicubic interpolation is to be felt
    content = {"generator": weights.state_dict(), "configuration": configuration.model_dump_json()}
    torch.save(content | {"low": LOW, "high": HIGH, "step": 0}, file)


def write_scene(file: Path, size: int) -> None:
    """Write the scene, in strips of the sample and its mirror images."""
    with rasterio.open(SAMPLE) as sample:
        cut = sample.read()[:, 300:812, 300:812]
    cut = np.concatenate([cut, cut[:1]])
    row = np.concatenate([cut, cut[:, :, ::-1]], 2)
    whole = np.tile(row, (1, 1, -(-size // row.shape[2])))[:, :, :size]
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    profile |= {"count": BANDS, "dtype": "uint16", "height": size, "width": size, "nodata": 0, "crs": "EPSG:32621"}
    grid = rasterio.transform.Affine(10, 0, 500_000, 0, -10, 4_000_000)
    with rasterio.open(file, "w", transform=grid, **profile) as scene:
        for number, top in enumerate(range(0, size, 512)):
            strip = (whole if number % 2 else whole[:, ::-1])[:, : size - top].copy()
            if number == 0:
                strip[:, 40:90, 40:90] = 0
            scene.write(strip, window=((top, top + strip.shape[1]), (0, size)))


class Watch(threading.Thread):
    """Notes the most memory that a process and its children hold at once, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = psutil.Process(pid), 0

    def run(self) -> None:
        """Look until the process has ended."""
        while self.process.is_running():
            try:
                every = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(one.memory_info().rss for one in every))
            except psutil.Error:
                return
            time.sleep(0.1)


def measure(folder: Path, size: int, network: str, cog: bool, threads: int) -> dict[str, Any]:
    """Super-resolve the scene by the command; seconds, bytes."""
    source, target, weights = folder / "scene.tif", folder / "sr.tif", folder / "best.pt"
    command = [sys.executable, str(ROOT / "tune.py"), "upscale", str(source), str(target), "--weights", str(weights)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "GDAL_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    with subprocess.Popen([*command, "--cog" if cog else "--no-cog"], env=environment) as process:
        watch = Watch(process.pid)
        watch.start()
        if process.wait():
            raise SystemExit("upscale failed")
    seconds = time.perf_counter() - began
    made = BANDS * 2 * (size * FACTOR) ** 2
    return {
        "seconds": round(seconds, 1),
        "low_resolution_mpx_per_s": round(size**2 / 1e6 / seconds, 3),
        "uncompressed_output_mb_per_s": round(made / 1e6 / seconds, 1),
        "peak_memory_gb": round(watch.peak / 1e9, 3),
        "output_gb": round(target.stat().st_size / 1e9, 3),
        "uncompressed_output_gb": round(made / 1e9, 3),
    }


def seams(folder: Path, size: int) -> dict[str, Any]:
    """The largest difference to a cut in one piece, away from the cut's own edge, in shares of the range."""
    generator = load_generator(folder / "best.pt")
    side = min(CUT, size)
    corner = (size - side) // 2
    with rasterio.open(folder / "scene.tif") as scene:
        image = scene.read(window=((corner, corner + side), (corner, corner + side))).astype(np.float32)
    scale = slice(corner * FACTOR, (corner + side) * FACTOR)
    with rasterio.open(folder / "sr.tif") as made:
        found = made.read(window=((scale.start, scale.stop), (scale.start, scale.stop))).astype(np.float32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    in_bf16 = generator.configuration.Training.in_bf16(device.type)
    with torch.inference_mode():
        values = ((torch.from_numpy(image)[None] - LOW) / (HIGH - LOW)).to(device)
        sr = precision.forward(generator.network.to(device), values, in_bf16).float()[0].cpu().numpy()
    inner = slice(64 * FACTOR, -64 * FACTOR)
    difference = np.abs(sr * (HIGH - LOW) + LOW - found)[:, inner, inner] / (HIGH - LOW)
    return {"largest": float(difference.max()), "rounding": 0.5 / (HIGH - LOW), "cut_px": side - 128}


def own_speed(folder: Path) -> float | None:
    """Low-resolution megapixels a second of the network alone, in windows of 1024 px; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    generator, device = load_generator(folder / "best.pt"), torch.device("cuda")
    network, window = generator.network.to(device), torch.rand(1, BANDS, 1024, 1024, device=device)
    with torch.inference_mode():
        for rounds in (3, 10):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(rounds):
                precision.forward(network, window, in_bf16=True)
            torch.cuda.synchronize()
    return round(10 * 1024**2 / 1e6 / (time.perf_counter() - began), 2)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_980)
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--cog", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_generator(folder / "best.pt", given.network)
        write_scene(folder / "scene.tif", given.size)
        load = os.getloadavg()[0]  # of others, before
        found = measure(folder, given.size, given.network, given.cog, given.threads)
        found |= {"seams": seams(folder, given.size), "own_low_resolution_mpx_per_s": own_speed(folder)}
    found |= {
        "load_before": round(load, 1),
        "cog": given.cog,
        "threads": given.threads,
        "date": datetime.now(UTC).date().isoformat(),
    }
    found |= {"commit": commit.stdout.strip(), "torch": torch.__version__, "gdal": rasterio.__gdal_version__}
    found |= {"rasterio": rasterio.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    kept = json.loads(given.out.read_text()) if given.out.exists() else {}
    kept[f"{given.network}, {given.size} px, {found['device']}{', COG' if given.cog else ''}"] = found
    given.out.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
