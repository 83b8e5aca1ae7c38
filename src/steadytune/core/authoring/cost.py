"""What a method adds to one training step, in passes over the model and in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Cost:
    """What a method adds to one training step.

    Passes are counted over the whole model and the whole batch: over a part of the batch they are a part of a pass. In
    units of one forward pass, a backward pass to the weights counts 2, one to the input embeddings alone counts 1, and
    one through a gradient 4: 2 through the graph of the gradient and 2 through the pass that it was taken of. A plain
    step is `PLAIN_STEP`, 3 units.

    Attributes:
        forwards: forward passes that keep an autograd graph.
        forwards_without_graph: forward passes under ``no_grad``.
        backwards: backward passes that reach the weights.
        backwards_to_embeddings: backward passes that stop at the embeddings.
        backwards_through_gradients: backward passes through a gradient that `Step.gradient` returned, and so to the
            weights (double backward).
        weight_copies: extra copies of the trainable weights held in memory.
        activation_sets: extra sets of saved activations alive at the same time as the clean pass's.
    """

    forwards: float = 0
    forwards_without_graph: float = 0
    backwards: float = 0
    backwards_to_embeddings: float = 0
    backwards_through_gradients: float = 0
    weight_copies: int = 0
    activation_sets: float = 0

    @property
    def units(self) -> float:
        """Arithmetic in units of one forward pass.

        >>> PLAIN_STEP.units
        3
        """
        passes = self.forwards + self.forwards_without_graph
        return passes + 2 * self.backwards + self.backwards_to_embeddings + 4 * self.backwards_through_gradients

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)})

    def __sub__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)})

    def times(self, runs: int) -> Cost:
        """The passes of ``runs`` such steps; memory is used again and does not grow.

        >>> PLAIN_STEP.times(2).units
        6
        """
        memory = {"weight_copies": self.weight_copies, "activation_sets": self.activation_sets}
        return Cost(**{f.name: getattr(self, f.name) * runs for f in fields(Cost)} | memory)

    def thinned(self, one_in: int, every: int) -> Cost:
        """On average over the updates, of a term on one example in ``one_in``, in one update of ``every``.

        The activations are those of an update that has the term.

        >>> searched_term(1).thinned(one_in=5, every=1).units
        1.0
        """
        if one_in == every == 1:
            return self
        memory = {"weight_copies": self.weight_copies, "activation_sets": self.activation_sets / one_in}
        return Cost(**{f.name: getattr(self, f.name) / (one_in * every) for f in fields(Cost)} | memory)

    def one_graph_at_a_time(self) -> Cost:
        """Memory of terms with ``memory="low"``: the activations of one pass, for a clean pass without a graph.

        >>> searched_term(1).one_graph_at_a_time().units
        6
        """
        if self.activation_sets == 0:
            return self
        return replace(self, activation_sets=0, forwards_without_graph=self.forwards_without_graph + 1)


PLAIN_STEP = Cost(forwards=1, backwards=1)
#: A further clean pass with its backward, whose activations follow those of another pass.
CLEAN_PASS = Cost(forwards=1, backwards=1)


def searched_term(steps: int) -> Cost:
    """Cost of a term at a perturbation that is searched for: the steps of the search, and one pass that trains.

    >>> searched_term(1).units
    5
    """
    return Cost(forwards=steps + 1, backwards=1, backwards_to_embeddings=steps, activation_sets=1)
