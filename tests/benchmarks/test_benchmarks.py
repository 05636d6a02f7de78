"""Figures in the documents are the benchmarks' own."""

import json
import math
import re

import pytest

from tests.support.service import ROOT
from trainables.balance import judge, nash_cost
from trainables.merits import END
from tune_srgan.search.capping import why_end
from tune_srgan.store.curves import read_curves
from tune_srgan.study.settings import Capping

FOLDER = ROOT / "benchmarks"


def test_the_documents_throughput_is_the_benchmarks():
    measured = json.loads((FOLDER / "throughput.json").read_text())
    tables = (FOLDER / "README.md").read_text(), (ROOT / "docs" / "gpu.md").read_text()
    for case, phases in measured["cases"].items():
        for phase, found in phases.items():
            ours, peer = found["ours"]["steps_per_s"], found["peer"]["steps_per_s"]
            assert found["ratio"] == ours / peer
            assert f"| {case} | {phase} | {ours:.1f} | {peer:.2f} | {found['ratio']:.1f} |" in tables[0]
            assert f"| {ours:.1f} against {peer:.1f}: {found['ratio']:.1f}× |" in tables[1]
    for text in tables:
        assert measured["machine"]["date"] in text
        assert measured["machine"]["device"] in text


def test_the_documents_packing_is_the_benchmarks():
    measured = json.loads((FOLDER / "packing.json").read_text())
    table = (FOLDER / "README.md").read_text()
    for case, modes in measured["cases"].items():
        alone = modes["plain"]["steps_per_s"]["1"]
        for mode, found in modes.items():
            (line,) = (row for row in table.splitlines() if row.startswith(f"| {case} | {found_as(mode)} |"))
            for count, rate in found["steps_per_s"].items():
                share = "" if (mode, count) == ("plain", "1") else f" ({rate / alone:.2f}×)"
                assert f"| {rate:.1f}{share} |" in line


def found_as(mode: str) -> str:
    return "by turns" if mode == "plain" else mode


def test_the_documents_account_of_the_quickstart_is_the_benchmarks():
    measured = json.loads((FOLDER / "quickstart_account.json").read_text())
    text = (ROOT / "docs" / "search.md").read_text()
    assert measured["date"] in text
    cases = {"both": "on | on", "sharing": "on | off", "capping": "off | on", "neither": "off | off"}
    for name, found in measured["cases"].items():
        figures = " | ".join(str(found[kind]) for kind in ("executed", "sharing", "capping", "balance"))
        assert f"| {cases[name]} | {figures} |" in text
        assert found["configurations"] == measured["cases"]["both"]["configurations"]
        assert found["winner"] == measured["cases"]["both"]["winner"]


def test_the_documents_correlations_are_the_benchmarks():
    measured = json.loads((FOLDER / "image_table.json").read_text())
    text = (ROOT / "docs" / "images.md").read_text()
    part = text[text.index("## What the settings do to it") :].replace("−", "-")
    counted = f"{measured['trainings']} whole trainings of {measured['configurations']}"
    assert counted in " ".join(part.split())
    told = {float(number) for number in re.findall(r"[+-]\d\.\d\d", part)}
    every = [of for names in measured["settings"].values() for of in names.values()]
    every += measured["balanced share"].values()
    sure = {round(of["rho"], 2) for of in every if of["low"] > 0 or of["high"] < 0}
    assert len(told) >= 13 and told <= sure


@pytest.fixture(scope="module", params=["curves_images", "curves_front"])
def recorded(request):
    """Whole trainings, by number: what each cost, its spectrum's error, whether it would have been ended early."""
    found = []
    for one in read_curves(FOLDER / f"{request.param}.parquet"):
        verdict = judge(one.readings, one.ruler)
        cost = nash_cost(verdict, one.ruler.max_steps) if verdict.kept else math.inf
        loss = abs(one.made["merits"][END]["spectrum"])
        seen = (judge(one.readings[:upto], one.ruler) for upto in range(5, len(one.readings), 5))
        early = any(why_end(so_far, one.number, None, Capping()) is not None for so_far in seen)
        found.append((cost, loss, early))
    return found


def front(trainings):
    """Those that no other beats in both, by comparing every pair."""
    kept = [one for one in trainings if math.isfinite(one[0])]
    return [
        one
        for one in kept
        if not any(other[0] <= one[0] and other[1] <= one[1] and other[:2] != one[:2] for other in kept)
    ]


def test_what_a_search_for_a_front_ends_early_is_on_no_front(recorded):
    early = [one for one in recorded if one[2]]
    assert len(early) > 30
    assert front([one for one in recorded if not one[2]]) == front(recorded)
    assert len(front(recorded)) >= 3


def test_a_real_search_of_a_whole_grid_found_the_grids_front():
    measured = json.loads((FOLDER / "front.json").read_text())
    trainings = []
    for one in read_curves(FOLDER / "curves_front.parquet"):
        verdict = judge(one.readings, one.ruler)
        cost = nash_cost(verdict, one.ruler.max_steps) if verdict.kept else math.inf
        trainings.append((cost, abs(spectrum := one.made["merits"][END]["spectrum"]), spectrum))
    points = sorted({(cost, spectrum) for cost, _, spectrum in front(trainings)})
    for found in (measured["grid"], measured["study"]["front"]):
        assert [(point["cost"], point["spectrum"]) for point in found] == points
    study = measured["study"]
    assert study["trials"] == study["configurations"] == measured["configurations"] == len(trainings)
    assert study["ended early"] > 100 and study["ended early and kept in the grid"] == 0
    assert study["kept"] == study["kept, equal in cost and image"] == measured["kept"]
    table = (FOLDER / "README.md").read_text()
    for trials in ("24", "48", "84"):
        shares = [measured["found"][sampler][trials]["mean"] for sampler in ("tpe", "nsgaii", "gp", "random")]
        assert f"| {trials} | " + " | ".join(f"{share:.2f}" for share in shares) + " |" in table
