"""Readings made by hand, balanced and not, and rulers for them."""

from tests.support.tiny import tiny
from trainables.balance import Ruler

GAME_ON, EVERY = 8, 2
BALANCED = {"nash/p_y": 0.45, "nash/p_g": 0.45, "nash/rank": 0.5, "nash/control": 0.95, "lr_discriminator": 1e-3}
BALANCED |= {"lr_generator": 1e-3}
BALANCED |= {"nash/psnr": 30.0, "nash/psnr_bicubic": 30.0}
RAW = {"nash/raw/p_g": 0.45, "nash/raw/rank": 0.5, "nash/raw/psnr": 30.0}
OFF = {"nash/rank": 1.0}
RULER = Ruler.of(tiny())


def ruler(**nash):
    return Ruler.of(tiny(**{f"Nash.{key}": value for key, value in nash.items()}))


def run(*readings):
    """Readings one validation apart from the ramp's end on, each given by what differs from a balanced one."""
    return [BALANCED | {"step": GAME_ON + EVERY * i} | changes for i, changes in enumerate(readings)]


def marks(text):
    """`#` a balanced reading, `.` one that is not."""
    return run(*({} if mark == "#" else OFF for mark in text))
