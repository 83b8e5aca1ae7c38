"""What is installed: the library alone needs four packages, the commands say which extra they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from steadytune import errors

tomllib = pytest.importorskip("tomllib")
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Packages that are imported under another name than they are installed under.
IMPORTED_AS = {"scikit-learn": "sklearn", "pyyaml": "yaml", "charset-normalizer": "charset_normalizer"}

ALONE = """
import sys, tempfile
for name in ("pydantic", "typer", "rich", "datasets", "pyarrow", "sklearn", "scipy", "matplotlib"):
    sys.modules[name] = None  # as if it were not installed
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
import steadytune
from steadytune import SteadyTrainer, Stack, noisytune, r_drop

def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))

rows = [{"input_ids": [1 + i % 9, 5, 3, 2], "attention_mask": [1] * 4, "labels": i % 2} for i in range(8)]
net, stack = model(), Stack([noisytune(), r_drop()], seed=1)
stack.prepare(net)
optimizer = stack.optimizer(torch.optim.AdamW(net.parameters(), lr=1e-3))
stack.backward(net, {name: torch.tensor([row[name] for row in rows]) for name in rows[0]})
optimizer.step()
stack.finish()
with tempfile.TemporaryDirectory() as folder:
    for steps, resume in ((2, None), (4, True)):
        given = dict(report_to=[], use_cpu=True, disable_tqdm=True)
        arguments = TrainingArguments(output_dir=folder, max_steps=steps, save_steps=2, **given)
        trainer = SteadyTrainer(model=model(), args=arguments, train_dataset=rows, methods=["r_drop"])
        trainer.train(resume_from_checkpoint=resume)
print("trained", trainer.state.global_step)
for name in ("compare", "report"):
    try:
        getattr(steadytune, name)
    except ImportError as error:
        print(error)
from steadytune.cli import main
sys.exit(main(["train", "x.csv"]))
"""


def _names(requirements: list[str]) -> set[str]:
    return {requirement.partition(">")[0].strip().lower() for requirement in requirements}


def test_the_library_alone_needs_four_packages() -> None:
    assert _names(PROJECT["dependencies"]) == {"torch", "transformers", "accelerate", "safetensors"}
    needed = {IMPORTED_AS.get(name, name) for name in _names(PROJECT["optional-dependencies"]["cli"])}
    assert needed == set(errors._OF_COMMANDS)
    assert "cli" in PROJECT["optional-dependencies"]["dev"][0]


def test_the_library_trains_without_what_the_commands_need() -> None:
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    remedy = "is not installed, which the commands need: pip install 'steadytune[cli]'."
    told = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert told == ["trained 4", f"pydantic {remedy}", f"pydantic {remedy}"]
    assert done.stderr.splitlines()[-1] == f"steadytune: typer {remedy}"
