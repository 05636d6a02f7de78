"""What sharing and capping save the quickstart: the same random configurations with both, either and neither.

    python benchmarks/quickstart_account.py [--out quickstart_account.json]

The quickstart's study with a random sampler, whose proposals do not depend on outcomes, so that all four studies train
the same configurations; without further seeds, which neither changes. About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tune_srgan.search.confirmation import winner
from tune_srgan.store.records import account_of_study, read_records
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import read_json

ROOT = Path(__file__).resolve().parent.parent
CASES = {"both": (True, True), "sharing": (True, False), "capping": (False, True), "neither": (False, False)}


def run(name: str, sharing: bool, capping: bool, folder: Path) -> dict[str, Any]:
    """One study; its account, its winner, and the seconds it took."""
    document = yaml.safe_load((ROOT / "search_spaces/quickstart.yaml").read_text())
    document |= {"study": name, "confirm": {"top": 0}, "training": str(ROOT / "search_spaces" / document["training"])}
    document["search"] |= {
        "sampler": "random",
        "race": 0,
        "sharing": {"enabled": sharing},
        "capping": {"enabled": capping},
    }
    document["tracking"] = {"wandb": {"mode": "disabled"}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    command = [sys.executable, str(ROOT / "tune.py"), "run", str(file), "--storage", str(folder), "--address", "local"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    study_folder = StudyFolder(folder / name)
    study = study_in(study_folder)
    records = read_records(study, study_folder.every_trial())
    best = winner(study, records)
    found: dict[str, Any] = account_of_study(records.search)
    found |= {"seconds": (read_json(study_folder.clock_file) or {})["seconds"]}
    found |= {"winner": best and best.number, "steps_to_nash": best and best.steps}
    configurations = [record.values for record in records.search]
    return found | {"configurations": configurations, "ends": [record.label for record in records.search]}


def main() -> None:
    """Run all four, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "cases": {}}
    print("          executed   shared   capped  seconds  winner, steps_to_nash", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (sharing, capping) in CASES.items():
            found = run(name, sharing, capping, Path(folder))
            results["cases"][name] = found
            print(
                f"{name:9s} {found['executed']:8d} {found['sharing']:8d} {found['capping']:8d} "
                f"{found['seconds']:8.0f}  {found['winner']}, {found['steps_to_nash']}",
                flush=True,
            )
            if chosen.out:
                chosen.out.write_text(json.dumps(results, indent=1))
    same = all(case["configurations"] == found["configurations"] for case in results["cases"].values())
    print("the same configurations in all four" if same else "NOT the same configurations")


if __name__ == "__main__":
    main()
