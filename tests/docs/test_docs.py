"""Every code block and every command in the documentation works."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml
from helpers import comparisons, glue_rows, heads, trained
from helpers.comparing import InProcess

from steadytune.cli import main
from steadytune.methods.registry import method_classes
from steadytune.settings.resolve import resolve_settings
from steadytune.tasks.named.demo import minilm_folder

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if not p.is_symlink() and p.parent.name != "api"),
]
PAGES += sorted((ROOT / "src" / "steadytune" / "methods").glob("*.md"))
README = PAGES[0].read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: A file that is shown: its name, and then its content.
SHOWN_FILE = re.compile(r"^`([\w.-]+)`\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Shown, not run: pictures of a sequence of calls.
NOT_CODE = {"text", "toml", "diff"}
#: Pages whose commands train or evaluate several times.
LONG = {"multi-task", "evaluation"}


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
        pytest.param(line, id=f"{i}-{where}", marks=[pytest.mark.long] if where.rsplit("-", 1)[0] in LONG else [])
        for i, (line, where) in enumerate(lines.items())
        if line.startswith(program)
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run_as_pasted(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if '"runs/plain/model"' in code:  # that the page has trained before
        (tmp_path / "runs" / "plain").mkdir(parents=True)
        (tmp_path / "runs" / "plain" / "model").symlink_to(minilm_folder())
    # dataclasses look their module up by name, so the block needs one.
    monkeypatch.setitem(sys.modules, "block", types.ModuleType("block"))
    exec(compile(code, "block", "exec", dont_inherit=True), {"__name__": "block"})


@pytest.mark.parametrize("code", blocks("yaml"))
def test_configurations_are_valid(code, tmp_path):
    (tmp_path / "config.yaml").write_text(code)
    assert resolve_settings({}, tmp_path / "config.yaml").methods == ["noisytune", "smart"]


def on_fewer_rows(arguments: list[str]) -> list[str]:
    """The command itself, made short."""
    verb = arguments[0]
    if verb in ("multitask", "hybrid"):
        arguments = [*arguments, "--max-steps", "1"]
    if verb in ("train", "compare"):
        steps = [] if "--probe" in arguments else ["--max-steps", "1"]  # a probe has none
        arguments = [*arguments, *steps, "--max-eval-samples", "4", "--max-length", "16"]
    if verb == "compare":
        arguments = [*arguments, "--seeds", "1", "--learning-rates", "1e-4", "--methods", "none,noisytune"]
    if verb == "evaluate":
        arguments = [*arguments, "--max-eval-samples", "4", "--seeds", "1"]
    if any("suites/" in argument for argument in arguments):
        arguments = [*arguments, "--tasks", "rte", "--train-sizes", "8"]
    return arguments


def write_what_is_named(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's files, data sets and earlier runs."""
    verb, first = [*shlex.split(line), ""][1:3]
    rows = "".join(f"a {'good' if i % 2 else 'bad'} film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(40))
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("text,label\n" + rows)
    for page in PAGES:
        for name, content in SHOWN_FILE.findall(page.read_text(encoding="utf-8")):
            (folder / name).write_text(content)
    if "--model decoder" in line:
        heads.language_model_folder(folder / "decoder", "llama")
    if "rte" in line or verb == "hybrid":
        data = glue_rows.write_tasks(folder / "data", {"rte": 8, "mrpc": 8, "sst2": 8, "stsb": 8}, 4)
        monkeypatch.setenv("STEADYTUNE_DATA", str(glue_rows.write_wnli(data)))
        glue_rows.language_model_folder(folder / "bert-base-uncased")
    if "suites/" in line:
        (folder / "suites").symlink_to(ROOT / "suites")
        (folder / "data").mkdir(exist_ok=True)
        glue_rows.write_tasks(folder / "data", {"rte": 40}, 4)
    if "runs/mtl/" in line:  # of multi-task training that has ended
        assert main(["multitask", "--tasks", "rte,sst2", "--max-steps", "1", "--output-dir", "runs/mtl"]) == 0
    if verb == "predict":
        (folder / "reviews.csv").write_text("text\n" + "a good film\n" * 3)
        trained.trained_folder(folder / first, "classification")
    if verb == "evaluate":
        assert main(["train", "--train-file", "train.csv", "--max-steps", "1", "--output-dir", first]) == 0
    if verb == "report":
        (folder / first).mkdir(parents=True)
        (folder / first / "comparison.json").write_text(json.dumps(comparisons.comparison().as_json()))


@pytest.mark.parametrize("line", commands("steadytune"))
def test_commands_work(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_what_is_named(line, tmp_path, monkeypatch)
    if line not in README:  # a worker process takes seconds to start: once is enough
        monkeypatch.setattr("steadytune.comparison.compare.make_engine", lambda settings: InProcess())
    assert main(on_fewer_rows(shlex.split(line)[1:])) == 0, capsys.readouterr().err


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


def test_generated_pages_are_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    generate = importlib.import_module("generate")
    for path, text in generate.generated().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"


def test_the_evidence_is_that_of_the_report(monkeypatch):
    """The table is computed from the scores alone, and says what the kept report of the same runs says."""
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    results = ROOT / "benchmarks" / "results"
    lines = importlib.import_module("evidence").evidence_table(results)
    report = (results / "movie_reviews_64.md").read_text(encoding="utf-8")
    plain, kept = (
        next(line for line in report.splitlines() if line.startswith(f"| {n} |")) for n in ("plain", "smart")
    )
    mean = plain.split(" | ")[3].split(" (")[0]
    seeds, gain, interval, p, cost = (kept.split(" | ")[i] for i in (2, 6, 8, 10, 11))
    row = next(line for line in lines if "movie_reviews_64.csv" in line and "`smart`" in line)
    assert f"| {seeds} | {mean} | {gain} {interval} | {float(p):.2g} | {cost.removesuffix('×')} × |" in row


def test_the_example_in_the_docs_is_the_example():
    def code(text):
        tree = ast.parse(text)
        return next(ast.dump(node) for node in tree.body if isinstance(node, ast.ClassDef))

    blocks_there = BLOCK.findall((ROOT / "docs" / "guides" / "own-method.md").read_text(encoding="utf-8"))
    assert code(blocks_there[0][1]) == code((ROOT / "examples" / "own_method.py").read_text(encoding="utf-8"))


SOURCE = ROOT / "src" / "steadytune"


def defined(path: Path) -> set[str]:
    """Dotted names of the functions, classes and assignments of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        found |= {t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)}
        name = getattr(node, "name", None)
        found |= {name} | {f"{name}.{inner.name}" for inner in getattr(node, "body", []) if hasattr(inner, "name")}
    return found


def test_every_function_that_the_papers_are_mapped_to_exists():
    text = (ROOT / "docs" / "concepts" / "algorithms.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)+\w+\.py)` `([\w.]+)`", text)
    assert len(named) > 40
    assert not [f"{file} {name}" for file, name in named if name not in defined(SOURCE / file)]


def test_every_fault_of_others_names_its_test():
    text = (ROOT / "docs" / "concepts" / "faults-of-others.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    for row in rows:
        tests = re.findall(r"`(test_[\w.]+)`", row.rsplit(" | ", 1)[1])
        assert tests, row
        assert set(tests) <= there, row


def texts_of_the_source() -> list[str]:
    """Every text of the source on one line; what a format string fills in is a null character."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_in_the_troubleshooting_exists():
    page = (ROOT / "docs" / "start" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [title.strip("`") for title in re.findall(r"^#### (.+)$", page, re.MULTILINE)]
    assert len(messages) > 40
    texts = texts_of_the_source()
    for message in messages:
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))))
        assert any(pattern.search(text) for text in texts), message


def test_the_citation_is_complete():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    for field in ("version", "license"):
        assert f'\n{field} = "{cited[field]}"\n' in project
    assert [reference["conference"]["name"] for reference in cited["references"]] == ["ACL 2020", "ACL 2022"]


def test_the_map_names_every_folder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))
    mapped = importlib.import_module("code_map")
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(mapped.FOLDERS) == folders
    assert all((ROOT / name).is_dir() for name in mapped.BESIDE)
    for path in SOURCE.rglob("*.py"):
        assert path.stem == "__init__" or mapped.first_line(path), f"{path} does not say what it is for"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 200_000
