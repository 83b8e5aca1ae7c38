"""`steadytune perturb` on a sharded checkpoint: its peak memory, and its speed beside `cp`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForSequenceClassification

from benchmarks.parts import Found
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.rows import Row, measured
from benchmarks.setting import Setting

ROUNDS = 3
SHARD = "100MB"
#: Layers of bert-base's width: the second model is larger, and its largest tensor is not.
LAYERS = (6, 24)
#: Runs the command and writes the high-water mark of its memory, in KiB.
_WATCHED = """
import sys
from pathlib import Path
from steadytune.cli import main
status = main(sys.argv[2:])
line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
Path(sys.argv[1]).write_text(line.split()[1])
sys.exit(status)
"""


def measure(setting: Setting) -> Found:
    """Measure two models of random weights, of which one is larger and neither has a larger tensor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (1, 2) if setting.tiny else LAYERS
        largest = max(_save(folder / str(layers), layers, setting) for layers in sizes)
        peaks = {}
        for layers in sizes:
            _perturb(folder / str(layers), folder / f"{layers}-perturbed", folder / "peak")
            peaks[layers] = int((folder / "peak").read_text()) * 1024
        source = folder / str(sizes[-1])
        target = folder / "target"

        def seconds(call: Callable[[], object]) -> float:
            lasted = setting.seconds(call)
            shutil.rmtree(target, ignore_errors=True)
            return lasted

        taken = interleaved(
            {
                "cp": lambda: _run(["cp", "-r", str(source), str(target)]),
                "perturb": lambda: _perturb(source, target, folder / "peak"),
                "start": lambda: _run([sys.executable, "-c", "import torch, transformers"]),
            },
            seconds=seconds,
            rounds=setting.rounds(ROUNDS),
            warm_ups=0 if setting.quick else 1,
        )
        size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    speed = spread([100 * ratio for ratio in ratios(taken, "cp", "perturb")])
    pairs = zip(taken["cp"], taken["perturb"], taken["start"], strict=True)
    running = spread([100 * copy / max(perturb - start, 1e-9) for copy, perturb, start in pairs])
    rate = {name: size / spread(seconds).median / 1e6 for name, seconds in taken.items()}
    rows = [
        Row(
            "steadytune perturb: peak memory",
            "MB",
            peaks[sizes[-1]] / 1e6,
            limit=(3 * largest + 200e6) / 1e6,
            note=f"model of {size / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB; "
            f"of a smaller model with the same tensor {peaks[sizes[0]] / 1e6:.0f} MB",
        ),
        measured(
            "steadytune perturb: speed, start of Python included",
            "% of cp",
            speed,
            bound="at least",
            limit=50.0,
            note=f"{rate['perturb']:.0f} MB/s, cp {rate['cp']:.0f}; without the time to import torch and Transformers "
            f"{running.median:.0f} %",
        ),
    ]
    return Found(
        rows, {"seconds": {name: spread(seconds).as_json() for name, seconds in taken.items()}, "bytes": size}
    )


def _save(folder: Path, layers: int, setting: Setting) -> int:
    """Save a model of random weights in shards; returns the bytes of its largest tensor."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "vocab_size": 100} if setting.tiny else {}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes))
    model.save_pretrained(folder, max_shard_size=SHARD)
    return max(p.numel() * p.element_size() for p in model.parameters())


def _perturb(source: Path, target: Path, peak: Path) -> None:
    _run([sys.executable, "-c", _WATCHED, str(peak), "perturb", str(source), str(target), "--intensity", "0.15"])


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with status {finished.returncode}: {finished.stderr.strip()[-500:]}")
