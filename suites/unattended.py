"""A suite on a borrowed GPU: one folder below 64 MiB, one command, no network, only torch and Transformers there.

    python suites/unattended.py pack --config suites/headline.yaml --data-dir ../shared/data bundle
    python bundle/unattended.py run bundle results --minutes 28 --side-by-side 8
    python suites/unattended.py collect bundle results runs/headline && steadytune report runs/headline

`pack` takes along the code, the weights in half precision and the rows. `run` makes what is missing, seed by seed and
several runs side by side, and stops in time; the same command goes on where it stopped. `collect` makes of the
results a comparison that `steadytune report` shows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import queue
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
if (HERE.parent / "code").is_dir():  # inside of a bundle
    sys.path.insert(0, str(HERE.parent / "code"))

MOST_BYTES = 64 * 2**20
MOST_TRAINING_ROWS = 10_000
#: Seconds that a run is taken to need before one was measured.
FIRST_GUESS = 60.0


# ------------------------------------------------------------------------------------------------------------- pack


def pack(config: Path, scale: str | None, data_dir: str | None, bundle: Path) -> None:
    """Put code, weights, rows and the plan of a suite into one folder."""
    import torch
    from safetensors.torch import load_file, save_file

    import steadytune
    from steadytune.comparison.candidates import candidates
    from steadytune.comparison.folder import commit
    from steadytune.models.load import find_model
    from steadytune.settings.compare import CompareSettings
    from steadytune.settings.resolve import resolve
    from steadytune.settings.train import TrainSettings
    from steadytune.training.rows import load_data

    settings = resolve(CompareSettings, {"data_dir": data_dir, "recipe": "transformers"}, config, scale)
    shutil.rmtree(bundle, ignore_errors=True)
    (bundle / "rows").mkdir(parents=True)
    code = Path(steadytune.__file__).parent
    shutil.copytree(code, bundle / "code" / "steadytune", ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    shutil.copy(HERE, bundle / HERE.name)
    model = Path(find_model(settings.model).location)
    shutil.copytree(model, bundle / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    weights = load_file(model / "model.safetensors")
    halves = {name: w.to(torch.float16) if w.is_floating_point() else w for name, w in weights.items()}
    save_file(halves, bundle / "model" / "model.safetensors", {"format": "pt"})
    loaded = {task: load_data(settings.run_settings(task=task)) for task in settings.tasks}
    tasks = {task: _pack_rows(data, settings, bundle) for task, data in loaded.items()}
    plan = {
        "settings": settings.resolved(),
        "candidates": [
            {
                "label": c.label,
                "names": list(c.names),
                "set": TrainSettings(set=dict(c.set)).method_settings(),
                "cost": c.relative_cost,
            }
            for c in candidates(settings)
        ],
        "tasks": tasks,
        "seeds": list(settings.all_seeds),
        "commit": commit(),
    }
    (bundle / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    print(f"{bundle}: {size / 2**20:.1f} MiB, {len(planned(plan))} runs and {len(tuning(plan))} to choose rates.")
    if size > MOST_BYTES:
        raise SystemExit(f"{bundle} is larger than {MOST_BYTES // 2**20} MiB: take fewer tasks, or a smaller model.")


def _pack_rows(data: Any, settings: Any, bundle: Path) -> dict[str, Any]:
    """Write the rows of a task, and return what a run must know of it."""
    task = data.task
    if task.head not in ("classification", "regression"):
        raise SystemExit(f"{task.name}: only classification and regression are run unattended, not {task.head}.")
    splits = {}
    for name, rows in data.splits.items():
        limit = MOST_TRAINING_ROWS if name == "train" else settings.max_eval_samples or len(rows)
        split = rows.shuffle(seed=0).select(range(min(limit, len(rows))))
        pair = split["text_pair"][:] if "text_pair" in split.column_names else None
        splits[name] = {"text": split["text"][:], "pair": pair, "label": split["label"][:]}
    (bundle / "rows" / f"{task.name}.json").write_text(json.dumps(splits), encoding="utf-8")
    tests = [name for name in splits if name not in ("train", "validation")]
    return {
        "head": task.head,
        "classes": len(task.label_names) if task.head == "classification" else 1,
        "metric": task.metric,
        "test_splits": tests,
    }


# ------------------------------------------------------------------------------------------------------------- plan


#: A task and a training size.
Place = tuple[str, str | None]


def _run(plan: dict[str, Any], cell: Place, candidate: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
    content = {"task": cell[0], "size": cell[1], "candidate": candidate, "rate": rate, "seed": seed}
    fixed = {k: plan["settings"][k] for k in ("num_train_epochs", "per_device_train_batch_size", "max_length")}
    key = hashlib.sha256(json.dumps([content, fixed, plan["commit"]], sort_keys=True).encode()).hexdigest()[:16]
    return {"key": key, **content}


def _cells(plan: dict[str, Any]) -> list[Place]:
    return [(task, size) for task in plan["tasks"] for size in plan["settings"]["train_sizes"] or [None]]


def tuning(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that choose a learning rate: every candidate, every rate, the first seed."""
    rates = plan["settings"]["learning_rates"]
    if len(rates) == 1:
        return []
    return [
        _run(plan, cell, candidate, rate, plan["seeds"][0])
        for cell in _cells(plan)
        for candidate in plan["candidates"]
        for rate in rates
    ]


def planned(plan: dict[str, Any], known: dict[str, dict] | None = None) -> list[dict[str, Any]]:
    """The compared runs, seed by seed, each with the rate that was best on validation rows."""
    return [
        _run(plan, cell, candidate, chosen_rate(plan, known or {}, cell, candidate), seed)
        for seed in plan["seeds"]
        for cell in _cells(plan)
        for candidate in plan["candidates"]
    ]


def chosen_rate(plan: dict, known: dict[str, dict], cell: Place, candidate: dict) -> float:
    """The learning rate with the best validation score, the smallest on a tie."""
    rates = sorted(plan["settings"]["learning_rates"])
    scores = {}
    for rate in rates:
        found = known.get(_run(plan, cell, candidate, rate, plan["seeds"][0])["key"])
        if found is not None and found["status"] == "finished":
            scores[rate] = found["metrics"]["validation"][plan["tasks"][cell[0]]["metric"]]
    return max(scores, key=lambda rate: (scores[rate], -rate)) if scores else rates[0]


# -------------------------------------------------------------------------------------------------------------- run


class Workers:
    """Processes that share the GPU, each making one run at a time."""

    def __init__(self, bundle: Path, count: int, end: float) -> None:
        import torch.multiprocessing as processes

        context = processes.get_context("spawn")
        self.todo, self.done, self.count, self.end = context.Queue(), context.Queue(), count, end
        self.longest = 0.0
        self.processes = [
            context.Process(target=work, args=(str(bundle), self.todo, self.done), daemon=True) for _ in range(count)
        ]
        for process in self.processes:
            process.start()

    def make(self, missing: list[dict], keep: Callable[[dict], None]) -> bool:
        """Make runs and keep the record of each; say whether there was time for all."""
        waiting, busy = list(reversed(missing)), 0
        while waiting or busy:
            while waiting and busy < self.count and time.monotonic() + (self.longest or FIRST_GUESS) < self.end:
                self.todo.put(waiting.pop())
                busy += 1
            if not busy:
                return False
            try:
                record = self.done.get(timeout=max(1.0, self.end - time.monotonic()))
            except queue.Empty:
                return False
            busy -= 1
            self.longest = max(self.longest, record["seconds"])
            keep(record)
        return True

    def stop(self) -> None:
        """End the processes, whatever they do."""
        for process in self.processes:
            process.terminate()


def run(bundle: Path, results: Path, minutes: float, side_by_side: int) -> None:
    """Make what is missing until the time is up."""
    plan = json.loads((bundle / "plan.json").read_text(encoding="utf-8"))
    results.mkdir(parents=True, exist_ok=True)
    known = read_results(results)

    def keep(record: dict[str, Any]) -> None:
        unfinished = results / f".{record['key']}"
        unfinished.write_text(json.dumps(record), encoding="utf-8")
        os.replace(unfinished, results / f"{record['key']}.json")
        known[record["key"]] = record
        label, seed = record["candidate"]["label"], record["seed"]
        print(f"{len(known)}: {record['task']}, {label}, seed {seed}: {record['status']}", flush=True)

    workers = Workers(bundle, side_by_side, time.monotonic() + 60 * minutes)
    try:
        if workers.make([one for one in tuning(plan) if one["key"] not in known], keep):
            workers.make([one for one in planned(plan, known) if one["key"] not in known], keep)
    finally:
        workers.stop()
    left = sum(one["key"] not in known for one in [*tuning(plan), *planned(plan, known)])
    print(f"{len(known)} runs are in {results}; {f'{left} are missing: run it again' if left else 'all done'}.")


def read_results(results: Path) -> dict[str, dict]:
    """All records by key."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}


def work(bundle: str, todo: Any, done: Any) -> None:
    """Make runs until there are none: one process of several that share the GPU."""
    sys.path.insert(0, str(Path(bundle) / "code"))
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    plan = json.loads((Path(bundle) / "plan.json").read_text(encoding="utf-8"))
    rows: dict[str, Any] = {}
    while (one := todo.get()) is not None:
        began = time.monotonic()
        try:
            if one["task"] not in rows:
                rows[one["task"]] = tokenized(Path(bundle), plan, one["task"])
            outcome = train(Path(bundle), plan, one, rows[one["task"]])
        except Exception as error:  # one run must not end the others
            outcome = broken_off(error)
        done.put({**one, "error": None, "metrics": {}, "training": {}, **outcome, "seconds": time.monotonic() - began})


def broken_off(error: Exception) -> dict[str, Any]:
    """What is kept of a run that an error ended; the stack raises one when a number is no longer finite."""
    from steadytune.errors import DivergedError

    status = "diverged" if isinstance(error, DivergedError) else "failed"
    return {"status": status, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def tokenized(bundle: Path, plan: dict[str, Any], task: str) -> dict[str, list[tuple[list[int], float]]]:
    """Token numbers and label of each row, by split."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle / "model")
    found = {}
    for name, split in json.loads((bundle / "rows" / f"{task}.json").read_text(encoding="utf-8")).items():
        ids = tokenizer(split["text"], split["pair"], truncation=True, max_length=plan["settings"]["max_length"])
        found[name] = list(zip(ids["input_ids"], split["label"], strict=True))
    return found


def train(bundle: Path, plan: dict[str, Any], one: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune once with a plain loop, and score every split."""
    import torch
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, set_seed

    from steadytune import Stack
    from steadytune.core.stack.finite_watch import non_finite_weight
    from steadytune.methods.registry import build_methods

    settings, task, seed = plan["settings"], plan["tasks"][one["task"]], one["seed"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    set_seed(seed)
    kind = "single_label_classification" if task["head"] == "classification" else "regression"
    model = AutoModelForSequenceClassification.from_pretrained(
        bundle / "model", num_labels=task["classes"], problem_type=kind, dtype=torch.float32
    ).to(device)
    order = torch.Generator().manual_seed(seed)
    chosen = subset(rows["train"], one["size"], order)
    size, epochs = settings["per_device_train_batch_size"], settings["num_train_epochs"]
    updates = math.ceil(math.ceil(len(chosen) / size) * epochs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=one["rate"], weight_decay=settings["weight_decay"])
    model.train()
    times = []
    with Stack(build_methods(one["candidate"]["names"], one["candidate"]["set"]), seed=seed) as stack:
        stack.prepare(model, total_updates=updates)
        optimizer = stack.optimizer(optimizer)
        schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * updates), updates)

        def update() -> None:
            if settings["max_grad_norm"] > 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()

        while len(times) < updates:
            places = torch.randperm(len(chosen), generator=order).tolist()
            for start in range(0, len(chosen), size):
                began = time.perf_counter()
                batch = padded([chosen[i] for i in places[start : start + size]], kind, device)
                stack.backward(model, batch, update=update)
                update()
                schedule.step()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
                if len(times) == updates:
                    break
    finite = non_finite_weight(model) is None
    names = ["validation", *task["test_splits"]]
    metrics = {name: scores(model, rows[name], task["head"], kind, device) for name in names} if finite else {}
    training = {"updates": updates, "seconds": sum(times), "seconds_per_update": statistics.median(times)}
    environment = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    return {
        "status": "finished" if finite else "diverged",
        "metrics": metrics,
        "training": training,
        "environment": environment,
    }


def subset(rows: list, size: str | None, order: Any) -> list:
    """So many rows, drawn with the run's seed."""
    import torch

    count = len(rows) if size is None else int(size) if not size.endswith("%") else len(rows) * int(size[:-1]) // 100
    return [rows[i] for i in torch.randperm(len(rows), generator=order).tolist()[:count]]


def padded(rows: list, kind: str, device: str) -> dict[str, Any]:
    """A batch, as long as its longest row; the models of these suites pad with 0."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    of = torch.float32 if kind == "regression" else torch.long
    labels = torch.tensor([label for _, label in rows], dtype=of)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def scores(model: Any, rows: list, head: str, kind: str, device: str) -> dict[str, float]:
    """Metrics of a split by formulas that need numpy alone; a test holds them against scikit-learn's."""
    import numpy as np
    import torch

    model.eval()
    outputs = []
    with torch.no_grad():
        for start in range(0, len(rows), 256):
            batch = padded(rows[start : start + 256], kind, device)
            batch.pop("labels")
            outputs.append(model(**batch).logits.float().cpu().numpy())
    return measured(head, np.concatenate(outputs), np.asarray([label for _, label in rows]))


def measured(head: str, logits: Any, labels: Any) -> dict[str, float]:
    """Accuracy, F1 of class 1 and Matthews' coefficient, or Pearson's and Spearman's correlation."""
    import numpy as np

    if head == "regression":
        ranks = [_ranks(values) for values in (logits[:, 0], labels)]
        pearson, spearman = (float(np.corrcoef(*pair)[0, 1]) for pair in ((logits[:, 0], labels), ranks))
        return {"pearson": pearson, "spearman": spearman}
    found = logits.argmax(1)
    table = np.zeros((logits.shape[1],) * 2)
    np.add.at(table, (labels, found), 1)
    right, total = np.trace(table), table.sum()
    rows, columns = table.sum(1), table.sum(0)
    spread = math.sqrt((total**2 - (rows**2).sum()) * (total**2 - (columns**2).sum()))
    result = {
        "accuracy": float(right / total),
        "matthews": float((right * total - rows @ columns) / spread) if spread else 0.0,
    }
    if len(table) == 2:
        result["f1"] = float(2 * table[1, 1] / max(rows[1] + columns[1], 1))
    return result


def _ranks(values: Any) -> Any:
    """Ranks from 1, the mean of them for equal values."""
    import numpy as np

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


# ---------------------------------------------------------------------------------------------------------- collect


def collect(bundle: Path, results: Path, folder: Path) -> None:
    """Write the results as a comparison."""
    from steadytune.comparison.records import FILE_NAME, Cell, Comparison, RunRecord
    from steadytune.training.folder import write_json

    plan = json.loads((bundle / "plan.json").read_text(encoding="utf-8"))
    known = read_results(results)

    def record(one: dict[str, Any]) -> RunRecord | None:
        found = known.get(one["key"])
        if found is None:
            return None
        candidate = found["candidate"]
        return RunRecord(
            key=found["key"],
            candidate=candidate["label"],
            methods=tuple(candidate["names"]),
            method_settings={},
            task=found["task"],
            train_size=found["size"],
            learning_rate=found["rate"],
            seed=found["seed"],
            status=found["status"],
            error=found["error"],
            metrics={"before": {}, "after": found["metrics"]},
            training={**found["training"], "relative_cost": candidate["cost"]},
            environment=found.get("environment", {}),
        )

    cells = []
    for name, size in _cells(plan):
        task = plan["tasks"][name]
        rates = {c["label"]: chosen_rate(plan, known, (name, size), c) for c in plan["candidates"]}
        tuned, final = (
            tuple(r for one in stage if (one["task"], one["size"]) == (name, size) and (r := record(one)) is not None)
            for stage in (tuning(plan), planned(plan, known))
        )
        tests = tuple(task["test_splits"])
        cells.append(Cell(name, size, task["metric"], True, tests, rates, tuned, final))
    environment = {**plan["commit"], **(cells[0].runs[0].environment if cells and cells[0].runs else {})}
    names = ", ".join(plan["tasks"])
    folder.mkdir(parents=True, exist_ok=True)
    command = "python suites/unattended.py (see its first lines)"
    found = Comparison(plan["settings"], names, cells[0].metric, tuple(cells), environment, command)
    write_json(folder / FILE_NAME, found.as_json())
    print(f"{folder / FILE_NAME}: {sum(len(cell.runs) for cell in cells)} runs")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("--config", type=Path, required=True)
    packing.add_argument("--scale")
    packing.add_argument("--data-dir")
    packing.add_argument("bundle", type=Path)
    running = verbs.add_parser("run")
    running.add_argument("bundle", type=Path)
    running.add_argument("results", type=Path)
    running.add_argument("--minutes", type=float, default=28.0)
    running.add_argument("--side-by-side", type=int, default=8)
    collecting = verbs.add_parser("collect")
    for name in ("bundle", "results", "folder"):
        collecting.add_argument(name, type=Path)
    given = parser.parse_args(arguments)
    if given.verb == "pack":
        pack(given.config, given.scale, given.data_dir, given.bundle)
    elif given.verb == "run":
        run(given.bundle, given.results, given.minutes, given.side_by_side)
    else:
        collect(given.bundle, given.results, given.folder)


if __name__ == "__main__":
    main()
