"""Figures in the documents are the benchmarks' own."""

import json

from tests.support.service import ROOT

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
