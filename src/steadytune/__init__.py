"""steadytune: fine-tuning of pretrained transformers that holds steady on little data.

Names are imported when they are first used, so that ``import steadytune`` and the command line's help stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from steadytune.version import __version__

if TYPE_CHECKING:
    from steadytune.core.stack.explain import Explanation as Explanation
    from steadytune.core.stack.stack import Stack as Stack
    from steadytune.errors import SteadytuneError as SteadytuneError
    from steadytune.integrations.transformers.trainer import SteadyMixin as SteadyMixin
    from steadytune.integrations.transformers.trainer import SteadyTrainer as SteadyTrainer
    from steadytune.methods.alum import Alum as alum
    from steadytune.methods.bregman import Bregman as bregman
    from steadytune.methods.child_tuning import ChildTuning as child_tuning
    from steadytune.methods.freeat import FreeAT as freeat
    from steadytune.methods.freelb import FreeLB as freelb
    from steadytune.methods.freeze import Freeze as freeze
    from steadytune.methods.gradual_unfreezing import GradualUnfreezing as gradual_unfreezing
    from steadytune.methods.l2_sp import L2SP as l2_sp
    from steadytune.methods.layerwise_decay import LayerwiseDecay as layerwise_decay
    from steadytune.methods.mixout import Mixout as mixout
    from steadytune.methods.neftune import NEFTune as neftune
    from steadytune.methods.noisytune import NoisyTune as noisytune
    from steadytune.methods.noisytune import perturb_weights as perturb_weights
    from steadytune.methods.pgd import PGD as pgd
    from steadytune.methods.presets import asam as asam
    from steadytune.methods.presets import ema as ema
    from steadytune.methods.presets import mean_teacher as mean_teacher
    from steadytune.methods.presets import r4f as r4f
    from steadytune.methods.presets import smart as smart
    from steadytune.methods.presets import swa as swa
    from steadytune.methods.r3f import R3F as r3f
    from steadytune.methods.r_drop import RDrop as r_drop
    from steadytune.methods.radam import RAdam as radam
    from steadytune.methods.recadam import RecAdam as recadam
    from steadytune.methods.reinit import Reinit as reinit
    from steadytune.methods.sam import SAM as sam
    from steadytune.methods.slanted_triangular import SlantedTriangular as slanted_triangular
    from steadytune.methods.smoothness import Smoothness as smoothness
    from steadytune.methods.spectral_norm import SpectralNorm as spectral_norm
    from steadytune.methods.vat import VirtualAdversarialTraining as vat
    from steadytune.methods.weight_averaging import WeightAveraging as weight_averaging
    from steadytune.methods.wise_ft import WiseFT as wise_ft
    from steadytune.models.checkpoint.perturb import perturb_checkpoint as perturb_checkpoint
    from steadytune.notebook import compare as compare
    from steadytune.report.report import report as report


_HOME = {
    "SteadytuneError": "steadytune.errors:SteadytuneError",
    "Explanation": "steadytune.core.stack.explain:Explanation",
    "Stack": "steadytune.core.stack.stack:Stack",
    "SteadyMixin": "steadytune.integrations.transformers.trainer:SteadyMixin",
    "SteadyTrainer": "steadytune.integrations.transformers.trainer:SteadyTrainer",
    "alum": "steadytune.methods.alum:Alum",
    "asam": "steadytune.methods.presets:asam",
    "bregman": "steadytune.methods.bregman:Bregman",
    "compare": "steadytune.notebook:compare",
    "child_tuning": "steadytune.methods.child_tuning:ChildTuning",
    "ema": "steadytune.methods.presets:ema",
    "freeat": "steadytune.methods.freeat:FreeAT",
    "freelb": "steadytune.methods.freelb:FreeLB",
    "freeze": "steadytune.methods.freeze:Freeze",
    "gradual_unfreezing": "steadytune.methods.gradual_unfreezing:GradualUnfreezing",
    "l2_sp": "steadytune.methods.l2_sp:L2SP",
    "layerwise_decay": "steadytune.methods.layerwise_decay:LayerwiseDecay",
    "mean_teacher": "steadytune.methods.presets:mean_teacher",
    "mixout": "steadytune.methods.mixout:Mixout",
    "neftune": "steadytune.methods.neftune:NEFTune",
    "noisytune": "steadytune.methods.noisytune:NoisyTune",
    "perturb_checkpoint": "steadytune.models.checkpoint.perturb:perturb_checkpoint",
    "perturb_weights": "steadytune.methods.noisytune:perturb_weights",
    "pgd": "steadytune.methods.pgd:PGD",
    "r3f": "steadytune.methods.r3f:R3F",
    "r4f": "steadytune.methods.presets:r4f",
    "r_drop": "steadytune.methods.r_drop:RDrop",
    "radam": "steadytune.methods.radam:RAdam",
    "recadam": "steadytune.methods.recadam:RecAdam",
    "reinit": "steadytune.methods.reinit:Reinit",
    "report": "steadytune.report.report:report",
    "sam": "steadytune.methods.sam:SAM",
    "slanted_triangular": "steadytune.methods.slanted_triangular:SlantedTriangular",
    "smart": "steadytune.methods.presets:smart",
    "smoothness": "steadytune.methods.smoothness:Smoothness",
    "spectral_norm": "steadytune.methods.spectral_norm:SpectralNorm",
    "swa": "steadytune.methods.presets:swa",
    "vat": "steadytune.methods.vat:VirtualAdversarialTraining",
    "weight_averaging": "steadytune.methods.weight_averaging:WeightAveraging",
    "wise_ft": "steadytune.methods.wise_ft:WiseFT",
}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steadytune' has no attribute {name!r}")
    module, attribute = _HOME[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
