"""A method is found by its class and a preset by its decorator: their names stand nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny

import steadytune
from steadytune import SteadyTrainer, names, noisytune, smart
from steadytune.cli import suggestions
from steadytune.errors import MethodError
from steadytune.integrations.lightning import SteadyModuleMixin
from steadytune.methods.registry import REGISTRY, all_methods

SOURCE = Path(steadytune.__file__).parent
NEW_METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from steadytune.core.authoring import Cost, LossMethod, PerItem, Step


@dataclass(frozen=True)
class Small(LossMethod):
    """Keeps the outputs small."""

    name: ClassVar[str] = "small_outputs"
    paper: ClassVar[str] = "a test"

    def term(self, step: Step) -> PerItem:
        return step.per_update(step.logits().square().mean())

    def effect(self) -> str:
        return "keeps the outputs small"
'''
EVERYWHERE = """
from steadytune.cli import suggestions
import steadytune, sys
assert "small_outputs" in suggestions.method_names()
assert "small_outputs" in dir(steadytune)
assert "torch" not in sys.modules
from steadytune import Stack, small_outputs
from steadytune.methods.registry import build_methods
assert build_methods(["small_outputs"], {"small_outputs": {"weight": 2.0}}) == [small_outputs(weight=2.0)]
print(Stack(["small_outputs"]))
"""
FAST = """
import sys, time
begin = time.process_time()
import steadytune
print(time.process_time() - begin)
assert "torch" not in sys.modules
"""


def python(code: str, source: Path = SOURCE.parent) -> str:
    environment = os.environ | {"PYTHONPATH": str(source)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_what_the_source_says_is_what_is_imported() -> None:
    assert list(REGISTRY) == list(names.methods())
    for name, entry in REGISTRY.items():
        first, *variant = name.split(".")
        public = getattr(steadytune, first)
        assert (getattr(public, variant[0]) if variant else public) == entry.build
        assert entry.summary
        if isinstance(entry.build, type):
            assert entry.build.__dict__["name"] == name
    assert suggestions.method_names() == list(all_methods())
    assert {name for name in REGISTRY if "." not in name} < set(dir(steadytune))


def test_a_new_file_is_a_new_method_everywhere(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "steadytune", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "steadytune" / "methods" / "small.py").write_text(NEW_METHOD)
    assert python(EVERYWHERE, tmp_path) == "small_outputs\n"


def test_importing_steadytune_takes_milliseconds_and_no_torch() -> None:
    assert min(float(python(FAST)) for _ in range(3)) < 0.05


def test_star_import_brings_the_public_names() -> None:
    found: dict[str, object] = {}
    exec("from steadytune import *", found)
    assert set(dir(steadytune)) <= set(found)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'smrat'"):
        _ = steadytune.smrat  # type: ignore[attr-defined]


def test_hosts_take_methods_by_name(tmp_path: Path) -> None:
    trainer = SteadyTrainer(model=tiny.bert(), args=tiny.arguments(tmp_path), methods=["smart", "noisytune"])
    assert trainer.stack.methods == (*smart(), noisytune())
    assert SteadyModuleMixin(methods=["smart"]).stack.methods == smart()
    with pytest.raises(MethodError, match=r"There is no method 'smrat'\. Did you mean 'smart'\?"):
        SteadyModuleMixin(methods=["smrat"])
