"""Is the recipe as good as the best of a grid, on small files?

    nice -n 19 python benchmarks/recipe.py run --work /tmp/recipe --minutes 60
    python benchmarks/recipe.py table

The question, written down before the runs: over the data sets below, is the mean test score of `recipe` within 0.01 of
the mean of the best cell of a grid of three learning rates and three numbers of updates, with five seeds each? The
recipe looks at the number of rows and classes and at the model, never at a score. The best cell is chosen by the very
test scores that it is judged by, which favors the grid. A set counts with the seeds that all its cells have. The batch
size is the recipe's in every cell, warm-up a tenth, decay linear, length 128. Where the recipe is itself a cell of the
grid its runs are that cell's: the same settings and seed give the same numbers.

Rounds go seed by seed, the smallest data set first, the recipe before the grid, so that what is there when the time is
up is a fair part of the whole. Each run is one JSON record; a run that has one is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadytune.training.recipe import ModelFacts, Recipe, RowFacts, recipe

RESULTS = Path(__file__).parent / "results" / "recipe"
SHARED = Path(os.environ.get("STEADYTUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SEEDS = (1, 2, 3, 4, 5)
RATES = (1e-4, 3e-4, 6e-4)
MODEL_PARAMETERS = 22_700_000
#: Test rows: the same for every run of a set.
TEST_ROWS = 400


@dataclass(frozen=True)
class Small:
    """One small data set.

    Attributes:
        name: of its records.
        rows: that train.
        classes: how many; 1 is a number.
        updates: lengths of training of the grid.
        read: gives the rows for training and those for the test.
    """

    name: str
    rows: int
    classes: int
    updates: tuple[int, int, int]
    read: Callable[[], tuple[Any, Any]]

    @property
    def recipe(self) -> Recipe:
        """What the recipe chooses."""
        return recipe(RowFacts(self.rows, self.classes), ModelFacts(MODEL_PARAMETERS, sentence_encoder=True))

    @property
    def metric(self) -> str:
        """The score that counts."""
        return "spearman" if self.classes == 1 else "accuracy"


def _glue(name: str, rows: int, text: str, pair: str | None = None, folder: str = "glue") -> Any:
    import pandas as pd

    place = SHARED / folder / name if name else SHARED / folder
    names = {text: "text", **({pair: "text_pair"} if pair else {})}
    found = [pd.read_parquet(place / f"{split}.parquet") for split in ("train", "validation")]
    kept = [part[part.label >= 0].rename(columns=names)[[*names.values(), "label"]] for part in found]
    return kept[0].sample(rows, random_state=0), kept[1].sample(TEST_ROWS, random_state=0)


def _movies(rows: int) -> Any:
    from steadytune.tasks.named.registry import load_task

    data = load_task("movie-reviews")
    names = data.task.label_names or ()
    found = []
    for split, count in (("train", rows), ("test", TEST_ROWS)):
        part = data.splits[split].to_pandas().sample(count, random_state=0)[["text", "label"]]
        found.append(part.assign(label=part.label.map(lambda index: names[index])))
    return found[0], found[1]


def _paragraphs(classes: int) -> Any:
    """Which of many paragraphs does a question ask about: four questions of each to learn from, the others to test."""
    import pandas as pd

    rows = pd.read_parquet(SHARED / "xquad" / "en" / "validation.parquet")
    kept = list(rows.context.value_counts(sort=True).index[:classes])
    rows = rows[rows.context.isin(kept)]
    rows = pd.DataFrame({"text": rows.question, "label": [f"paragraph {kept.index(c)}" for c in rows.context]})
    train = rows.groupby("label").sample(4, random_state=0)
    return train, rows.drop(train.index)


SHORT, LONG = (60, 200, 400), (100, 320, 640)
SETS = (
    Small("sst2-32", 32, 2, SHORT, lambda: _glue("sst2", 32, "sentence")),
    Small("movies-100", 100, 2, SHORT, lambda: _movies(100)),
    Small("stsb-200", 200, 1, SHORT, lambda: _glue("stsb", 200, "sentence1", "sentence2")),
    Small("paragraphs-308", 308, 77, LONG, lambda: _paragraphs(77)),
    Small("snli-500", 500, 3, SHORT, lambda: _glue("", 500, "premise", "hypothesis", folder="snli")),
    Small("sst2-1000", 1000, 2, SHORT, lambda: _glue("sst2", 1000, "sentence")),
)


def recipe_cell(data: Small) -> str:
    """The cell of the recipe, which may be one of the grid."""
    return f"{data.recipe.learning_rate:g}-{data.recipe.updates}"


def grid(data: Small) -> list[str]:
    """The cells of the grid."""
    return [f"{rate:g}-{updates}" for updates in data.updates for rate in RATES]


def wanted() -> Iterator[tuple[Small, str, int]]:
    """All runs in their order."""
    for seed in SEEDS:
        for data in SETS:
            for cell in dict.fromkeys([recipe_cell(data), *grid(data)]):
                yield data, cell, seed


def record_of(data: Small, cell: str, seed: int) -> Path:
    """Where a run's record is."""
    return RESULTS / f"{data.name}-{cell}-{seed}.json"


def files_of(data: Small, work: Path) -> tuple[Path, Path]:
    """Write the rows of a set as a person has them, once."""
    train, test = work / f"{data.name}.csv", work / f"{data.name}-test.csv"
    if not test.is_file():
        rows, rest = data.read()
        rows.to_csv(train, index=False)
        rest.to_csv(test, index=False)
    return train, test


def run_one(data: Small, cell: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and score once."""
    from steadytune.settings.train import TrainSettings
    from steadytune.training.run import Extent, train

    train_file, test_file = files_of(data, work)
    rate, updates = float(cell.rpartition("-")[0]), int(cell.rpartition("-")[2])
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    settings = TrainSettings(
        train_file=str(train_file),
        validation_file=str(test_file),  # chooses nothing here
        head="regression" if data.classes == 1 else "classification",
        learning_rate=rate,
        max_steps=updates,
        per_device_train_batch_size=data.recipe.per_device_train_batch_size,
        seed=seed,
        output_dir=str(folder),
        use_cpu=True,
    )
    extent = Extent(before=False, keep_model=False, each_epoch=False, checkpoint_seconds=1e9)
    began, processor = time.monotonic(), time.process_time()
    metrics = train(settings, extent=extent).metrics
    return {
        "set": data.name,
        "cell": cell,
        "seed": seed,
        "learning_rate": rate,
        "updates": updates,
        "metric": data.metric,
        "score": metrics["after"]["validation"][data.metric],
        "scores": metrics["after"]["validation"],
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
    }


def run_all(work: Path, minutes: float) -> None:
    """Make the runs that have no record, until the time is up."""
    if not SHARED.is_dir():
        print(f"{SHARED}: the folder of data sets is not here; nothing to run.")
        return
    end = time.monotonic() + 60 * minutes
    work.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for data, cell, seed in wanted():
        place = record_of(data, cell, seed)
        if place.is_file():
            continue
        if time.monotonic() > end:
            print("The time is up; the same command continues.")
            return
        content = run_one(data, cell, seed, work)
        unfinished = place.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        unfinished.rename(place)
        print(f"{place.stem}: {content['score']:.4f} in {content['seconds']:.0f} s", flush=True)


def table() -> list[str]:
    """One row per data set: the recipe against the best cell, on the seeds that every cell has."""
    lines = ["| data set | rows | classes | score | seeds | recipe | best cell | mean | difference |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    differences = []
    for data in SETS:
        found = {cell: _scores(data, cell) for cell in dict.fromkeys([recipe_cell(data), *grid(data)])}
        seeds = sorted(set.intersection(*(set(of) for of in found.values())))
        kind = f"| {data.name} | {data.rows:,} | {data.classes if data.classes > 1 else '-'} | {data.metric} "
        if not seeds:
            lines.append(f"{kind}| 0 | - | - | - | - |")
            continue
        means = {cell: statistics.fmean(of[seed] for seed in seeds) for cell, of in found.items()}
        own = means[recipe_cell(data)]
        best = max(grid(data), key=lambda cell: means[cell])
        differences.append(own - means[best])
        rate, _, updates = best.rpartition("-")
        scores = f"{own:.3f} | {rate}, {updates} updates | {means[best]:.3f} | {differences[-1]:+.3f}"
        lines.append(f"{kind}| {len(seeds)} | {scores} |")
    made = sum(record_of(*run).is_file() for run in wanted())
    of = f"{made} of {len(list(wanted()))} runs exist"
    if differences:
        mean = statistics.fmean(differences)
        of += f"; mean difference over the {len(differences)} of {len(SETS)} sets that have them {mean:+.3f}"
    return [*lines, "", f"{of}."]


def _scores(data: Small, cell: str) -> dict[int, float]:
    places = {seed: record_of(data, cell, seed) for seed in SEEDS}
    return {seed: json.loads(place.read_text())["score"] for seed, place in places.items() if place.is_file()}


def main() -> None:
    """Run or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--work", type=Path, default=Path("runs") / "recipe")
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    if given.what == "run":
        run_all(given.work, given.minutes)
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
