"""Writes the pages and tables that follow from the code and from kept results.

`make docs` runs it, a test compares: docs/compatibility.md, docs/hyper-parameters.md, docs/code-map.md, the tables in
docs/tasks.md and docs/suites.md, and the evidence in README.md and docs/index.md; with ``--families`` also
docs/families.md.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from code_map import code_map
from evidence import evidence_table
from question_tables import question_tables
from speed_table import missed_table, speed_tables
from suite_table import suite_table

from steadytune.core.authoring.cost import PLAIN_STEP
from steadytune.core.authoring.hyperparameters import allowed_values
from steadytune.core.stack.composition import conflict, total_cost
from steadytune.methods.registry import REGISTRY, method_classes
from steadytune.tasks.named.registry import task_names, task_record
from steadytune.testing import PROPERTIES
from steadytune.testing.matrix import Refusals, everything, table

PAGE = Path(__file__).parent / "compatibility.md"
TASKS_PAGE = Path(__file__).parent / "tasks.md"
SETTINGS_PAGE = Path(__file__).parent / "hyper-parameters.md"
QUESTIONS_PAGE = Path(__file__).parent / "which-method.md"
SUITES_PAGE = Path(__file__).parent / "suites.md"
SPEED_PAGE = Path(__file__).parent / "speed.md"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "README.md"
MAP_PAGE = Path(__file__).parent / "code-map.md"
START_PAGE = Path(__file__).parent / "index.md"
README = Path(__file__).parents[1] / "README.md"
_TABLE = "<!-- The table is written by docs/generate.py. -->\n"
_END = "<!-- end of the table -->"
FAMILIES_PAGE = Path(__file__).parent / "families.md"


def methods_table() -> list[str]:
    """One row per name: role, cost, memory, source."""
    lines = ["| name | role | a step | copies | sets | source |", "|---|---|---|---|---|---|"]
    for entry in REGISTRY.values():
        parts = entry.methods()
        total = total_cost(parts)
        roles = " + ".join(dict.fromkeys(m.role for m in parts))
        papers = "; ".join(dict.fromkeys(m.paper for m in parts))
        relative = f"{total.units / PLAIN_STEP.units:.2f} x"
        card = f"methods/{parts[0].name}.md" if len(parts) == 1 else f"methods/{entry.name.split('.')[0]}.md"
        if entry.name == "r4f":
            card = "methods/r3f.md"
        lines.append(
            f"| [`{entry.name}`]({card}) | {roles} | {relative} | {total.weight_copies} | {total.activation_sets} "
            f"| {papers} |"
        )
    return lines


def refused_pairs() -> list[str]:
    """Every pair that a stack refuses, with the reason."""
    methods = [m() for m in method_classes() if m.name in REGISTRY]
    pairs = itertools.combinations(methods, 2)
    return [f"- {reason}" for a, b in pairs if (reason := conflict(a, b)) is not None]


def exceptions() -> list[str]:
    """What of the contract does not apply to whom, with the reason."""
    lines = ["| method | property | why it does not apply |", "|---|---|---|"]
    for method in method_classes():
        if method.name in REGISTRY:
            lines += [f"| `{method.name}` | {name} | {reason} |" for name, reason in method.not_applicable.items()]
    return lines


def page() -> str:
    """The whole page."""
    count = len([m for m in method_classes() if m.name in REGISTRY])
    return "\n".join(
        [
            "# Methods, costs, and what goes together",
            "",
            "Generated from the facts on the classes by `docs/generate.py`; the figures are counted in the tests.",
            "",
            "*A step* is its arithmetic relative to a plain one (a forward pass 1, a backward pass to the weights 2,",
            "to the embeddings alone 1; plain is 3). *Copies* are extra copies of the trainable weights, *sets* extra",
            "sets of activations alive at the same time.",
            "",
            *methods_table(),
            "",
            "## What is refused",
            "",
            f"Of the {count * (count - 1) // 2} pairs of {count} methods these are refused when a stack is built; "
            "every other pair is trained in a test.",
            "",
            *refused_pairs(),
            "",
            "## The contract",
            "",
            "Every method is checked for every property, except where the last table says why it cannot apply.",
            "",
            "| property | what holds |",
            "|---|---|",
            *(f"| {p.name} | {p.statement} |" for p in PROPERTIES.values()),
            "",
            *exceptions(),
            "",
        ]
    )


def families_page(found: Refusals) -> str:
    """Which method trains which head of which family; trying them all takes a minute or two."""
    count = sum(method.name in REGISTRY for method in method_classes())
    return "\n".join(
        [
            "# Model families and heads",
            "",
            f"Each of the {count} methods trains a tiny random model of each family with each",
            "head that Transformers has for it; the same test writes this page (`make families`). *all*: every",
            "method trains. *not ...*: these refuse when the model is prepared, with a reason. *–*: there is no",
            "such model.",
            "",
            "Perturbations always enter at the word embeddings (an image's patch embeddings) through a hook,",
            "never through `inputs_embeds`. Terms compare what the head predicts: one distribution per example,",
            "label, choice, token, or start and end of an answer. Padding and labels of -100 enter no",
            "divergence, nor do the borders between packed texts, whose labels are -100. Of a language model",
            "each supervised token counts as one item, and the vocabulary is compared a few tokens at a time:",
            "beside the outputs of the passes and their gradients a term takes less than 200 MiB.",
            "",
            *table(found),
            "",
        ]
    )


def tasks_table() -> list[str]:
    """One row per named task: head, metric, folder, Hub, source."""
    lines = ["| task | head | metric | data folder | on the Hub | source |", "|---|---|---|---|---|---|"]
    for task in map(task_record, task_names()):
        folders = dict.fromkeys(source.file.split("/")[0] for source in task.sources)
        if task.family == "GLUE":
            folders = {f"glue/{task.name}": None}
        places = ", ".join(f"`{folder}`" for folder in folders) or "a wheel"
        hub = ", ".join(f"`{hub}`" for hub in dict.fromkeys(s.hub_id for s in task.sources if s.hub_id)) or "-"
        mark = " *" if task.evaluation_only else ""
        head = task.head.replace("_", " ")
        lines.append(
            f"| `{task.name}`{mark} | {head} | {', '.join(task.metrics)} | {places} | {hub} | {task.citation} |"
        )
    return lines


def settings_page() -> str:
    """Every hyper-parameter of every method, and what the presets set."""
    lines = [
        "# Hyper-parameters",
        "",
        "Written by `docs/generate.py` from the methods themselves: a value outside its range is refused with this",
        "range in the message. What the papers used stands on the cards. On the command line: `--set smart.weight=3`.",
        "",
    ]
    for method in method_classes():
        if method.name in REGISTRY:
            lines += [f"## [{method.name}](methods/{method.name}.md)", "", *_settings_table(method), ""]
    lines += ["## Presets", "", "| name | settings |", "|---|---|"]
    for entry in REGISTRY.values():
        if not inspect.isclass(entry.build):
            lines.append(f"| `{entry.name}` | {_preset(entry.build)} |")
    return "\n".join([*lines, ""])


def _settings_table(method: type) -> list[str]:
    if not fields(method):
        return ["It has no settings."]
    lines = ["| name | default | may be | what it is |", "|---|---|---|---|"]
    for f in fields(method):
        default = "none" if f.default in (None, ()) else f"`{f.default}`"
        doc = str(f.metadata["doc"]).replace("|", "\\|")
        lines.append(f"| `{f.name}` | {default} | {allowed_values(f.metadata)} | {doc} |")
    return lines


def _preset(build: object) -> str:
    parameters = inspect.signature(build).parameters.values()  # pyright: ignore[reportArgumentType]
    open_ones = [f"the settings of `{p.name}`" for p in parameters if p.kind is p.VAR_KEYWORD]
    named = [f"`{p.name}={p.default}`" for p in parameters if p.kind is not p.VAR_KEYWORD]
    return ", ".join([*named, *open_ones])


def _with_table(page: Path, table: Sequence[str]) -> str:
    """A page with its table as it follows from the code."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_TABLE)
    after = rest.partition(_END)[2]
    return before + _TABLE + "\n" + "\n".join(table) + "\n\n" + _END + after


def generated() -> dict[Path, str]:
    """Every page that is written here, but the one that takes minutes."""
    return {
        PAGE: page(),
        SETTINGS_PAGE: settings_page(),
        MAP_PAGE: code_map(),
        TASKS_PAGE: _with_table(TASKS_PAGE, tasks_table()),
        QUESTIONS_PAGE: _with_table(QUESTIONS_PAGE, question_tables()),
        SUITES_PAGE: _with_table(SUITES_PAGE, suite_table()),
        README: _with_table(README, evidence_table()),
        START_PAGE: _with_table(START_PAGE, evidence_table(linked=False)),
        SPEED_PAGE: _with_table(SPEED_PAGE, speed_tables()),
        BENCHMARKS: _with_table(BENCHMARKS, missed_table()),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
    if "--families" in sys.argv:
        FAMILIES_PAGE.write_text(families_page(everything()), encoding="utf-8")
