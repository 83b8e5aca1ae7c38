"""A head is one file: what is put into the folder is known everywhere, and nothing else compares names of heads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from steadytune.errors import SettingsError
from steadytune.heads.registry import FILE_HEADS, HEADS, head_of

SOURCE = Path(__file__).parents[2] / "src" / "steadytune"
#: Files ask the columns for the head, so their readers know what they read; tiny models of all families have names of
#: their own; `core` compares outputs by what they are, whatever the task.
EXEMPT = ("tasks/files/", "tasks/named/published_rows.py", "testing/", "core/", "heads/kinds/")

NEW_HEAD = """
import sys, types
from steadytune.heads import kinds

module = types.ModuleType("steadytune.heads.kinds.stance")
code = '''
from steadytune.heads.kinds.classification import Classification

class Stance(Classification):
    name = "stance"
    metrics = ("f1_macro",)

HEAD = Stance()
'''
folder = sys.argv[1]
open(folder + "/stance.py", "w").write(code)
kinds.__path__.append(folder)

import json
from steadytune.cli import suggestions
from steadytune.settings.train import TrainSettings
from steadytune.tasks.task import Task
from steadytune.heads.scores.metrics import compute_metrics

task = Task("toy", "stance", "", "", "text", None, "label", ("no", "yes"), {}, "f1_macro")
print(json.dumps([
    suggestions.heads("st"),
    TrainSettings(train_file="a.csv", head="stance").head,
    task.number_of_outputs,
    sorted(compute_metrics("stance", [[0.0, 1.0]], [1])),
]))
"""


def test_a_head_that_is_put_into_the_folder_is_known_everywhere(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEW_HEAD, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    scores = ["accuracy", "f1", "f1_macro", "matthews"]
    assert json.loads(done.stdout) == [["stance"], "stance", 2, scores]


def test_no_module_compares_names_of_heads() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = path.relative_to(SOURCE).as_posix()
        if own.startswith(EXEMPT):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            subject = node.left.attr if isinstance(node.left, ast.Attribute) else getattr(node.left, "id", "")
            named = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)} & set(HEADS)
            if subject == "head" and named:
                found.append(f"{own}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_heads_answer_for_themselves() -> None:
    assert set(FILE_HEADS) == set(HEADS) - {"retrieval"}
    for name, head in HEADS.items():
        assert head.name == name
        assert set(head.noisy_columns) <= set(head.input_columns)
        assert head.has_outputs == head.from_files == bool(head.metrics)
    assert HEADS["regression"].number_of_outputs(None) == 1
    assert HEADS["causal_lm"].auto_class(is_encoder_decoder=True) == "AutoModelForSeq2SeqLM"
    with pytest.raises(SettingsError, match="regression"):
        head_of("regresion")
