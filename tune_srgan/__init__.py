"""The service: study file, searcher, runner, the Ray adapter of a training, storage, tracking, report, commands.

For notebooks: `from tune_srgan import load_generator, upscale`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_srgan.upscaling.files import upscale
    from tune_srgan.upscaling.generator import load_generator

__all__ = ["load_generator", "upscale"]
__version__ = "0.1.0"
_WHERE = {"upscale": "tune_srgan.upscaling.files", "load_generator": "tune_srgan.upscaling.generator"}


def __getattr__(name: str) -> Any:
    """Load what needs torch where it is first asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
