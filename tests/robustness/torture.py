"""The long form: kills trainings and comparisons as often as asked, and keeps what was found.

    python tests/robustness/torture.py --kills 1000 --seed 0 --output benchmarks/results/torture_kills.json
    python tests/robustness/torture.py --repeat 0-17     # story 17 of seed 0 alone, its files kept
    python tests/robustness/torture.py --kills 100 --only multitask,hybrid

It stops at Ctrl-C with what it has, and exits with status 1 if a story ended wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
sys.path.insert(1, str(Path(__file__).parents[1]))

import tqdm

tqdm.tqdm.monitor_interval = 0  # no thread, of which a fork would leave half

import torch  # noqa: E402
from killing import Story, Undisturbed, drawn_fate, story, undisturbed  # noqa: E402
from places import (  # noqa: E402
    Command,
    compare_command,
    copy_place,
    hybrid_command,
    make_place,
    multitask_command,
    search_command,
    train_command,
    warm,
)

#: With how many parts of all stories they come.
COMMANDS: tuple[tuple[Command, int], ...] = (
    (train_command("noisytune,smart"), 4),
    (train_command("none", save_total_limit=1), 2),
    (train_command("swa", save_total_limit=1), 1),
    (train_command("layerwise_decay,mixout,ema"), 1),
    (train_command("freelb", gradient_accumulation_steps=2, save_steps=1), 1),
    (train_command("child_tuning,l2_sp", logging_steps=1, save_total_limit=3), 1),
    (compare_command("smart"), 1),
    (compare_command("noisytune", workers=2, seeds=2, learning_rates="1e-3"), 1),
    (search_command("noisytune", trials=4), 1),
    (multitask_command("smart"), 2),
    (hybrid_command("noisytune,bregman"), 1),
)


def told(seed: int, number: int, only: Sequence[str] = ()) -> tuple[int, random.Random]:
    """Which command a story is of, by the beginning of its name if asked for, and what its fates are drawn from."""
    chance = random.Random(f"{seed}-{number}")
    weights = [weight if not only or command.name.startswith(tuple(only)) else 0 for command, weight in COMMANDS]
    return chance.choices(range(len(COMMANDS)), weights=weights)[0], chance


class Torture:
    """Stories, one after the other.

    Args:
        place: folder for all files.
        seed: of the stories.
        only: beginnings of commands' names; empty for all.
    """

    def __init__(self, place: Path, seed: int, only: Sequence[str] = ()) -> None:
        self.place, self.seed, self.only = place, seed, only
        self.base = make_place(place / "base")
        warm(self.base)
        self._expected: dict[int, Undisturbed] = {}

    def story(self, number: int) -> tuple[Command, Story]:
        """Let one story happen; its files stay where it ended wrong."""
        which, chance = told(self.seed, number, self.only)
        if which not in self._expected:
            where = copy_place(self.base, self.place / f"undisturbed-{which}")
            self._expected[which] = undisturbed(COMMANDS[which][0], where)
        expected = self._expected[which]
        fates = [
            drawn_fate(chance, expected.operations, expected.seconds, expected.command.spared)
            for _ in range(chance.randint(4, 12))
        ]
        where = copy_place(self.base, self.place / f"story-{number}")
        happened = story(expected, where, fates)
        if not happened.faults:
            shutil.rmtree(where)
        return expected.command, happened

    def stories(self, kills: int) -> Iterator[tuple[int, Command, Story]]:
        """Stories until so many attempts were killed."""
        number = done = 0
        while done < kills:
            command, happened = self.story(number)
            yield number, command, happened
            done += sum(happened.kills.values())
            number += 1


def environment() -> dict[str, Any]:
    """Where and of what the figures are."""
    import transformers

    import steadytune

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(Path(steadytune.__file__).parent), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD"),
        "source_differs_from_commit": bool(git("status", "--porcelain", ".")),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run the long form; 0 if every story ended right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeat", metavar="SEED-NUMBER", help="one story, whose files stay")
    parser.add_argument("--only", metavar="COMMANDS", default="", help="beginnings of their names, by commas")
    options = parser.parse_args(given)
    only = [name for name in options.only.split(",") if name]
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="torture-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    if options.repeat:
        seed, number = map(int, options.repeat.split("-"))
        command, happened = Torture(place, seed, only).story(number)
        print(command.name, json.dumps(asdict(happened), indent=2), place / f"story-{number}", sep="\n")
        return bool(happened.faults)
    faults = _all(Torture(place, options.seed, only), options)
    if not faults:
        shutil.rmtree(place)
    return bool(faults)


def _all(torture: Torture, options: argparse.Namespace) -> list[dict[str, Any]]:
    began = time.monotonic()
    by_kind: Counter[str] = Counter()
    by_command: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    count = torn = 0
    try:
        for number, command, happened in torture.stories(options.kills):
            count += 1
            torn += happened.torn
            by_kind.update(happened.kills)
            by_command[command.name] += sum(happened.kills.values())
            if happened.faults:
                faults.append({"repeat": f"{options.seed}-{number}", "command": command.name, **asdict(happened)})
            done = sum(by_kind.values())
            line = f"{done}/{options.kills} kills, {count} stories, {time.monotonic() - began:.0f} s"
            again = [f"again with --repeat {options.seed}-{number}"] if happened.faults else []
            print(f"{line}, {len(faults)} wrong", *happened.faults[:3], *again, sep="\n    ", flush=True)
            if count % 10 == 0 or happened.faults or done >= options.kills:
                _keep(options.output, options.seed, began, count, torn, by_kind, by_command, faults)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    _keep(options.output, options.seed, began, count, torn, by_kind, by_command, faults)
    return faults


def _keep(
    output: Path | None,
    seed: int,
    began: float,
    count: int,
    torn: int,
    by_kind: Counter[str],
    by_command: Counter[str],
    faults: list[dict[str, Any]],
) -> None:
    if output is None:
        return
    content = {
        "what": "trainings and comparisons killed and started again until they ended; results compared bit for bit",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "kills": sum(by_kind.values()),
        "stories": count,
        "kills_by_kind": dict(sorted(by_kind.items())),
        "kills_by_command": dict(sorted(by_command.items())),
        "files_torn_by_power_cuts": torn,
        "ended_wrong": len(faults),
        "faults": faults,
    }
    output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
