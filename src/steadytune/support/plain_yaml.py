"""YAML as far as settings need it: names with plain values, nothing twice, nothing that grows when it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.error import Mark, MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from steadytune.errors import SettingsError
from steadytune.support.text import excerpt

#: Larger files are no settings; a file with aliases can be small and still mean billions of values.
MOST_CHARACTERS, MOST_VALUES, DEEPEST = 200_000, 10_000, 20
_TAG = "tag:yaml.org,2002:"
_KINDS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
#: As in YAML 1.2: `010` is no octal number, `1:30` is no 90, and `1e-4` is a number.
_NUMBERS = (
    ("int", r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0b[01]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


class _PlainLoader(yaml.SafeLoader):
    """Makes no objects; refuses names that are there twice, deep nesting and aliases that multiply."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in found if tag in _KINDS - {f"{_TAG}int", f"{_TAG}float"}]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _error(f"lists and mappings are nested more than {DEEPEST} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)  # pyright: ignore[reportArgumentType] - its stub knows no lists
        self.depth -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, ())
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag not in _KINDS:
            raise _error(f"values of the kind {node.tag.replace(_TAG, '!!')} are not read", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, OverflowError):
            kind = node.tag.removeprefix(_TAG)
            raise _error(f"{excerpt(node.value)} cannot be read as {kind}", node.start_mark) from None


class _PlainDumper(yaml.SafeDumper):
    """Quotes what `_PlainLoader` would take for a number."""


for _kind, _pattern, _first in _NUMBERS:
    for _class in (_PlainLoader, _PlainDumper):
        _class.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^({_pattern})$"), list(_first))


def _error(problem: str, mark: Mark | None) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=mark)


def _count(node: Node, known: dict[int, int], inside: Sequence[Node]) -> int:
    """How many values a node stands for, aliases resolved."""
    if any(node is outer for outer in inside):
        raise _error("a value holds itself", node.start_mark)
    if id(node) not in known:
        if isinstance(node, MappingNode):
            _refuse_twice(node)
        children = [] if isinstance(node, ScalarNode) else node.value
        parts = children if isinstance(node, SequenceNode) else [part for pair in children for part in pair]
        known[id(node)] = 1 + sum(_count(part, known, (*inside, node)) for part in parts)
        if known[id(node)] > MOST_VALUES:
            raise _error(f"it expands to more than {MOST_VALUES:,} values", node.start_mark)
    return known[id(node)]


def _refuse_twice(node: MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, ScalarNode):
            if key.value in lines:
                problem = f"{excerpt(key.value)} is there twice, first in line {lines[key.value]}"
                raise _error(problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1


def read_yaml(text: str, place: str) -> Any:
    """Read settings: null, booleans, numbers, strings, lists and mappings.

    Args:
        text: content of the file.
        place: how a message begins, such as ``"--config run.yaml"``.

    Raises:
        SettingsError: it is no YAML, a name is there twice, a number cannot be read, or there are too many values.

    >>> read_yaml("learning_rate: 1e-4", "--config x")
    {'learning_rate': 0.0001}
    """
    if len(text) > MOST_CHARACTERS:
        raise SettingsError(
            f"{place}: {len(text):,} characters are too many for settings; {MOST_CHARACTERS:,} may be."
        )
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader that does less
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise SettingsError(f"{place}{line}: {problem}.") from error
    except RecursionError:
        raise SettingsError(f"{place}: nested too deep.") from None


def write_yaml(values: Any) -> str:
    r"""Return values as YAML that `read_yaml` reads back equal, in their order.

    >>> write_yaml({"learning_rate": 0.0001, "text_column": "1e-4"})
    "learning_rate: 0.0001\ntext_column: '1e-4'\n"
    """
    return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
