"""Public names of steadytune. Written by tools/docs/generate.py; do not edit."""

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
from steadytune.prediction.predict import Predictions as Predictions
from steadytune.prediction.predict import predict as predict
from steadytune.prediction.prediction import Prediction as Prediction
from steadytune.reporting.report import report as report
from steadytune.training.run import probe as probe
from steadytune.version import __version__ as __version__

__all__ = [
    "Explanation",
    "Prediction",
    "Predictions",
    "Stack",
    "SteadyMixin",
    "SteadyTrainer",
    "SteadytuneError",
    "__version__",
    "alum",
    "asam",
    "bregman",
    "child_tuning",
    "compare",
    "ema",
    "freeat",
    "freelb",
    "freeze",
    "gradual_unfreezing",
    "l2_sp",
    "layerwise_decay",
    "mean_teacher",
    "mixout",
    "neftune",
    "noisytune",
    "perturb_checkpoint",
    "perturb_weights",
    "pgd",
    "predict",
    "probe",
    "r3f",
    "r4f",
    "r_drop",
    "radam",
    "recadam",
    "reinit",
    "report",
    "sam",
    "slanted_triangular",
    "smart",
    "smoothness",
    "spectral_norm",
    "swa",
    "vat",
    "weight_averaging",
    "wise_ft",
]
