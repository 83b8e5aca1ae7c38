"""What a method adds to one training step, in passes over the model and in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Cost:
    """What a method adds to one training step.

    Passes are counted over the whole model. In units of one forward pass, a backward pass to the weights counts 2
    and one to the input embeddings alone counts 1; a plain step is `PLAIN_STEP`, 3 units.

    Attributes:
        forwards: forward passes that keep an autograd graph.
        forwards_without_graph: forward passes under ``no_grad``.
        backwards: backward passes that reach the weights.
        backwards_to_embeddings: backward passes that stop at the embeddings.
        weight_copies: extra copies of the trainable weights held in memory.
        activation_sets: extra sets of saved activations alive at the same time as the clean pass's.
    """

    forwards: int = 0
    forwards_without_graph: int = 0
    backwards: int = 0
    backwards_to_embeddings: int = 0
    weight_copies: int = 0
    activation_sets: int = 0

    @property
    def units(self) -> int:
        """Arithmetic in units of one forward pass.

        >>> PLAIN_STEP.units
        3
        """
        passes = self.forwards + self.forwards_without_graph
        return passes + 2 * self.backwards + self.backwards_to_embeddings

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


PLAIN_STEP = Cost(forwards=1, backwards=1)
#: A further clean pass with its backward, whose activations follow those of another pass.
CLEAN_PASS = Cost(forwards=1, backwards=1)


def searched_term(steps: int) -> Cost:
    """Cost of a term at a perturbation that is searched for: the steps of the search, and one pass that trains.

    >>> searched_term(1).units
    5
    """
    return Cost(forwards=steps + 1, backwards=1, backwards_to_embeddings=steps, activation_sets=1)
