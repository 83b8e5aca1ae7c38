"""What a stack keeps about one model in training: pretrained weights, teachers, and what follows the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.authoring.method import (
    LossMethod,
    Method,
    ModelMethod,
    StepMethod,
    WeightMethod,
    refusal_when_sharded,
)
from steadytune.core.authoring.training import Attachment, Batches, Training
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.core.model.running_buffers import RunningBuffers
from steadytune.core.model.sharding import agree_on_weights, is_sharded, is_sharded_model, laid_like, reshard
from steadytune.core.model.tap import Tap, is_length_first, word_embedding
from steadytune.core.model.wrappers import refuse_engines
from steadytune.core.state.file import StackState
from steadytune.core.state.teacher import Shadow, Teacher, copied, trainable
from steadytune.errors import CheckpointError, HostError


class Session:
    """One model in training.

    The order is fixed: the pretrained weights are copied, then changed by the weight methods, then the model methods
    attach, then the teachers copy what the training starts from. A resumed session copies and changes nothing. All
    copies are cut as the weights are when the first update finds them sharded.

    Args:
        methods: the methods of the stack.
        model: the model, without a wrapper.
        seed: the stack's seed.
        perturb: false leaves the initial weights alone.
        saved: the state to continue from.
        anchor: pretrained weights that are known already.
        batches: gives training batches, where the host has them.

    Raises:
        HostError: the model lacks what a method needs.
        CheckpointError: the saved state belongs to another model.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        model: nn.Module,
        seed: int,
        *,
        perturb: bool = True,
        saved: StackState | None = None,
        anchor: Mapping[str, Tensor] | None = None,
        batches: Callable[[], Batches] | None = None,
    ) -> None:
        self.methods, self.model, self.seed = tuple(methods), model, seed
        self.reports: dict[str, Any] = {}
        if self.methods:
            refuse_engines(model)
            agree_on_weights(model)
            reshard(model)
        _refuse_model(model)
        self.buffers = RunningBuffers(model)
        self._home = next((p.device for p in model.parameters()), None)
        self._is_laid_out = False
        self.taps = self._taps()
        self.trainable = frozenset(trainable(model))
        weight_methods = [m for m in methods if isinstance(m, WeightMethod)]
        renewed = frozenset[str]().union(*(m.renewed(model) for m in weight_methods))
        self.pretrained = pretrained_parameters(model) - renewed
        self.anchor = self._anchored(anchor if saved is None else saved.anchor, saved)
        self._cleanup: list[Callable[[], None]] = []
        self.tensors = {m.name: self._on_device(saved.tensors.get(m.name, {}) if saved else {}) for m in methods}
        self._batches, self._resumed = batches, saved is not None
        for method in methods:
            method.check_model(self.training(method))
        self._refuse_sharded(perturb and saved is None)
        if perturb and saved is None:
            # Re-initialization comes before the noise on the other weights.
            for method in sorted(weight_methods, key=lambda m: not m.renewed(model)):
                self.reports[method.name] = method.transform(model, seed)
        if saved is not None:
            moved = "moved the weights when the run began, and does not move them again in a resumed run."
            self.reports = {m.name: f"{m.name} {moved}" for m in weight_methods}
        self.attachments: dict[str, Attachment] = {}
        self.shadows: dict[Teacher, Shadow] = {}
        try:
            self._attach()
            for key in dict.fromkeys(t for m in methods if isinstance(m, LossMethod) for t in m.teachers()):
                self.shadows[key] = Shadow(model)
            if saved is not None:
                self._load_teachers(saved)
            self._weights = _places(model)
        except BaseException:
            self.detach()
            raise

    def _refuse_sharded(self, perturbs: bool) -> None:
        """Say which method cannot work with sharded weights, before and after the host has wrapped the model."""
        if not is_sharded_model(self.model):
            return
        for method in self.methods:
            if isinstance(method, WeightMethod) and perturbs:
                raise HostError(
                    f"{method.name} changes whole tensors, and FSDP2 has left a part on each process: call "
                    "stack.prepare(model) before fully_shard(model)."
                )
            if method.not_sharded:
                raise refusal_when_sharded(method)

    def training(self, method: Method) -> Training:
        """One method's view."""
        return Training(
            model=self.model,
            seed=self.seed,
            trainable=self.trainable,
            pretrained=self.pretrained,
            anchor=self.anchor if method.keeps_pretrained else {},
            tensors=self.tensors[method.name],
            batches=self._batches,
            resumed=self._resumed,
            cleanup=self._cleanup,
        )

    def _taps(self) -> dict[int, Tap]:
        from steadytune.core.model.layers import transformer_layers

        if not any(isinstance(m, LossMethod | StepMethod) for m in self.methods):
            return {}
        length_first = is_length_first(self.model)
        taps = {0: Tap(word_embedding(self.model), length_first=length_first)}
        for method in self.methods:
            site = method.site() if isinstance(method, LossMethod) else 0
            if site > 0:
                layers = transformer_layers(self.model)
                if site > len(layers):
                    raise HostError(f"{method.name} perturbs layer {site}, but the model has {len(layers)} layers.")
                taps[site] = Tap(layers[site - 1], length_first=length_first)
        return taps

    def _anchored(self, known: Mapping[str, Tensor] | None, saved: StackState | None) -> dict[str, Tensor]:
        anchored = [m.name for m in self.methods if m.keeps_pretrained]
        if not anchored:
            return {}
        parameters = dict(self.model.named_parameters())
        names = [name for name in parameters if name in self.trainable & self.pretrained]
        if not names:
            raise HostError(
                f"{anchored[0]} would have no effect: it compares with the pretrained weights, and none of them train "
                "(they are frozen, as under PEFT). Leave it out, or train the whole model."
            )
        if known is None:
            return copied({name: parameters[name] for name in names})
        if set(known) != set(names) or any(known[n].shape != parameters[n].shape for n in names):
            source = "The model" if saved is None else saved.source
            raise CheckpointError(f"{source} holds the pretrained weights of another model: start a new run.")
        return {name: known[name].to(parameters[name].device) for name in names}

    def _on_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters())
        home = next(iter(parameters.values())).device if parameters else None
        return {name: t.to(parameters[name].device if name in parameters else home) for name, t in tensors.items()}

    def _attach(self) -> None:
        for method in sorted(self.methods, key=lambda m: getattr(m, "finishes", 0)):
            if isinstance(method, ModelMethod):
                self.attachments[method.name] = method.attach(self.training(method))

    def _load_teachers(self, saved: StackState) -> None:
        for key, shadow in self.shadows.items():
            try:
                shadow.load(saved.teachers[key])
            except (KeyError, ValueError) as error:
                raise CheckpointError(f"{saved.source} holds a teacher of another model: {error}.") from error

    def load(self, saved: StackState) -> None:
        """Take over a saved state in place.

        Raises:
            CheckpointError: it belongs to another model.
        """
        self._load_teachers(saved)
        self.anchor |= self._anchored(saved.anchor, saved)
        self._resumed, self._is_laid_out = True, False
        for name, own in self.tensors.items():
            loaded = self._on_device(saved.tensors.get(name, {}))
            for key in own.keys() - loaded.keys():
                del own[key]
            for key, tensor in loaded.items():
                if key in own and own[key].shape == tensor.shape:
                    own[key].copy_(laid_like(tensor, own[key]))
                else:
                    own[key] = tensor

    @property
    def follows_steps(self) -> bool:
        """Whether some method must see the forward pass of every update."""
        steers = any(attachment.steers_updates for attachment in self.attachments.values())
        return steers or any(isinstance(m, LossMethod | StepMethod) for m in self.methods)

    def before_update(self, update: int, total_updates: int | None) -> None:
        """Before the first pass of an update; ``update`` counts those done.

        Raises:
            HostError: the model has been moved to another device since it was prepared.
        """
        self._follow_layout()
        for attachment in self.attachments.values():
            attachment.before_update(update, total_updates)

    def _follow_layout(self) -> None:
        """Lay every copy as its weight lies now: FSDP2 has cut the weights, and moved them to a device."""
        reshard(self.model)
        some = next(self.model.parameters())
        if some.device != self._home and not is_sharded(some):
            raise HostError(
                f"The model was prepared on {self._home} and is now on {some.device}: move it first, then call "
                "stack.prepare(model)."
            )
        if not self.methods:
            return
        if self._is_laid_out or not is_sharded(some):
            self._refuse_new_weights()
        if self._is_laid_out:
            return
        refuse_engines(self.model)
        self._refuse_sharded(perturbs=False)
        self._home, self._is_laid_out = some.device, True
        if not is_sharded_model(self.model):
            return
        self._weights = _places(self.model)
        parameters = dict(self.model.named_parameters())
        for copies in (self.anchor, *self.tensors.values(), *(shadow.tensors for shadow in self.shadows.values())):
            for name in copies.keys() & parameters.keys():
                copies[name] = laid_like(copies[name], parameters[name])

    def _refuse_new_weights(self) -> None:
        """Refuse weights that are others than those that were prepared: the copies and the optimizer have the old."""
        for module, name, weight, shape in self._weights:
            now = module._parameters.get(name)
            if now is not None and now is weight and now.shape == shape:
                continue
            what = next((f"{n}.{name}" for n, m in self.model.named_modules() if m is module), name)
            if now is None or now.shape == shape:
                change = "is another tensor (load_state_dict(assign=True)?)"
            else:
                change = f"has another shape, {tuple(now.shape)} in place of {tuple(shape)} (resized embeddings?)"
            raise HostError(
                f"{what} of the {type(self.model).__name__} {change} since stack.prepare: change the model first, "
                "then call stack.prepare(model) and make the optimizer."
            )

    def after_update(self, update: int, total_updates: int | None) -> None:
        """Move the teachers and whatever follows the weights; ``update`` counts this one."""
        if not self.shadows and not self.attachments:
            return
        reshard(self.model)
        for teacher, shadow in self.shadows.items():
            if teacher.is_due(update):
                shadow.step(self.model, teacher.decay_after(update, total_updates))
        for attachment in self.attachments.values():
            attachment.after_update(update, total_updates)

    def finish(self) -> None:
        """Put the final weights into the model."""
        reshard(self.model)
        for attachment in self.attachments.values():
            attachment.finish()

    def detach(self) -> None:
        """Leave the model as it came; safe to call twice."""
        with ExitStack() as undo:  # one that fails does not keep the others from being undone
            for attachment in self.attachments.values():
                undo.callback(attachment.detach)
            for clean in (*reversed(self._cleanup), *(tap.release for tap in self.taps.values())):
                undo.callback(clean)
        self.attachments = {}
        self._cleanup.clear()  # only now: one that was interrupted is done again by the next call


def _places(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter, torch.Size]]:
    """Each weight with its place and its shape, to see whether another has come there."""
    return [
        (module, name, weight, weight.shape)
        for module in model.modules()
        for name, weight in module._parameters.items()
        if weight is not None
    ]


def _refuse_model(model: nn.Module) -> None:
    """Refuse a model that cannot train at all.

    Raises:
        HostError: all its weights are frozen, or were made for inference.
    """
    name, weights = type(model).__name__, list(model.parameters())
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in weights):
        raise HostError(
            f"The weights of the {name}, or this call, are inside torch.inference_mode(), where nothing can train: "
            "load the model and call stack.prepare(model) outside of it."
        )
    if weights and not any(p.requires_grad for p in weights):
        raise HostError(
            f"None of the weights of the {name} train: requires_grad is False for all of them. Call "
            "model.requires_grad_(True), or set it for a part of the model."
        )
