"""Measures what steadytune costs and writes the results: ``make bench``, ``make bench-gpu``.

python -m benchmarks --only step,empty      # some parts; the others stay in the file
python -m benchmarks --resume               # what this commit has not measured yet
python -m benchmarks --quick --tiny --output /tmp/speed.json    # shows that it runs; the figures mean nothing
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import logging as transformers_logging

from benchmarks.networks import NETWORKS
from benchmarks.parts import Found
from benchmarks.results import Results, default_file
from benchmarks.rows import Row
from benchmarks.setting import Setting
from steadytune.training.allocator import freed_memory_is_kept

#: Modules in `benchmarks.parts`, in the order in which they run.
PARTS = ("step", "empty", "teacher", "noisytune", "perturb", "start", "length", "methods")
#: On a GPU the others would measure the processor beside it.
PARTS_ON_A_GPU = ("step", "empty", "teacher", "noisytune", "length", "methods")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts that are asked for; status 1 where one of them failed."""
    given = _parse(arguments)
    setting = _setting(given)
    if setting.device.type == "cpu":
        torch.set_num_threads(setting.threads)
    output = given.output or default_file(setting)
    results = Results(output, setting)
    failed = False
    for name in _names(given, setting):
        if given.resume and results.has(name):
            print(f"{name}: measured at this commit already", flush=True)
            continue
        print(f"{name} ...", flush=True)
        # As `steadytune train` runs on a CPU: what glibc does with freed pages is no cost of a method.
        with _quiet(), freed_memory_is_kept(on=setting.device.type == "cpu"):
            failed |= not _measure(name, setting, results)
    print(f"Load of the machine: {os.getloadavg()[0]:.2f}. Written to {output}.")
    return int(failed)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names_in, help=f"parts, out of {','.join(PARTS)}")
    parser.add_argument("--resume", action="store_true", help="leave out what this commit has measured already")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=tuple(PRECISIONS), help="bf16: under autocast")
    parser.add_argument("--models", type=_names_in, default=["minilm"], help=f"out of {','.join(NETWORKS)}")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch on the CPU")
    parser.add_argument("--output", type=Path, help="the file of results")
    parser.add_argument("--quick", action="store_true", help="two rounds of everything")
    parser.add_argument("--tiny", action="store_true", help="tiny models in place of the named ones; needs --output")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.only or ()) - set(PARTS))
    if unknown:
        parser.error(f"--only: there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    unknown = sorted(set(given.models) - set(NETWORKS))
    if unknown:
        parser.error(f"--models: there is no model {unknown[0]!r}; the models are {', '.join(NETWORKS)}")
    if (given.tiny or given.quick) and given.output is None:
        parser.error("--tiny and --quick measure nothing that is worth keeping: give --output")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA GPU here")
    return given


def _setting(given: argparse.Namespace) -> Setting:
    return Setting(
        device=torch.device(given.device),
        precision=PRECISIONS[given.precision],
        models=tuple(given.models),
        threads=given.threads,
        quick=given.quick,
        tiny=given.tiny,
    )


def _names_in(text: str) -> list[str]:
    return text.split(",")


def _names(given: argparse.Namespace, setting: Setting) -> list[str]:
    of_the_device = PARTS_ON_A_GPU if setting.device.type == "cuda" else PARTS
    return [name for name in PARTS if name in (given.only or of_the_device)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what is no news here, such as that bfloat16 hides the paper's radius."""
    verbosity, ours = transformers_logging.get_verbosity(), logging.getLogger("steadytune")
    level, shows_bars = ours.level, transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        ours.setLevel(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def _measure(name: str, setting: Setting, results: Results) -> bool:
    began = time.perf_counter()
    with results.part(name) as entry:
        try:
            found: Found = importlib.import_module(f"benchmarks.parts.{name}").measure(setting)
        except Exception as error:  # one part must not take the others with it
            traceback.print_exc()
            entry["failed"] = f"{type(error).__name__}: {error}"
            return False
        entry["rows"], entry["details"] = found.rows, found.details
    for row in found.rows:
        print(f"  {_in_words(row)}")
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return True


def _in_words(row: Row) -> str:
    value = "-" if row.value is None else f"{row.value:.3g} {row.unit}"
    ends = "" if row.spread is None else f" ({row.spread.low:.3g} to {row.spread.high:.3g})"
    limit = "" if row.limit is None else f"; {row.bound} {row.limit:.3g}: {row.verdict}"
    return f"{row.what}: {value}{ends}{limit}" + (f"  [{row.note}]" if row.note else "")


if __name__ == "__main__":
    gc.freeze()  # what was imported needs no look in each of the collections between rounds
    sys.exit(main())
