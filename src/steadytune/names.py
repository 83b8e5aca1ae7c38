"""The public names of steadytune and where each is defined: read from the source, so that asking imports nothing.

A method is found by its class, any class in ``methods/`` with ``name: ClassVar[str] = "..."``; a preset by its
decorator, ``@preset(...)``. Neither is listed anywhere else.
"""

from __future__ import annotations

import importlib
import os
from functools import cache

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` takes 20 ms
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Public names beside the methods and their presets, and where each is defined.
OTHERS = {
    "Explanation": "steadytune.core.stack.explain:Explanation",
    "Prediction": "steadytune.prediction.prediction:Prediction",
    "Predictions": "steadytune.prediction.predict:Predictions",
    "Stack": "steadytune.core.stack.stack:Stack",
    "SteadyMixin": "steadytune.integrations.transformers.trainer:SteadyMixin",
    "SteadyTrainer": "steadytune.integrations.transformers.trainer:SteadyTrainer",
    "SteadytuneError": "steadytune.errors:SteadytuneError",
    "compare": "steadytune.notebook:compare",
    "perturb_checkpoint": "steadytune.models.checkpoint.perturb:perturb_checkpoint",
    "perturb_weights": "steadytune.methods.noisytune:perturb_weights",
    "probe": "steadytune.training.run:probe",
    "predict": "steadytune.prediction.predict:predict",
    "report": "steadytune.reporting.report:report",
}
_METHODS = os.path.join(os.path.dirname(__file__), "methods")


@cache
def methods() -> dict[str, str]:
    """Return where each method and preset is defined, by its name, in the order of the alphabet.

    >>> methods()["sam"], methods()["smart.paper"]
    ('steadytune.methods.sam:SAM', 'steadytune.methods.presets:smart.paper')
    """
    found: dict[str, str] = {}
    for file in sorted(os.listdir(_METHODS)):
        if file.endswith(".py"):
            with open(os.path.join(_METHODS, file), encoding="utf-8") as source:
                defined = _defined_in(source.read())
            module = f"steadytune.methods.{file.removesuffix('.py')}"
            found |= {name: f"{module}:{attribute}" for name, attribute in defined.items()}
    return dict(sorted(found.items()))


def _defined_in(source: str) -> dict[str, str]:
    """The methods and presets of one file: the attribute of the module, by name.

    >>> _defined_in("class SAM(StepMethod):\\n    name: ClassVar[str] = 'sam'")
    {'sam': 'SAM'}
    >>> _defined_in("@preset('an average')\\ndef ema(): ...")
    {'ema': 'ema'}
    """
    if "ClassVar[str] = " not in source and "@preset(" not in source:
        return {}
    import ast  # 20 ms, and `import steadytune` needs none of this

    def is_preset(node: ast.stmt) -> bool:
        decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
        return any(isinstance(d, ast.Call) and ast.unparse(d.func) == "preset" for d in decorators)

    found: dict[str, str] = {}
    families: dict[str, list[str]] = {}  # classes that hold the variants of a preset, such as those of `smart`
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and is_preset(node):
            found[node.name] = node.name
        elif isinstance(node, ast.ClassDef):
            families[node.name] = [x.name for x in node.body if isinstance(x, ast.FunctionDef) and is_preset(x)]
            for fact in node.body:
                if isinstance(fact, ast.AnnAssign) and ast.unparse(fact.target) == "name" and fact.value is not None:
                    found[ast.literal_eval(fact.value)] = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            own = ast.unparse(node.targets[0])
            variants = families.get(ast.unparse(node.value.func), [])
            whole = [own if v == "__call__" else f"{own}.{v}" for v in variants]
            found |= {name: name for name in whole}
    return found


@cache
def public() -> dict[str, str]:
    """Return where each public name of `steadytune` is defined; a preset's variants are attributes of the preset."""
    return dict(sorted((OTHERS | {name: home for name, home in methods().items() if "." not in name}).items()))


def plugins() -> list[EntryPoint]:
    """Return the methods that installed packages offer as entry points of the group ``steadytune.methods``."""
    from importlib.metadata import entry_points  # 50 ms, and `import steadytune` does not ask

    return list(entry_points(group="steadytune.methods"))


def load(home: str) -> object:
    """Import what lies at ``module:attribute``.

    >>> load("steadytune.errors:MethodError").__name__
    'MethodError'

    Raises:
        ImportError: a package is missing; the message says which extra brings it.
    """
    module, attribute = home.split(":")
    try:
        found: object = importlib.import_module(module)
    except ImportError as error:
        from steadytune.errors import what_to_install

        remedy = what_to_install(error)
        raise ImportError(remedy, name=error.name) if remedy else error from error
    for name in attribute.split("."):
        found = getattr(found, name)
    return found
