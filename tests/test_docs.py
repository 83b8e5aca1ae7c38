"""Every code block and every command in the documentation works."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import sys
import types
from pathlib import Path

import comparisons
import glue_rows
import heads
import pytest

from steadytune.cli import main
from steadytune.experiments.settings import resolve_settings
from steadytune.methods.registry import method_classes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "src" / "steadytune" / "methods").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: A file that is shown: its name, and then its content.
SHOWN_FILE = re.compile(r"^`([\w.-]+)`\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Shown, not run: pictures of a sequence of calls.
NOT_CODE = {"text", "toml"}


def blocks(language: str) -> list:
    """Every block of a language, once: what stands on several pages is run for the first."""
    found = {}
    for page in PAGES:
        matches = [code for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]
        for i, code in enumerate(matches):
            found.setdefault(code, f"{page.stem}-{i}")
    return [pytest.param(code, id=where) for code, where in found.items()]


def commands(program: str) -> list:
    lines = {}
    for block in blocks("console"):
        for line in block.values[0].splitlines():
            lines.setdefault(line, block.id)
    return [
        pytest.param(line, id=f"{i}-{where}")
        for i, (line, where) in enumerate(lines.items())
        if line.startswith(program)
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run_as_pasted(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # dataclasses look their module up by name, so the block needs one.
    monkeypatch.setitem(sys.modules, "block", types.ModuleType("block"))
    exec(compile(code, "block", "exec", dont_inherit=True), {"__name__": "block"})


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
    for page in PAGES:
        for name, content in SHOWN_FILE.findall(page.read_text(encoding="utf-8")):
            (tmp_path / name).write_text(content)
    if "--model decoder" in line:  # one of the reader's own
        heads.language_model_folder(tmp_path / "decoder", "llama")
    arguments = shlex.split(line)[1:]
    if "rte" in line or arguments[0] == "hybrid":  # on rows of these tasks
        rows = glue_rows.write_tasks(tmp_path / "data", {"rte": 8, "mrpc": 8, "sst2": 8, "stsb": 8}, 4)
        monkeypatch.setenv("STEADYTUNE_DATA", str(glue_rows.write_wnli(rows)))
        glue_rows.language_model_folder(tmp_path / "bert-base-uncased")
    if "runs/mtl/" in line:  # of multi-task training that has ended
        assert main(["multitask", "--tasks", "rte,sst2", "--max-steps", "1", "--output-dir", "runs/mtl"]) == 0
    if arguments[0] in ("multitask", "hybrid"):
        arguments += ["--max-steps", "1"]
    if arguments[0] in ("train", "compare"):  # the command itself, on fewer rows
        arguments += ["--max-steps", "1", "--max-eval-samples", "4", "--max-length", "16"]
    if arguments[0] == "compare":
        arguments += ["--seeds", "1", "--learning-rates", "1e-4", "--methods", "none,noisytune"]
    if arguments[0] == "evaluate":  # a run that is there
        assert main(["train", "--train-file", "train.csv", "--max-steps", "1", "--output-dir", arguments[1]]) == 0
        arguments += ["--max-eval-samples", "4", "--seeds", "1"]
    if arguments[0] == "report":  # of a comparison that is there
        (tmp_path / arguments[1]).mkdir(parents=True)
        content = json.dumps(comparisons.comparison().as_json())
        (tmp_path / arguments[1] / "comparison.json").write_text(content)
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


SECTIONS = (
    "What it does",
    "Equations and code",
    "Hyper-parameters",
    "Cost",
    "Composes with",
    "Where we differ from the reference code",
    "Limits",
)
CARDS = {method.name: method for method in method_classes()}


def card(name: str) -> str:
    return (ROOT / "src" / "steadytune" / "methods" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CARDS)
def test_a_card_names_every_setting_and_its_default(name):
    """The figures on a card are the defaults of the code, in their order."""
    table = card(name).split("## Hyper-parameters")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+?) \|", table, re.MULTILINE))
    method = CARDS[name]()
    assert list(rows) == list(method.settings())
    for setting, default in rows.items():
        value = getattr(method, setting)
        if isinstance(value, bool | str):
            assert default == f"`{value}`"
        elif isinstance(value, int | float):
            assert float(default) == value


@pytest.mark.parametrize("name", CARDS)
def test_a_card_has_its_sections_and_is_in_the_docs(name):
    found = re.findall(r"^## (.+)$", card(name), re.MULTILINE)
    assert [title for title in found if title in SECTIONS] == list(SECTIONS)
    assert (
        ROOT / "docs" / "methods" / f"{name}.md"
    ).resolve() == ROOT / "src" / "steadytune" / "methods" / f"{name}.md"
    assert f"methods/{name}.md" in (ROOT / "mkdocs.yml").read_text()


def test_the_generated_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run `make docs`"
    assert generate.TASKS_PAGE.read_text(encoding="utf-8") == generate.tasks_page(), "run `make docs`"


def test_the_example_in_the_docs_is_the_example():
    def code(text):
        tree = ast.parse(text)
        return next(ast.dump(node) for node in tree.body if isinstance(node, ast.ClassDef))

    blocks_there = BLOCK.findall((ROOT / "docs" / "own-method.md").read_text(encoding="utf-8"))
    assert code(blocks_there[0][1]) == code((ROOT / "examples" / "own_method.py").read_text(encoding="utf-8"))
