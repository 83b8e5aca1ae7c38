"""Which parameters of a model are pretrained, and whether it was pretrained on many languages."""

from __future__ import annotations

from torch import nn

from steadytune.core.model.outputs import has_output_embeddings

#: Architectures of Transformers that exist only as multilingual checkpoints.
MULTILINGUAL_TYPES = frozenset(
    {
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlm-prophetnet",
        "xmod",
        "mt5",
        "umt5",
        "mbart",
        "m2m_100",
        "xglm",
    }
)
#: What models of Transformers call a new head.
NEW_HEADS = frozenset({"qa_outputs", "classifier", "classification_head", "score"})
#: Parts of checkpoint names that say the same of architectures that exist in both forms.
MULTILINGUAL_NAMES = ("multilingual", "xlm", "mdeberta", "mmbert", "mbert", "labse", "nllb")


def pretrained_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are not part of a new head.

    By the convention of Transformers the pretrained body is ``model.base_model``. What lies outside it is a new head,
    except output embeddings (a language-model head), which are pretrained. A module without that convention has no
    head: all its parameters count as pretrained. Under PEFT only what PEFT has frozen is pretrained.

    >>> sorted(pretrained_parameters(nn.Linear(2, 2)))
    ['bias', 'weight']
    """
    names = dict(model.named_parameters())
    body = getattr(model, "base_model", None)
    if hasattr(model, "peft_config"):
        return frozenset(name for name, p in names.items() if not p.requires_grad)
    if body is model and "For" in type(model).__name__:  # T5's question answerer has no body beside its head
        return frozenset(name for name in names if name.split(".")[0] not in NEW_HEADS)
    if not isinstance(body, nn.Module) or body is model:
        return frozenset(names)
    inside = {id(p) for p in body.parameters()}
    if has_output_embeddings(model):
        return frozenset(names)
    return frozenset(name for name, p in names.items() if id(p) in inside)


def is_multilingual(model: nn.Module) -> bool:
    """Whether the checkpoint was pretrained on many languages, told by its architecture and its name."""
    config = getattr(model, "config", None)
    name = str(getattr(config, "name_or_path", "") or "").lower()
    return getattr(config, "model_type", None) in MULTILINGUAL_TYPES or any(m in name for m in MULTILINGUAL_NAMES)
