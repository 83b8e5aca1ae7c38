"""The long form: `make fuzz CASES=10000`; what it found goes to benchmarks/results/fuzz.json.

Each target runs in a process of its own, which notes every case before it runs it, so that a crash below Python
(a damaged parquet file in Arrow, say) is a finding too and not the end.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests")]

#: Share of all cases; those that train cost a hundred times the others.
SHARES = {
    "Checkpoints": 0.01,
    "ModelFolders": 0.02,
    "States": 0.05,
    "Results": 0.07,
    "CommandLines": 0.25,
    "Configurations": 0.25,
    "DataFiles": 0.2,
    "GeneratedFiles": 0.15,
}
PER_PROCESS = 500
PACKAGES = ("pyarrow", "datasets", "PyYAML", "pydantic", "typer", "rich", "torch", "transformers", "safetensors")


def main() -> int:
    """Run all targets, or with --worker one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default=",".join(SHARES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    parser.add_argument("--worker", nargs=3, metavar=("TARGET", "FIRST", "CASES"), help="one process of the above")
    given = parser.parse_args()
    if given.worker:
        return _work(given.worker[0], int(given.worker[1]), int(given.worker[2]), given.seed)
    began, found = time.time(), {}
    for name in given.targets.split(","):
        found[name] = _all_cases(name, round(given.cases * SHARES[name]), given.seed)
        print(f"{name}: {_in_short(found[name])}", flush=True)
        _write(given, found, time.time() - began)
    faults = sum(len(parts["faults"]) for parts in found.values())
    print(f"{sum(parts['cases'] for parts in found.values()):,} cases, {faults} faults: {given.output}")
    return int(faults > 0)


def _all_cases(name: str, cases: int, seed: int) -> dict[str, Any]:
    whole: dict[str, Any] = {"cases": 0, "ends": {}, "faults": [], "kept": 0, "lines": 0, "slowest_seconds": 0.0}
    for first in range(0, cases, PER_PROCESS):
        with tempfile.TemporaryDirectory() as place:
            part = _one_process(name, first, min(PER_PROCESS, cases - first), seed, Path(place))
        whole["cases"] += part["cases"]
        whole["kept"] += part["kept"]
        whole["faults"] += part["faults"]
        for key in ("lines", "slowest_seconds"):
            whole[key] = max(whole[key], part[key])
        for end, count in part["ends"].items():
            whole["ends"][end] = whole["ends"].get(end, 0) + count
        print(f"  {name} {first + part['cases']}: {_in_short(whole)}", flush=True)
    return whole


def _one_process(name: str, first: int, cases: int, seed: int, place: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--seed", str(seed), "--worker", name, str(first), str(cases)]
    environment = os.environ | {"FUZZ_PLACE": str(place), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result = place / "found.json"
    if result.is_file():
        return json.loads(result.read_text())
    case = place / "case.json"
    last = json.loads(case.read_text()) if case.is_file() else {"number": first}
    fault = {"fault": f"the process ended with {ended.returncode}: {ended.stderr[-500:]}", "case": last}
    done = int(last["number"]) - first + 1
    return {"cases": done, "ends": {"crash": 1}, "faults": [fault], "kept": 0, "lines": 0, "slowest_seconds": 0.0}


def _work(name: str, first: int, cases: int, seed: int) -> int:
    import fuzz_files
    import fuzz_folders
    import fuzz_states
    import fuzz_targets
    import torch
    from fuzz_coverage import Case, fuzz
    from fuzz_model import tiny_model_folder

    from steadytune.support.quiet_libraries import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    parent = Path(os.environ["FUZZ_PLACE"])
    place = parent / "place"
    place.mkdir()
    os.chdir(place)

    def note(number: int, case: Case) -> None:
        (parent / "case.json").write_text(json.dumps({"number": number, **_plain(case)}))

    kind = next(getattr(m, name) for m in (fuzz_targets, fuzz_files, fuzz_folders, fuzz_states) if hasattr(m, name))
    found = fuzz(kind(place, tiny_model_folder(parent)), cases, seed, first=first, before=note)
    faults = [{"fault": fault, "case": _plain(case)} for fault, case in found.faults.items()]
    (parent / "found.json").write_text(json.dumps({**asdict(found), "faults": faults}, default=str))
    return 0


def _plain(case: Any) -> dict[str, Any]:
    content = base64.b64encode(case.content[:20_000]).decode()
    return {"name": case.name, "arguments": [a[:2000] for a in case.arguments], "content": content}


def _in_short(found: dict[str, Any]) -> str:
    return f"{found['ends']}, {len(found['faults'])} faults, slowest {found['slowest_seconds']:.1f} s"


def _write(given: argparse.Namespace, found: dict[str, Any], seconds: float) -> None:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    content = {
        "what": "Coverage-guided fuzzing: no traceback, no more than 10 s of work, no control character on the "
        "terminal, nothing left behind by what is refused, no other rows than a slow reader finds.",
        "command": f"tests/robustness/fuzz.py --cases {given.cases} --seed {given.seed} --targets {given.targets}",
        "cases": sum(parts["cases"] for parts in found.values()),
        "faults": sum(len(parts["faults"]) for parts in found.values()),
        "seed": given.seed,
        "minutes": round(seconds / 60, 1),
        "targets": found,
        "commit": asked.stdout.strip(),
        "machine": {"system": platform.platform(), "processors": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
