"""The tap: adds a perturbation to the word embeddings, or to the output of a layer, where they really run.

A forward hook on the module, never ``inputs_embeds``, which is refused by encoder-decoders and changes the
clean logits of several decoders. The hook is there only while a pass runs, so the model always leaves as it came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.model.copying import OwnHook
from steadytune.core.model.precision import precision_now
from steadytune.errors import HostError


def word_embedding(model: nn.Module) -> nn.Module:
    """Return the module that embeds the input words; where there is an encoder, the encoder's.

    Raises:
        HostError: the model has no ``get_input_embeddings``.
    """
    get_encoder: Any = getattr(model, "get_encoder", None)
    # T5's models hold a second, tied module that never runs, also where only their encoder is left.
    sources: tuple[Any, ...] = (get_encoder() if callable(get_encoder) else None, model)
    for source in sources:
        try:
            found = source.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        if isinstance(found, nn.Module):
            return found
    raise HostError(
        f"{type(model).__name__} does not say which module embeds its words: "
        "it needs a get_input_embeddings() that returns it."
    )


def is_length_first(model: nn.Module) -> bool:
    """Whether the layers pass on ``(length, batch, width)``, as XLNet's do.

    >>> is_length_first(nn.Linear(1, 1))
    False
    """
    return getattr(getattr(model, "config", None), "model_type", None) == "xlnet"


@dataclass(frozen=True)
class EmbeddingFacts:
    """The embeddings of one pass: ``(batch, length, width)``, their type and device, the type the pass computes in."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    precision: torch.dtype


class _SeenEnough(Exception):  # noqa: N818 - no error: it ends a pass whose beginning was all that was wanted
    pass


#: The perturbations of the passes that run now, by the number of their tap. Not in the hook itself: torch.compile
#: takes the shape of whatever it reaches through a module for fixed, and would recompile for every length.
_DELTAS: dict[int, Tensor] = {}
_NUMBERS = itertools.count()


class Tap:
    """Watches and perturbs the output of one module: a tensor, or a tuple that begins with one.

    Args:
        embedding: the module.
        length_first: its output is ``(length, batch, width)``; seen and perturbed as ``(batch, length, width)``.

    Example:
        >>> embedding = nn.Embedding(5, 2)
        >>> tap = Tap(embedding)
        >>> ids = torch.tensor([[1, 2]])
        >>> with tap.watching():
        ...     clean = embedding(ids)
        >>> with tap.perturbing(torch.ones(tap.seen.shape)):
        ...     bool((embedding(ids) == clean + 1).all())
        True
    """

    def __init__(self, embedding: nn.Module, *, length_first: bool = False) -> None:
        self.embedding = embedding
        self.length_first = length_first
        self._number = next(_NUMBERS)
        self._seen: EmbeddingFacts | None = None
        self._clean: tuple[Tensor, int] | None = None
        self._undo = ExitStack()

    def release(self) -> None:
        """Take everything off, where an interruption has kept a pass from doing so."""
        _DELTAS.pop(self._number, None)
        self._clean = None
        self._undo.close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the shape, type and device of the embeddings while a clean pass runs."""

        def keep(output: Tensor) -> None:
            if self._is_plain_lookup():
                self._clean = output, output._version

        self._clean = None
        with self._hook(keep):
            yield

    def take_clean(self) -> Tensor | None:
        """The embeddings of the watched pass, with their graph, if a second pass would look up the same; once."""
        (clean, version), self._clean = self._clean or (None, 0), None
        # A model that works in place, such as one that adds its positions so, has overwritten them.
        return None if clean is None or clean._version != version else clean

    @contextmanager
    def perturbing(self, delta: Tensor, *, clean: Tensor | None = None) -> Iterator[None]:
        """Add ``delta`` to the embeddings while a pass runs.

        Args:
            delta: ``(batch, length, width)``.
            clean: what `take_clean` gave for the same words. Where it may stand for what this pass looks up, the table
                gets one gradient in place of two.

        Raises:
            HostError: the pass ended and the embedding never ran, so ``delta`` had no effect.
        """
        number = self._number

        def perturb(output: Tensor) -> Tensor:
            # Without a graph of its own, as under memory="low", the clean pass cannot carry this one's gradient.
            if clean is not None and clean.requires_grad == output.requires_grad and self._is_plain_lookup():
                output = clean
            return output + _DELTAS[number].to(output.dtype)

        try:
            _DELTAS[number] = delta
            with self._hook(perturb):
                yield
        finally:
            _DELTAS.pop(number, None)
        _ = self.seen

    def measure(self, run: Callable[[], Any]) -> EmbeddingFacts:
        """What the embeddings of a pass look like; the pass ends as soon as they are there.

        Raises:
            HostError: the pass ended and the embedding never ran.
        """

        def stop(_output: Tensor) -> None:
            raise _SeenEnough

        with torch.no_grad(), self._hook(stop), suppress(_SeenEnough):
            run()
        return self.seen

    def _is_plain_lookup(self) -> bool:
        """Whether each pass of the same words gets the same vectors: from a table whose output nobody else changes."""
        module = self.embedding
        return (
            type(module) is nn.Embedding
            and module.max_norm is None
            and "forward" not in vars(module)
            and not module._forward_pre_hooks
            and len(module._forward_hooks) == 1  # the tap's own
            and not torch.compiler.is_compiling()  # a compiled pass does not hand on what is inside of it
        )

    @contextmanager
    def _hook(self, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        def forward_hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            first = first.transpose(0, 1) if self.length_first else first
            delta = _DELTAS.get(self._number)
            # LED embeds the rest of an attention window by the same module, after the sentence.
            is_another = self._seen is not None if delta is None else first.shape != delta.shape
            if is_another:
                return None
            self._seen = EmbeddingFacts(first.shape, first.dtype, first.device, precision_now(first))
            changed = change(first)
            if changed is None:
                return None
            changed = changed.transpose(0, 1) if self.length_first else changed
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        self._seen = None
        with ExitStack() as undo:  # whatever interrupts the block, and also right after the hook is there
            self._undo = undo
            undo.callback(self.embedding.register_forward_hook(OwnHook(forward_hook)).remove)
            yield

    @property
    def seen(self) -> EmbeddingFacts:
        """What the last pass looked like at the embeddings.

        Raises:
            HostError: the embeddings did not run in it.
        """
        if self._seen is None:
            raise HostError(
                "The word embeddings never ran in the forward pass, so a perturbation would have no effect: "
                "pass token ids (not inputs_embeds), and a model whose get_input_embeddings() is the module it uses."
            )
        return self._seen
