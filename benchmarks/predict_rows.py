"""Peak memory of `steadytune predict` on a million rows against 10,000, each in a process of its own.

    python benchmarks/predict_rows.py --result benchmarks/results/predict_rows.json

A random encoder of two layers and 16 units classifies sentences of 5 to 30 words from a csv file of four columns into
another one. Memory is what the system reports as the largest resident set of the process (``ru_maxrss``), the start
of Python and torch included; the result also says whether all rows came out in their order.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from benchmarks.results import commit
from steadytune.training.folder import describe_environment, write_json

WORDS = (
    *("good", "fine", "bad", "poor", "film", "plot", "a", "the", "was", "not"),
    *("very", "dull", "long", "short", "story", "actor", "end", "and", "of", "it"),
)
SIZES = (10_000, 1_000_000)


def model_folder(folder: Path) -> Path:
    """A tiny random classifier with its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=1.0, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int) -> None:
    """Rows with a number, a text, a date and a note."""
    chance = random.Random(count)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "date", "note"])
        for i in range(count):
            text = " ".join(chance.choices(WORDS, k=chance.randint(5, 30)))
            rows.writerow([i, text, "2024-05-01", f"note, {i}"])


def measure(model: Path, rows: Path, scored: Path, count: int) -> dict[str, Any]:
    """Predict a file in another process and look at what it took and left."""
    command = [sys.executable, "-m", "steadytune", "predict", str(model), str(rows), "-o", str(scored), "--overwrite"]
    began = time.monotonic()
    with subprocess.Popen([*command, "--use-cpu", "--quiet"]) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"predict ended with status {process.returncode}")
    return {
        "rows": count,
        "peak_resident_mib": round(used.ru_maxrss / 1024, 1),
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "input_mib": round(rows.stat().st_size / 2**20, 1),
        "in_order": in_order(scored, count),
    }


def in_order(scored: Path, count: int) -> bool:
    """Whether the file holds every row once, in the order of the input, with a prediction."""
    with scored.open(encoding="utf-8", newline="") as file:
        seen = 0
        for row in csv.DictReader(file):
            if int(row["id"]) != seen or not row["predicted"]:
                return False
            seen += 1
    return seen == count


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--result", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = model_folder(folder / "model")
        found = []
        for count in given.rows:
            write_rows(folder / "rows.csv", count)
            found.append(measure(model, folder / "rows.csv", folder / "scored.csv", count))
            print(found[-1], flush=True)
    environment = describe_environment(seed=0)
    write_json(given.result, {"commit": commit(), **environment, "measured": found})


if __name__ == "__main__":
    main()
