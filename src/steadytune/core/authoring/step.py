"""What one micro-batch can answer to a method: outputs, perturbed outputs, teacher outputs, noise, items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steadytune.core.arithmetic import divergence as divergences
from steadytune.core.arithmetic import noise, randomness
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.model.outputs import Prediction, logits_of
from steadytune.core.model.rows import part_of_inputs, rows_of
from steadytune.core.model.running_buffers import RunningBuffers
from steadytune.core.model.tap import EmbeddingFacts, Tap
from steadytune.core.model.wrappers import buffers_as_they_are
from steadytune.core.state.teacher import Shadow, Teacher
from steadytune.errors import HostError

Masks = Literal["same", "fresh"]


@dataclass
class CleanPass:
    """What must be known of the clean pass before it runs: the random numbers that it will use.

    Attributes:
        random_state: at its start.
        known: the host's loss and outputs where they are known already, so that the host need not run it.
    """

    random_state: randomness.RandomState
    known: tuple[Tensor, Any] | None = None


@dataclass
class PassCounts:
    """How many passes the terms of a step have run, for the tests of the declared costs."""

    perturbed: int = 0
    teacher: int = 0


@dataclass
class Step:
    """One micro-batch in training, asked by the methods; every pass runs once and is remembered.

    Attributes:
        model: the model as the host runs it.
        plain_model: the same without the host's wrapper.
        inputs: the batch without labels, and for a decoder what it reads in their place.
        labels: the labels, if any.
        clean_logits: output of the clean pass, ``(batch, ..., outputs)``, with its graph; the task loss shares it.
        prediction: how two outputs are compared: as classes, yes/no labels or numbers.
        supervised: ``(batch, ...)``, true where a prediction has a label; ``None`` for everywhere.
        task_loss: of the clean pass, as the host computed and scaled it.
        clean: random state at the start of the clean pass.
        taps: the word embeddings as 0, and the outputs of those layers ``k`` that a method perturbs.
        seen: what the clean pass looked like at each of them.
        clean_embeddings: the word embeddings of the clean pass, with their graph, where a second one finds the same.
        shadows: the teachers' weights.
        anchor: the pretrained weights of the parameters that train, where a method asks for them.
        run_task: runs the host's own forward pass and loss again, for a second task loss.
        buffers: running statistics of the model, which extra passes leave alone.
        streams: the random numbers of this update.
        owner: name of the method that is asking; the runner sets it.
        is_part: whether these are some examples of a micro-batch, as `subset` gives them.
        told: methods that have looked at their first term in this training, and warned if need be.
    """

    model: nn.Module
    plain_model: nn.Module
    inputs: Mapping[str, Any]
    labels: Tensor | None
    clean_logits: Tensor
    prediction: Prediction
    supervised: Tensor | None
    task_loss: Tensor
    clean: CleanPass
    taps: Mapping[int, Tap]
    seen: Mapping[int, EmbeddingFacts]
    shadows: Mapping[Teacher, Shadow]
    anchor: Mapping[str, Tensor]
    run_task: Callable[[], tuple[Tensor, Any]]
    buffers: RunningBuffers
    streams: randomness.Streams
    owner: str = ""
    is_part: bool = False
    told: set[str] = field(default_factory=set)
    clean_embeddings: Mapping[int, Tensor | None] = field(default_factory=dict)
    counts: PassCounts = field(default_factory=PassCounts)
    non_finite: list[Tensor] = field(default_factory=list)
    _teacher_logits: dict[tuple[Teacher, Masks], Tensor] = field(default_factory=dict)
    _second_task: dict[Masks, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def logits(self, delta: Tensor | None = None, *, masks: Masks = "fresh", site: int = 0) -> Tensor:
        """Output of the model; with ``delta``, of a second pass with the word embeddings moved by it.

        Args:
            delta: ``(batch, length, width)`` or ``None`` for the clean pass, which all methods share.
            masks: dropout masks of the second pass: the clean pass's again, or fresh ones.
            site: 0 moves the word embeddings, ``k`` the output of transformer layer ``k``.

        Raises:
            HostError: a layer is to be moved under gradient checkpointing, which would run it again unmoved.
        """
        if delta is None:
            return self.clean_logits
        if site > 0 and _is_checkpointing(self.plain_model):
            raise HostError(
                "A perturbation of a hidden layer is lost when gradient checkpointing runs the layer again: "
                "switch checkpointing off, or perturb the word embeddings (smoothness)."
            )
        self.counts.perturbed += 1
        # Outside the real tokens neither the perturbation nor its gradient exists (on Qwen3 the latter is huge).
        delta = torch.where(self.token_mask(site).unsqueeze(-1), delta, delta.new_zeros(()))
        moved = self.taps[site].perturbing(delta, clean=self.clean_embeddings.get(site))
        with self._masks(masks), buffers_as_they_are(self.model), self.buffers.kept(), moved:
            return logits_of(self.model(**self.inputs), self.inputs)

    def task(self, *, masks: Masks = "fresh") -> tuple[Tensor, Tensor]:
        """Task loss, scaled as the host scales it, and logits of a second pass; equal questions are answered once."""
        if masks not in self._second_task:
            self.counts.perturbed += 1
            with self._masks(masks, owner="task"), buffers_as_they_are(self.model), self.buffers.kept():
                loss, outputs = self.run_task()
            self._second_task[masks] = (loss, logits_of(outputs, self.inputs))
        return self._second_task[masks]

    def teacher_logits(self, teacher: Teacher, *, masks: Masks = "same") -> Tensor:
        """Output of the teacher on the clean batch, without gradient; equal questions are answered once."""
        key = (teacher, masks)
        if key not in self._teacher_logits:
            self.counts.teacher += 1
            with self._masks(masks, owner="teacher"), self.buffers.kept():
                outputs = self.shadows[teacher].outputs(self.plain_model, self.inputs)
            self._teacher_logits[key] = logits_of(outputs, self.inputs).detach()
        return self._teacher_logits[key]

    def subset(self, rows: Tensor) -> Step:
        """Some examples of the micro-batch as a step of their own; its clean outputs are those of this one.

        Args:
            rows: ``(examples,)``, their numbers.

        Raises:
            HostError: an input of the model has no row for each example, or dropout masks are to be the clean pass's.
        """
        count = len(self.clean_logits)
        parts = {
            site: replace(seen, shape=torch.Size((rows_of(seen.shape, count) * len(rows), *seen.shape[1:])))
            for site, seen in self.seen.items()
        }
        at_logits = rows.to(self.clean_logits.device)
        return replace(
            self,
            inputs=part_of_inputs(self.inputs, rows, count),
            labels=None if self.labels is None else self.labels.index_select(0, rows.to(self.labels.device)),
            clean_logits=self.clean_logits.index_select(0, at_logits),
            supervised=None if self.supervised is None else self.supervised.index_select(0, at_logits),
            seen=parts,
            run_task=_refuse_task,
            is_part=True,
            clean_embeddings={},
            _teacher_logits={},
            _second_task={},
        )

    def normal_noise(self, standard_deviation: float, *, site: int = 0) -> Tensor:
        """Gaussian noise for the embeddings: zero at padding, independent of how much padding there is."""
        return noise.normal_noise(self._site(site), standard_deviation)

    def uniform_noise(self, half_width: float | Tensor, *, site: int = 0) -> Tensor:
        """Uniform noise in ``(-half_width, half_width)``, otherwise as `normal_noise`."""
        return noise.uniform_noise(self._site(site), half_width)

    def output_noise(self) -> Tensor:
        """Standard Gaussian noise in the shape of the outputs, for random projections; 0 where there is no label.

        Neither the split into micro-batches nor padding changes what an item gets, except for answers to questions,
        whose outputs are the positions.
        """
        generator = self.streams.noise(self.owner, self.clean_logits.device)
        return noise.output_noise(self.clean_logits, generator, self.supervised)

    def gradient(self, values: Callable[[Tensor], Tensor]) -> Tensor:
        """Gradient of a function of the outputs to the word embeddings, with its graph: a term can be made of it.

        A second pass runs on the clean pass's dropout masks. Its attention is computed without fused kernels, which
        cannot be differentiated twice. The backward pass through the result is one of
        `Cost.backwards_through_gradients`.

        Args:
            values: of the outputs, ``(batch, ..., outputs)``, to what is summed.

        Returns:
            ``(batch, length, width)``, 0 at padding.
        """
        seen = self.seen[0]
        at = torch.zeros(seen.shape, dtype=seen.dtype, device=seen.device, requires_grad=True)
        with sdpa_kernel([SDPBackend.MATH]):
            outputs = self.logits(at, masks="same")
            (found,) = torch.autograd.grad(values(outputs).sum(), at, create_graph=True)
        return found

    def token_mask(self, site: int = 0) -> Tensor:
        """``(batch, length)``, true at the tokens that the model attends to."""
        return noise.token_mask(self.inputs, self.seen[site])

    def sentences(self, site: int = 0) -> Tensor | None:
        """``(batch, length)``, the number of each token's sentence in packed rows; ``None`` where a row is one."""
        return noise.sentences(self.inputs, self.seen[site])

    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's parameters by name, without the host's wrapper."""
        return dict(self.plain_model.named_parameters())

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """The paper's l_s for what this head predicts: symmetric KL or squared difference, one value per item.

        Of one prediction per position those without a label get the value 0.
        """
        return divergences.of_items(self.prediction, p, q, self.supervised)

    def one_way_divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(P||Q) alone, otherwise as `divergence`."""
        return divergences.of_items(self.prediction, p, q, self.supervised, one_way=True)

    def per_item(self, values: Tensor) -> PerItem:
        """Attach to unreduced values the weights of the supervised items (0 where the label is -100)."""
        if self.supervised is not None and self.supervised.shape == values.shape:
            return PerItem(values, self.supervised.to(values.dtype))
        return PerItem(values, torch.ones_like(values))

    def per_update(self, value: Tensor) -> PerItem:
        """Spread one value, such as a penalty on the weights, over the items: it counts once per update."""
        classes = self.prediction == "classification"
        like = self.clean_logits.select(-1, 0) if classes else self.clean_logits
        return self.per_item(value.to(like.device).expand(like.shape))

    def report_non_finite(self, examples: Tensor) -> None:
        """Count examples whose perturbation was not finite and has been set to zero."""
        self.non_finite.append(examples.detach())

    def _site(self, site: int) -> noise.Site:
        seen = self.seen[site]
        return noise.Site(seen, self.token_mask(site), self.streams.noise(self.owner, seen.device))

    def _masks(self, masks: Masks, *, owner: str | None = None) -> Any:
        if masks == "same":
            if self.is_part:
                raise HostError(
                    "Dropout masks of a whole batch cannot be replayed on a part of it: set masks='fresh'."
                )
            return randomness.replayed(self.clean.random_state)
        seed = self.streams.masks(self.owner if owner is None else owner)
        return randomness.fresh(seed, self.clean.random_state.device)


def _refuse_task() -> tuple[Tensor, Any]:
    raise HostError("A second task loss is there for a whole batch only, not for a part of it.")


def _is_checkpointing(model: nn.Module) -> bool:
    """Whether layers run again in the backward pass."""
    return any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules())
