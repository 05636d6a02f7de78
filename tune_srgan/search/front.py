"""The front: the trials that no other beats in both, the step from which the balance is kept and the image.

Pareto's order over finished trainings. Capping has nothing to say of it: how good an image becomes shows at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainables.merits import QUALITY, loss_of
from tune_srgan.store.records import TrialRecord
from tune_srgan.study.settings import Study

SHOWN = f"{QUALITY}spectrum"  # the figure that the balance is about, where a study names none


def figure_of(study: Study) -> str:
    """Return the figure of merit beside the steps."""
    return study.objective.also or SHOWN


def front_of(study: Study, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the accepted trials that no other beats in both, the soonest balance first; of two alike the earlier."""
    front: list[TrialRecord] = []
    best = math.inf
    known = [(record.cost or 0.0, loss_of(figure_of(study), record.quality), record) for record in records]
    known = [one for one in known if one[2].accepted and not math.isnan(one[1])]
    for _, loss, record in sorted(known, key=lambda one: (one[0], one[1], one[2].number)):
        if loss < best:
            front.append(record)
            best = loss
    return front
