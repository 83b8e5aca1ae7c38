"""Every code block and every command in the documentation works."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from steadytune.cli import main
from steadytune.experiments.settings import resolve_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "src" / "steadytune" / "methods").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Shown, not run: pictures of a sequence of calls.
NOT_CODE = {"text"}


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        matches = [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]
        found += [pytest.param(code, id=f"{page.stem}-{i}") for i, code in enumerate(matches)]
    return found


def commands(program: str) -> list:
    lines = [(p.id, line) for p in blocks("console") for line in p.values[0].splitlines()]
    return [pytest.param(line, id=f"{i}-{where}") for i, (where, line) in enumerate(lines) if line.startswith(program)]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run_as_pasted(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # dataclasses look their module up by name, so the block needs one.
    monkeypatch.setitem(sys.modules, "block", types.ModuleType("block"))
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("code", blocks("yaml"))
def test_configurations_are_valid(code, tmp_path):
    (tmp_path / "config.yaml").write_text(code)
    assert resolve_settings({}, tmp_path / "config.yaml").methods == ["noisytune", "smart"]


@pytest.mark.parametrize("line", commands("steadytune"))
def test_commands_work(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(40))
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text("text,label\n" + rows)
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train":  # the command itself, on fewer rows
        arguments += ["--max-steps", "1", "--max-eval-samples", "4", "--max-length", "16"]
    assert main(arguments) == 0, capsys.readouterr().err


def test_every_make_command_is_a_target():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"^make (\w+)", text, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", text))
    assert named
    assert named <= targets


def test_every_block_is_of_a_kind_that_is_tested():
    kinds = {kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert kinds <= {"python", "yaml", "console"} | NOT_CODE


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_cards_name_the_defaults():
    """The figures on a card are the defaults of the code."""
    from steadytune.methods.registry import REGISTRY

    for name in ("noisytune", "smoothness", "bregman"):
        card = (ROOT / "src" / "steadytune" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        (method,) = REGISTRY[name].methods()
        rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+?) \|", card, re.MULTILINE))
        assert rows.keys() == method.settings().keys()
        for setting, default in rows.items():
            value = getattr(method, setting)
            if isinstance(value, bool | str):
                assert default == f"`{value}`"
            elif isinstance(value, int | float):
                assert float(default) == value
