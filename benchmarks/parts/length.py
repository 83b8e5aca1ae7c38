"""Rows of different lengths: what training costs with rows of about the same length together, and in random order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks.networks import Batch, batch_of_lengths, network
from benchmarks.parts import Found
from benchmarks.rounds import Spread, interleaved, ratios, spread
from benchmarks.rows import Row, measured
from benchmarks.setting import Setting
from benchmarks.training import Plain, WithStack
from steadytune import smart
from steadytune.tasks.named.demo import minilm_folder, movie_reviews
from steadytune.training.sampling import grouped_order

ROUNDS = 2
#: Sentences of the demo, and as many long reviews as make a tenth of the rows.
SENTENCES, REVIEWS, LONGEST = 1440, 160, 128
#: Of an epoch's updates so many are timed, from the narrowest to the widest.
UPDATES = 6


def measure(setting: Setting) -> Found:
    """Measure updates of sentences with a few long reviews among them, plain and with SMART."""
    lengths = _lengths(setting)
    random = np.random.default_rng(0).permutation(len(lengths))
    grouped = grouped_order(lengths, setting.batch, (0, 0))
    epochs = {"random": _cut(lengths[random], setting.batch), "grouped": _cut(lengths[grouped], setting.batch)}
    real = int(lengths.sum())
    computed = {name: sum(len(rows) * max(rows) for rows in updates) / real for name, updates in epochs.items()}
    timed = {name: _sample(updates) for name, updates in epochs.items()}
    plain, with_smart = (_seconds_per_token(timed, methods, setting) for methods in ((), smart()))
    note = f"the tokens computed are {computed['grouped'] / computed['random']:.2f} x"
    unit = "x a random order"
    rows = [
        Row(
            "tokens computed, with rows of about the same length together",
            "x the real tokens",
            computed["grouped"],
            limit=1.1,
            note=f"in a random order {computed['random']:.2f} x; the limit is ours",
        ),
        measured("time per real token so, plain", unit, plain, limit=1.0, note=note),
        measured("time per real token so, SMART", unit, with_smart, limit=1.0, note=note),
    ]
    return Found(
        rows, {"real_tokens": real, "computed": computed, "plain": plain.as_json(), "smart": with_smart.as_json()}
    )


def _lengths(setting: Setting) -> np.ndarray:
    if setting.tiny:
        return np.random.default_rng(0).integers(3, 13, 160)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    splits = movie_reviews().splits
    texts = [*splits["train"][:SENTENCES]["text"], *splits["imdb"][:REVIEWS]["text"]]
    return np.array([len(ids) for ids in tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]])


def _cut(lengths: np.ndarray, size: int) -> list[list[int]]:
    return [lengths[start : start + size].tolist() for start in range(0, len(lengths), size)]


def _sample(updates: list[list[int]]) -> list[list[int]]:
    """Some updates, spread evenly over their widths, so that they stand for the epoch."""
    by_width = sorted(updates, key=max)
    return [by_width[int((i + 0.5) * len(by_width) / UPDATES)] for i in range(UPDATES)]


def _seconds_per_token(timed: dict[str, list[list[int]]], methods: Sequence[Any], setting: Setting) -> Spread:
    model = network(setting.models[0], setting)
    batches = {name: [batch_of_lengths(rows, model, setting) for rows in updates] for name, updates in timed.items()}
    first = batches["random"][0]
    loop = WithStack(model, first, setting, methods) if methods else Plain(model, first, setting)

    def run(batches: list[Batch]) -> None:
        for loop.batch in batches:
            loop.update()

    taken = interleaved(
        {name: partial(run, some) for name, some in batches.items()},
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
        warm_ups=0 if setting.quick else 1,
    )
    loop.close()
    tokens = {name: sum(map(sum, updates)) for name, updates in timed.items()}
    return spread([ratio * tokens["random"] / tokens["grouped"] for ratio in ratios(taken, "grouped", "random")])
