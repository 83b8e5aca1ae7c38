"""steadytune: fine-tuning of pretrained transformers that holds steady on little data.

Names are imported when they are first used, so that ``import steadytune`` and the command line's help stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadytune.core.errors import SteadytuneError as SteadytuneError
    from steadytune.core.explain import Explanation as Explanation
    from steadytune.core.stack import Stack as Stack
    from steadytune.hosts.trainer import SteadyMixin as SteadyMixin
    from steadytune.hosts.trainer import SteadyTrainer as SteadyTrainer
    from steadytune.methods.bregman import Bregman as bregman  # noqa: N813 - methods are called like functions
    from steadytune.methods.noisytune import NoisyTune as noisytune  # noqa: N813
    from steadytune.methods.noisytune import perturb_weights as perturb_weights
    from steadytune.methods.presets import smart as smart
    from steadytune.methods.smoothness import Smoothness as smoothness  # noqa: N813

__version__ = "0.1.0"

_HOME = {
    "SteadytuneError": "steadytune.core.errors:SteadytuneError",
    "Explanation": "steadytune.core.explain:Explanation",
    "Stack": "steadytune.core.stack:Stack",
    "SteadyMixin": "steadytune.hosts.trainer:SteadyMixin",
    "SteadyTrainer": "steadytune.hosts.trainer:SteadyTrainer",
    "bregman": "steadytune.methods.bregman:Bregman",
    "noisytune": "steadytune.methods.noisytune:NoisyTune",
    "perturb_weights": "steadytune.methods.noisytune:perturb_weights",
    "smart": "steadytune.methods.presets:smart",
    "smoothness": "steadytune.methods.smoothness:Smoothness",
}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steadytune' has no attribute {name!r}")
    module, attribute = _HOME[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
