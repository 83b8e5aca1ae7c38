"""NEFTune: uniform noise on the word embeddings of each training pass (Jain et al., ICLR 2024)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from steadytune.core.arithmetic import noise
from steadytune.core.authoring import TASK_EMBEDDINGS, Attachment, ModelMethod, Training, hyperparameter
from steadytune.core.model.copying import OwnHook
from steadytune.core.model.precision import precision_now
from steadytune.core.model.tap import EmbeddingFacts, is_length_first, word_embedding
from steadytune.errors import HostError


@dataclass(frozen=True)
class NEFTune(ModelMethod):
    """The model trains on word embeddings with noise: ``x + U(-1, 1) * alpha / sqrt(tokens * width)`` (algorithm 1).

    New noise is drawn in each training pass, for real tokens only, and ``tokens`` counts the real tokens of each
    sentence; its expected length per sentence is ``alpha / sqrt(3)`` whatever the sentence. In evaluation mode, and
    with ``alpha=0``, nothing is drawn and nothing changes.

    Example:
        >>> NEFTune(alpha=10).effect()
        'adds uniform noise of strength 10 to the word embeddings of each training pass'

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "neftune"
    summary: ClassVar[str] = "random noise on the word embeddings while training"
    paper: ClassVar[str] = "NEFTune, Jain et al., ICLR 2024, alg. 1"
    claims: ClassVar[frozenset[str]] = frozenset({TASK_EMBEDDINGS})
    off_settings: ClassVar[Mapping[str, Any]] = {"alpha": 0.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"alpha": 5.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "host_randomness": "the noise is drawn from the host's random numbers, as dropout masks are"
    }

    alpha: float = hyperparameter(5.0, "strength of the noise (paper: 5, 10 or 15)", low=0, high=1000)

    def check_model(self, training: Training) -> None:
        """Refuse a model that does not say which module embeds its words."""
        word_embedding(training.model)

    def attach(self, training: Training) -> Attachment:
        """Hook the word embeddings; with ``alpha=0`` leave the model alone."""
        return _Noise(training, self.alpha) if self.alpha > 0 else Attachment()

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"adds uniform noise of strength {self.alpha:g} to the word embeddings of each training pass"


class _Noise(Attachment):
    """Notes the attention mask when a pass begins, and adds noise the first time that the words are embedded in it.

    The first time: where an encoder and a decoder share the module, the encoder comes first.
    """

    def __init__(self, training: Training, alpha: float) -> None:
        model, self._alpha = training.model, alpha
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._inputs: Mapping[str, Any] | None = None
        self._length_first = is_length_first(model)
        self._undo = ExitStack()
        training.cleanup.append(self.detach)
        self._undo.callback(model.register_forward_pre_hook(OwnHook(self._begin), with_kwargs=True).remove)
        self._undo.callback(word_embedding(model).register_forward_hook(OwnHook(self._add)).remove)
        self._undo.callback(model.register_forward_hook(OwnHook(self._end), always_call=True).remove)

    def detach(self) -> None:
        """Remove the hooks."""
        self._undo.close()
        self._inputs = None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        self._inputs = {"attention_mask": given.get("attention_mask")} if module.training else None

    def _add(self, module: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        if self._inputs is None or not module.training:
            return None
        words = output.transpose(0, 1) if self._length_first else output
        seen = EmbeddingFacts(words.shape, words.dtype, words.device, precision_now(words))
        site = noise.Site(seen, noise.token_mask(self._inputs, seen))
        self._inputs = None
        added = noise.uniform_noise(site, self._alpha / (site.lengths() * words.shape[-1]).sqrt()).to(output.dtype)
        return output + (added.transpose(0, 1) if self._length_first else added)

    def _end(self, _module: nn.Module, _args: object, output: Any) -> None:
        missed, self._inputs = self._inputs is not None, None
        if missed and output is not None:  # None: the pass has failed already
            raise HostError(
                "neftune had no effect: the word embeddings never ran in the forward pass. Pass token ids (not "
                "inputs_embeds), and a model whose get_input_embeddings() is the module it uses."
            )
