"""Teach Transformers' Auto classes the pooled classifier as soon as they are imported, before or after steadytune."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register() -> None:
    """Register configuration and model; imports nothing until Transformers' own classes are imported."""
    _after_import("transformers.models.auto.configuration_auto", _register_configuration)
    _after_import("transformers.models.auto.modeling_auto", _register_model)


def _register_configuration() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from steadytune.models.pooled.configuration import PooledConfig

    AutoConfig.register(PooledConfig.model_type, PooledConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification

    from steadytune.models.pooled.configuration import PooledConfig
    from steadytune.models.pooled.modeling import PooledForSequenceClassification

    AutoModelForSequenceClassification.register(PooledConfig, PooledForSequenceClassification, exist_ok=True)


def _after_import(module: str, action: Callable[[], None]) -> None:
    if module in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Finder(module, action))


class _Finder(MetaPathFinder):
    """Finds one module as others would, once, and has an action run after it."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self._module, self._action = module, action

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the signature is Python's
        target: ModuleType | None = None,  # noqa: ARG002 - the same
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._action)
        return spec


class _Loader(Loader):
    """Loads a module as another loader does, then runs an action."""

    def __init__(self, inner: Loader, action: Callable[[], None]) -> None:
        self._inner, self._action = inner, action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._action()
