"""The parts of an evaluation: for each, what determines it, how it is measured, or why it makes no sense here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from steadytune.errors import ModelNotFoundError
from steadytune.evaluation.held_out import HeldOut
from steadytune.evaluation.measures import annotators, attack, calibration, movement, robustness, smoothness
from steadytune.evaluation.measures.passes import in_double
from steadytune.evaluation.measures.perturbations import KINDS, NoiseKind, not_for
from steadytune.evaluation.measures.sets import in_classes_of_the_set
from steadytune.evaluation.model import EvaluatedModel
from steadytune.evaluation.retrieval import SentenceEncoder, retrieval_work
from steadytune.evaluation.work import Measurement
from steadytune.heads.head import TaskHead
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.models.load import load_model
from steadytune.models.pooled.choice import pooling_of
from steadytune.settings.train import TrainSettings

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from steadytune.settings.evaluate import EvaluateOptions


@dataclass(frozen=True)
class Evaluation:
    """What the parts work on: the model, the rows, the options, and how to tell the user."""

    model: EvaluatedModel
    held_out: HeldOut
    run: TrainSettings
    options: EvaluateOptions
    tell: Callable[[str], None]

    @property
    def head(self) -> TaskHead:
        """What the model predicts."""
        return self.model.head

    @functools.cached_property
    def _known(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {}

    def outputs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Outputs and labels of a named set of texts; asked once."""
        if name not in self._known:
            self._known[name] = self.model.outputs(self.held_out.rows(name))
        return self._known[name]

    def few_batches(self) -> Iterator[dict[str, Any]]:
        """Batches of the rows that are enough where each costs many passes."""
        return self.model.batches(self.held_out.few())


def sets(evaluation: Evaluation) -> Measurement:
    """The scores on every set."""
    held_out, model = evaluation.held_out, evaluation.model

    def measure() -> dict[str, Any]:
        found = {}
        for name in held_out.names():
            evaluation.tell(f"sets: {name}")
            rows = held_out.rows(name)
            if evaluation.head.one_output_per_row:
                logits, labels = evaluation.outputs(name)
                logits = in_classes_of_the_set(logits, held_out.class_of_output(name))
                metrics = compute_metrics(model.task.head, logits, labels)
            else:
                metrics = model.scores(rows, name)
            found[name] = {"kind": held_out.kind(name), "rows": len(rows), "metrics": metrics}
        return found

    return Measurement({"data": held_out.digest(*held_out.names())}, measure)


def by_annotators(evaluation: Evaluation) -> Measurement | str:
    """Accuracy by agreement, on the sets that carry annotators' labels."""
    held_out = evaluation.held_out
    if not evaluation.head.one_class_per_row:
        return f"annotators' labels are of classes, and this head is {evaluation.head.name}."
    names = [n for n in held_out.names() if held_out.has_annotators(n)]
    if not names:
        return "no set carries annotator labels" + (f" ({held_out.notes[0]})" if held_out.notes else ".")

    def measure() -> dict[str, Any]:
        found = {}
        for name in names:
            rows = held_out.rows(name)
            counts = rows["label_count"][:] if "label_count" in rows.column_names else None
            groups = annotators.by_agreement(*evaluation.outputs(name), rows["annotator_labels"][:], counts)
            found[name] = {"groups": groups}
        return found

    return Measurement({"data": held_out.digest(*names)}, measure)


def calibrated(evaluation: Evaluation) -> Measurement | str:
    """Calibration of every set with the model's classes, before and after temperature scaling."""
    held_out, head = evaluation.held_out, evaluation.head
    if not head.chooses:
        return f"calibration is of probabilities of classes, and this head is {head.name}."
    names = [n for n in held_out.names() if held_out.class_of_output(n) is None]

    def decisions(name: str) -> tuple[np.ndarray, np.ndarray]:
        if not head.one_output_per_row:
            return evaluation.model.decisions(held_out.rows(name))
        return head.as_decisions(*evaluation.outputs(name))

    def measure() -> dict[str, Any]:
        temperature = calibration.fitted_temperature(*decisions("validation"))
        found = {}
        for name in names:
            evaluation.tell(f"calibration: {name}")
            logits, labels = decisions(name)
            scaled = calibration.calibration(logits, labels, temperature=temperature)
            found[name] = asdict(calibration.calibration(logits, labels)) | {
                "temperature": temperature,
                "in_sample": name == "validation",
                "scaled": asdict(scaled),
            }
        return found

    return Measurement({"data": held_out.digest(*names)}, measure)


def under_perturbation(evaluation: Evaluation) -> Measurement:
    """The score under each kind of noise, at each rate, for each seed."""
    held_out, options, task = evaluation.held_out, evaluation.options, evaluation.model.task
    seeds = range(options.seeds)
    kinds: list[NoiseKind] = [kind for kind in KINDS if not_for(task.head, kind) is None]

    def score(rows: Dataset) -> float:
        return evaluation.model.scores(rows, held_out.main).get(task.metric, math.nan)

    def measure() -> dict[str, Any]:
        rows, found = held_out.rows(held_out.main), {}
        clean = score(rows)
        for i, kind in enumerate(kinds):
            evaluation.tell(f"perturbations: {kind} ({i + 1} of {len(kinds)})")
            found[kind] = robustness.under_noise(
                rows, task.head, score, kind=kind, rates=options.rates, seeds=seeds, clean=clean
            )
        return found

    left_out = {kind: reason for kind in KINDS if (reason := not_for(task.head, kind)) is not None}
    settings = {"metric": task.metric, "rates": list(options.rates), "seeds": options.seeds, "left_out": left_out}
    return Measurement(_of_main(held_out) | settings, measure)


def attacked(evaluation: Evaluation) -> Measurement | str:
    """Accuracy against the radius of an attack on the word embeddings."""
    head, options, held_out = evaluation.head, evaluation.options, evaluation.held_out
    if not head.one_label_each:
        return f"the attack needs one label per text or word, and this head is {head.name}."

    def measure() -> Any:
        evaluation.tell(f"embedding_attack: {len(held_out.few()):,} rows, {attack.STEPS} steps, each radius")
        return attack.embedding_attack(evaluation.model.network, evaluation.few_batches(), options.radii)

    settings = {"steps": attack.STEPS, "radii": list(options.radii)}
    return Measurement(_of_few(held_out) | settings, measure)


def smooth(evaluation: Evaluation) -> Measurement:
    """Divergence and Lipschitz ratio under SMART's adversary."""
    held_out, model = evaluation.held_out, evaluation.model
    radii = (1e-5, 1e-3)

    def measure() -> dict[str, Any]:
        found = {}
        with in_double(model.network):
            for radius in radii:
                evaluation.tell(f"smoothness: radius {radius:g}")
                found[radius] = smoothness.smoothness(model.network, evaluation.few_batches(), radius)
        return found

    fixed = {"ascent_steps": 1, "step_size": smoothness.STEP_SIZE, "lipschitz_steps": smoothness.LIPSCHITZ_STEPS}
    return Measurement(_of_few(held_out) | fixed | {"radii": list(radii), "precision": "float64"}, measure)


def moved(evaluation: Evaluation) -> Measurement | str:
    """Distance from the pretrained model, layer by layer."""
    run, model = evaluation.run, evaluation.model
    set_seed(run.seed)  # what the checkpoint lacks is drawn as it was before training
    try:
        pretrained, _, _ = load_model(
            run.model,
            model.task,
            trust_remote_code=run.trust_remote_code,
            new_head=True,
            pooling=pooling_of(model.model.config),
        )
    except ModelNotFoundError as error:
        return f"the pretrained model is not there any more ({error})"
    network: Any = pretrained

    def measure() -> Any:
        evaluation.tell(f"movement: from {run.model}")
        return movement.movement(model.network, network.to(model.device), evaluation.few_batches())

    return Measurement(_of_few(evaluation.held_out) | {"pretrained": run.model}, measure)


def retrieved(evaluation: Evaluation) -> Measurement | str:
    """Sentence retrieval across languages by the model's sentence vectors."""
    model, run, options = evaluation.model, evaluation.run, evaluation.options
    encoder = SentenceEncoder.of(model.model, model.tokenizer, options.layer, run.per_device_eval_batch_size)
    asked = "retrieval" in options.only
    found = retrieval_work(encoder, run.data_dir, evaluation.held_out.limit, ask_hub=asked, tell=evaluation.tell)
    return found if isinstance(found, str) else Measurement(*found)


#: In the order of their cost.
PARTS: Mapping[str, Callable[[Evaluation], Measurement | str]] = {
    "sets": sets,
    "annotators": by_annotators,
    "calibration": calibrated,
    "movement": moved,
    "perturbations": under_perturbation,
    "embedding_attack": attacked,
    "smoothness": smooth,
    "retrieval": retrieved,
}


def _of_main(held_out: HeldOut) -> dict[str, Any]:
    name = held_out.main
    return {"split": name, "rows": len(held_out.rows(name)), "data": held_out.digest(name)}


def _of_few(held_out: HeldOut) -> dict[str, Any]:
    return _of_main(held_out) | {"rows": len(held_out.few())}


def plain(value: Any) -> Any:
    """Turn results into what JSON holds: keys are text, and numbers that are none are null.

    >>> plain({0.05: (1.0, float("nan"))})
    {'0.05': [1.0, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
