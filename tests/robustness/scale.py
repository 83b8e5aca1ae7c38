"""What many runs, many rows and many rounds cost: `make scale` measures all three and keeps the figures.

python tests/robustness/scale.py --part report --runs 10000
python tests/robustness/scale.py --part rows --rows 1000000
python tests/robustness/scale.py --part rounds --rounds 100
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import psutil  # noqa: E402
import torch  # noqa: E402
from helpers import comparisons  # noqa: E402

MB = 1 << 20
WORDS = ("good", "fine", "bad", "poor", "film", "plot", "a", "the", "was", "not", "very", "dull", "long")


def resident() -> int:
    """Bytes of memory that the process holds."""
    return psutil.Process().memory_info().rss


def measure_report(folder: Path, runs: int) -> dict[str, Any]:
    """Write and read a comparison of so many runs, in every form; 20 candidates, 50 seeds."""
    from steadytune.comparison.records import FILE_NAME, read_comparison
    from steadytune.reporting.report import Report
    from steadytune.training.folder import write_json

    gains = {"none": (0.0, 0.0)} | {f"smart(weight={k}.0)": (0.001 * k, 0.004) for k in range(1, 20)}
    seeds = max(3, min(50, runs // 20))
    cells = [
        comparisons.cell(gains, seeds, train_size=str(100 * n), tuning=()) for n in range(1, 1 + -(-runs // 1000))
    ]
    write_json(folder / FILE_NAME, comparisons.comparison(*cells).as_json())
    began, cpu = time.perf_counter(), time.process_time()
    found = read_comparison(folder)
    read = time.process_time() - cpu
    files = Report(found).write(folder)
    return {
        "runs": sum(len(cell.runs) for cell in found.cells),
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "cpu_seconds_to_read": round(read, 2),
        "page_mb": round(files[0].stat().st_size / MB, 1),
    }


def write_rows(path: Path, rows: int) -> Path:
    """A csv file of sentences of 4 to 20 words."""
    chance = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for i in range(rows):
            mood = ("good", "fine") if i % 2 else ("bad", "poor")
            writer.writerow((" ".join([chance.choice(mood), *chance.choices(WORDS, k=3 + i % 17)]), i % 2))
    return path


class Memory:
    """Notes the memory of a training at every so many updates; a reporter of a run."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.at_start, self.points = 0, []

    def note(self, text: str) -> None:
        """Show nothing."""

    def start(self, total: int, done: int) -> None:
        """Training begins."""
        self.at_start = resident()

    def step(self, done: int, loss: float | None) -> None:
        """An update is done."""
        if done % self.every == 0 and loss is None:
            self.points.append((done, resident()))

    def epoch(self, number: float, metrics: Any) -> None:
        """Show nothing."""

    def stop(self) -> None:
        """Show nothing."""


def measure_rows(folder: Path, model: Path, rows: int, updates: int) -> dict[str, Any]:
    """Train on a file of so many rows; memory is looked at from the first tenth of the updates to the last."""
    from steadytune.settings.train import TrainSettings
    from steadytune.training.run import Extent, train

    settings = TrainSettings(
        model=str(model), train_file=str(write_rows(folder / "train.csv", rows)),
        validation_file=str(write_rows(folder / "validation.csv", 200)), methods=["noisytune", "smart"],
        max_steps=updates, per_device_train_batch_size=8, max_length=32, use_cpu=True, learning_rate=1e-4,
        output_dir=str(folder / "run"),
    )  # fmt: skip
    memory, before, began = Memory(max(1, updates // 50)), resident(), time.perf_counter()
    train(settings, memory, Extent(before=False, keep_model=False, each_epoch=False, checkpoint_seconds=1e9))
    settled = [held for done, held in memory.points if done > updates // 5]
    return {
        "rows": rows,
        "file_mb": round((folder / "train.csv").stat().st_size / MB, 1),
        "updates": updates,
        "seconds": round(time.perf_counter() - began, 1),
        "mb_before": round(before / MB),
        "mb_when_training_begins": round(memory.at_start / MB),
        "mb_after_a_fifth": round(settled[0] / MB),
        "mb_at_the_end": round(settled[-1] / MB),
        "mb_at_most": round(max(settled) / MB),
    }


def alive() -> Counter[str]:
    """What could leak: modules, tensors, hooks, threads, processes and open files."""
    gc.collect()
    process = psutil.Process()
    module: Any = sys.modules["torch.optim.optimizer"]
    # By their types: asking each object what it is would wake the lazy ones of other libraries.
    kinds = [type(thing) for thing in gc.get_objects()]
    return Counter(
        modules=sum(issubclass(kind, torch.nn.Module) for kind in kinds),
        tensors=sum(issubclass(kind, torch.Tensor) for kind in kinds),
        hooks=len(module._global_optimizer_pre_hooks) + len(module._global_optimizer_post_hooks),
        threads=process.num_threads(),
        processes=len(process.children(recursive=True)),
        files=process.num_fds(),
    )


def measure_rounds(folder: Path, model: Path, rounds: int, warm: int = 2) -> dict[str, Any]:
    """Compare again and again in one process, each time in a new folder; what is alive must not grow."""
    from steadytune.comparison.compare import compare
    from steadytune.comparison.engines.execute import execute
    from steadytune.settings.compare import CompareSettings

    class Here:
        """Makes the runs in this process."""

        def run(self, plans: Any, watch: Any) -> Any:
            """Make them one after another."""
            del watch
            return (execute(plan) for plan in plans)

        def close(self) -> None:
            """Nothing to close."""

    train, valid = write_rows(folder / "train.csv", 16), write_rows(folder / "validation.csv", 8)
    first: Counter[str] = Counter()
    held, began = [], time.perf_counter()
    for number in range(warm + rounds):
        settings = CompareSettings(
            model=str(model), train_file=str(train), validation_file=str(valid), methods=["none", "noisytune+smart"],
            seeds=1, learning_rates=[1e-4], max_steps=2, per_device_train_batch_size=8, max_length=16, use_cpu=True,
            output_dir=str(folder / f"round-{number}"),
        )  # fmt: skip
        found = compare(settings, engine=Here())
        assert all(run.status == "finished" for run in found.cells[0].runs), [r.error for r in found.cells[0].runs]
        if number + 1 == warm:
            first = alive()
        if number + 1 >= warm:
            held.append(resident())
    last = alive()
    half = held[len(held) // 2]
    return {
        "rounds": rounds,
        "seconds": round(time.perf_counter() - began, 1),
        "grown": {name: last[name] - first[name] for name in sorted(last | first)},
        "mb_first": round(held[0] / MB, 1),
        "mb_half": round(half / MB, 1),
        "mb_last": round(held[-1] / MB, 1),
    }


def main() -> None:
    """Measure what is asked for, and add it to the file of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "report", "rows", "rounds"), default="all")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--model", type=Path, help="a folder; by default a tiny random model")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "benchmarks" / "results" / "scale.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model or tiny_folder(folder)
        for part in ("report", "rounds", "rows") if given.part == "all" else (given.part,):
            place = folder / part
            place.mkdir()
            if part == "report":
                measured = measure_report(place, given.runs)
            elif part == "rows":
                measured = measure_rows(place, model, given.rows, given.updates)
            else:
                measured = measure_rounds(place, model, given.rounds)
            made = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__}
            results[part] = {**measured, **made, "load_average": round(os.getloadavg()[0], 1)}
            print(part, json.dumps(results[part], indent=2), flush=True)
            given.output.write_text(json.dumps(results, indent=2) + "\n")


def tiny_folder(folder: Path) -> Path:
    """A tiny random encoder with its tokenizer."""
    from helpers import tiny, tiny_model
    from transformers import BertTokenizerFast

    made = folder / "model"
    made.mkdir()
    words = [*tiny_model.SPECIAL, *tiny_model.WORDS]
    (made / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(made / "vocab.txt")).save_pretrained(made)
    network: Any = tiny.bert(dropout=0.1, vocab_size=len(words), max_position_embeddings=tiny_model.POSITIONS)
    network.bert.save_pretrained(made)
    return made


if __name__ == "__main__":
    main()
