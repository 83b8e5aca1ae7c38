"""A first, small comparison: plain, NoisyTune, SMART and both on 500 movie-review sentences, six paired seeds.

    python benchmarks/movie_reviews_500.py --work /tmp/comparison --result benchmarks/results/movie_reviews_500.json

The learning rate is chosen for plain training alone, on the validation split, by two seeds that are not used again;
every method then uses it. The test split is looked at once per run. Runs that are finished are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from scipy.stats import wilcoxon

from steadytune.settings.train import TrainSettings
from steadytune.training.folder import describe_environment, write_json
from steadytune.training.run import train

METHODS = ("none", "noisytune", "smart", "noisytune,smart")
LEARNING_RATES = (5e-5, 1e-4, 2e-4, 4e-4)
TUNING_SEEDS = (101, 102)
SEEDS = (1, 2, 3, 4, 5, 6)


def run(work: Path, methods: str, learning_rate: float, seed: int) -> dict[str, Any]:
    """One run; its folder says what determines it."""
    name = f"{methods.replace(',', '+')}-{learning_rate:g}-{seed}"
    settings = TrainSettings(
        task="movie-reviews",
        train_size="500",
        max_length=64,
        max_eval_samples=1066,
        methods=methods,  # pyright: ignore[reportArgumentType] - the settings split it
        learning_rate=learning_rate,
        seed=seed,
        output_dir=str(work / name),
        save_total_limit=1,
    )
    return dict(train(settings).metrics)


def summary(scores: list[float]) -> dict[str, Any]:
    """Mean, spread and median of the seeds."""
    spread = statistics.stdev(scores)
    return {"mean": statistics.mean(scores), "sd": spread, "median": statistics.median(scores), "scores": scores}


def main() -> None:
    """Tune, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="use the first so many")
    given = parser.parse_args()
    tuning = {
        rate: statistics.mean(
            run(given.work, "none", rate, seed)["after"]["validation"]["accuracy"] for seed in TUNING_SEEDS
        )
        for rate in LEARNING_RATES
    }
    seeds = SEEDS[: given.seeds]
    best = max(tuning, key=lambda rate: tuning[rate])
    runs = {methods: [run(given.work, methods, best, seed) for seed in seeds] for methods in METHODS}
    plain = [r["after"]["test"]["accuracy"] for r in runs["none"]]
    results: dict[str, Any] = {}
    for name, of_method in runs.items():
        scores = [r["after"]["test"]["accuracy"] for r in of_method]
        seconds = [r["training"]["seconds_in_last_session"] for r in of_method]
        results[name] = {
            "test_accuracy": summary(scores),
            "test_loss": summary([r["after"]["test"]["loss"] for r in of_method]),
            "imdb_accuracy": summary([r["after"]["imdb"]["accuracy"] for r in of_method]),
            "training_seconds": statistics.median(seconds),
        }
        if name != "none":
            differences = [a - b for a, b in zip(scores, plain, strict=True)]
            p = wilcoxon(differences).pvalue if any(differences) else 1.0
            results[name]["gain_over_plain"] = {**summary(differences), "wilcoxon_p": float(p)}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    content = {
        "what": " ".join((__doc__ or "").split("\n\n")[0].split()),
        "learning_rate": {"chosen": best, "validation_accuracy": {f"{k:g}": v for k, v in tuning.items()}},
        "seeds": seeds,
        "results": results,
        "commit": commit,
        **describe_environment(seed=0),
    }
    write_json(given.result, content)
    print(json.dumps(content["results"], indent=2))


if __name__ == "__main__":
    main()
