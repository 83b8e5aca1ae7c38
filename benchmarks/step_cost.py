"""What a training step costs with each method, as a ratio to a plain step measured in the same run.

    python benchmarks/step_cost.py --result benchmarks/results/step_cost_cpu.json

minilm, 16 sentences of 64 tokens, float32, AdamW. The methods take turns, and the ratio of each to the plain step of
the same round is kept: its median and quartiles over the rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, logging

from steadytune import Stack, bregman, smart, smoothness
from steadytune.experiments.folder import describe_environment, write_json
from steadytune.tasks.demo import minilm_folder

METHODS = {"plain": (), "smoothness": (smoothness(),), "bregman": (bregman(),), "smart": smart()}


class Trained:
    """One model with its own stack and optimizer."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model = AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2).train()
        self.stack = Stack(METHODS[name])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.stack.prepare(self.model, self.optimizer, total_updates=1000)

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """Seconds of one update."""
        began = time.perf_counter()
        self.stack.loss(self.model, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30_000, (16, 64), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(16) % 2}
    trained = {name: Trained(name) for name in METHODS}
    rounds = [{name: one.step(batch) for name, one in trained.items()} for _ in range(given.rounds + 2)][2:]
    results = {}
    for name, one in trained.items():
        ratios = [r[name] / r["plain"] for r in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        arithmetic = one.stack.explain().relative_cost
        results[name] = {
            "median_ratio": middle,
            "quartiles": [low, high],
            "arithmetic": arithmetic,
            "median_seconds": statistics.median(r[name] for r in rounds),
        }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    content = {"what": (__doc__ or "").split("\n")[0], "rounds": given.rounds, "results": results, "commit": commit}
    write_json(given.result, {**content, **describe_environment(seed=0)})
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
