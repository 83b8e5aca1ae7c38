"""Methods by name, for configurations and the command line; names and settings are checked with suggestions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steadytune.core.authoring.method import Method
from steadytune.core.stack.composition import conflicts
from steadytune.errors import MethodError, did_you_mean
from steadytune.methods import presets
from steadytune.methods.alum import Alum
from steadytune.methods.bregman import Bregman
from steadytune.methods.child_tuning import ChildTuning
from steadytune.methods.entry import Built, Entry, plugins
from steadytune.methods.freeat import FreeAT
from steadytune.methods.freelb import FreeLB
from steadytune.methods.freeze import Freeze
from steadytune.methods.gradual_unfreezing import GradualUnfreezing
from steadytune.methods.l2_sp import L2SP
from steadytune.methods.layerwise_decay import LayerwiseDecay
from steadytune.methods.mixout import Mixout
from steadytune.methods.neftune import NEFTune
from steadytune.methods.noisytune import NoisyTune
from steadytune.methods.pgd import PGD
from steadytune.methods.r3f import R3F
from steadytune.methods.r_drop import RDrop
from steadytune.methods.radam import RAdam
from steadytune.methods.recadam import RecAdam
from steadytune.methods.reinit import Reinit
from steadytune.methods.sam import SAM
from steadytune.methods.slanted_triangular import SlantedTriangular
from steadytune.methods.smoothness import Smoothness
from steadytune.methods.spectral_norm import SpectralNorm
from steadytune.methods.vat import VirtualAdversarialTraining
from steadytune.methods.weight_averaging import WeightAveraging
from steadytune.methods.wise_ft import WiseFT

#: The methods that come with steadytune; `all_methods` adds those of other packages.
REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("noisytune", NoisyTune, "noise on the pretrained weights, once, before training"),
        Entry("smart", presets.smart, "smoothness + bregman, the paper's defaults", Smoothness),
        Entry("smart.paper", presets.smart.paper, "the same with every setting of the paper written out"),
        Entry(
            "smart.mt_dnn",
            presets.smart.mt_dnn,
            "the perturbation of the released code: radius 1 per token, no bregman",
        ),
        Entry(
            "smart.recommended",
            presets.smart.recommended,
            "smoothness alone: what measured best of smart's parts on few rows",
            Smoothness,
        ),
        Entry("smart.frugal", presets.smart.frugal, "smart on a random part of the examples", Smoothness),
        Entry("smoothness", Smoothness, "stays the same under small adversarial moves of the word embeddings"),
        Entry("bregman", Bregman, "stays near a moving average of its own past"),
        Entry("mean_teacher", presets.mean_teacher, "bregman with one decay and the teacher's own dropout"),
        Entry("pgd", PGD, "trains on word embeddings moved against it by K steps"),
        Entry("freeat", FreeAT, "pgd with an update of the weights after each step"),
        Entry("freelb", FreeLB, "pgd with the gradients of all steps in one update"),
        Entry("vat", VirtualAdversarialTraining, "stays the same under moves in the most sensitive direction"),
        Entry("alum", Alum, "smoothness at the output of a hidden layer"),
        Entry("r3f", R3F, "stays the same under random noise on the word embeddings"),
        Entry("r4f", presets.r4f, "r3f + spectral_norm", R3F),
        Entry("r_drop", RDrop, "two dropout masks give the same answer"),
        Entry("l2_sp", L2SP, "a penalty on the distance to the pretrained weights"),
        Entry("mixout", Mixout, "weights go back to the pretrained ones at random, as in dropout"),
        Entry("neftune", NEFTune, "random noise on the word embeddings while training"),
        Entry("spectral_norm", SpectralNorm, "keeps the spectral norm of the head at 1"),
        Entry("sam", SAM, "gradients from the worst weights nearby"),
        Entry("asam", presets.asam, "sam with a radius in proportion to each weight"),
        Entry("radam", RAdam, "Adam with a rectified warm-up"),
        Entry("recadam", RecAdam, "Adam that lets go of the pretrained weights little by little"),
        Entry("child_tuning", ChildTuning, "updates only a part of the weights: at random, or the most informative"),
        Entry("layerwise_decay", LayerwiseDecay, "smaller learning rates for lower layers"),
        Entry("slanted_triangular", SlantedTriangular, "a short rise and a long fall of the learning rate"),
        Entry("freeze", Freeze, "keeps the embeddings and the lowest layers as they are"),
        Entry("gradual_unfreezing", GradualUnfreezing, "layers join the training one by one from the top"),
        Entry("reinit", Reinit, "draws the top layers anew before training"),
        Entry("weight_averaging", WeightAveraging, "ends at an average of the weights over steps"),
        Entry("ema", presets.ema, "weight_averaging, exponential"),
        Entry("swa", presets.swa, "weight_averaging, equal over the last part"),
        Entry("wise_ft", WiseFT, "ends between the pretrained and the fine-tuned weights"),
    )
}


def all_methods() -> dict[str, Entry]:
    """Every method by name: ours, then those that installed packages offer as entry points."""
    return REGISTRY | {entry.name: entry for entry in plugins(frozenset(REGISTRY))}


def method_classes(names: Sequence[str] = ()) -> list[type[Method]]:
    """The classes behind names; all classes of `all_methods` without any.

    Raises:
        MethodError: a name is unknown.
    """
    known = all_methods()
    for name in names:
        _refuse_unknown_name(name, known)
    entries = [known[name] for name in names] if names else list(known.values())
    return list(dict.fromkeys(type(method) for entry in entries for method in entry.methods()))


def _refuse_unknown_name(name: str, known: Mapping[str, Entry]) -> None:
    if name not in known:
        near = did_you_mean(name, known)
        rest = " `steadytune methods` lists all." if near else f" Known: {', '.join(known)}."
        raise MethodError(f"There is no method {name!r}.{near}{rest}")


def build_methods(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None, *, refuse_conflicts: bool = True
) -> list[Method]:
    """Build methods by name.

    Args:
        names: names out of `all_methods`; ``["none"]`` or nothing is plain training.
        settings: per name, settings that differ from the defaults.
        refuse_conflicts: raise when two of them cannot train together.

    Raises:
        MethodError: a name or a setting is unknown or out of range, a setting belongs to no method in use, or two
            methods conflict.

    >>> [m.name for m in build_methods(["noisytune", "smart"], {"smart": {"weight": 3.0}})]
    ['noisytune', 'smoothness', 'bregman']
    """
    known = all_methods()
    if list(names) == ["none"]:
        names = []
    for name in names:
        if name == "none":
            raise MethodError("'none' stands for no method at all: leave it out, or give it alone.")
        _refuse_unknown_name(name, known)
    built: dict[str, Method] = {}
    source: dict[str, str] = {}
    rest = dict(settings or {})
    for name in names:
        one_or_more = _build(known[name], rest.pop(name, {}))
        for method in [one_or_more] if isinstance(one_or_more, Method) else one_or_more:
            if method.name in built:
                both = f"{source[method.name]} and {name}" if source[method.name] != name else f"{name} twice"
                raise MethodError(f"Conflict between {both}: {method.name} can be there once. Leave one of them out.")
            built[method.name], source[method.name] = method, name
    for name, values in rest.items():
        if name not in built:  # a half of an alias may be set by its own name: bregman.beta under smart
            given = [*names, *built]
            in_use = ", ".join(dict.fromkeys(given)) or "none"
            raise MethodError(f"Settings for {name!r}, not in use (methods: {in_use}).{did_you_mean(name, given)}")
        _refuse_unknown(name, values, known[name].settings())
        built[name] = replace(built[name], **values)
    if refuse_conflicts:
        for reason in conflicts(list(built.values())):
            raise MethodError(reason)
    return list(built.values())


def _build(entry: Entry, settings: Mapping[str, Any]) -> Built:
    _refuse_unknown(entry.name, settings, entry.settings())
    return entry.build(**settings)


def _refuse_unknown(method: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in settings:
        if name not in known:
            raise MethodError(
                f"{method} has no setting {name!r}.{did_you_mean(name, known)} Its settings: {', '.join(known)}."
            )
