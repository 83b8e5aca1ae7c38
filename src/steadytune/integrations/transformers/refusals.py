"""What of a Trainer and its arguments the methods cannot work with, said before the training."""

from __future__ import annotations

from typing import Any

from steadytune.core.authoring.method import TASK_EMBEDDINGS, ModelMethod, refusal_when_sharded
from steadytune.core.model.wrappers import refusal
from steadytune.core.stack.stack import Stack
from steadytune.errors import HostError
from steadytune.integrations.transformers.fused_head import has_fused_head


def refuse_trainer(trainer: Any, stack: Stack) -> None:
    """Refuse what the methods of the stack cannot work in or with.

    Raises:
        HostError: an engine, a wrapper or an argument is one of these.
    """
    if stack.methods and trainer.args.n_gpu > 1:
        raise HostError(
            f"nn.DataParallel over {trainer.args.n_gpu} GPUs is not supported: start with `torchrun` or "
            "`accelerate launch`, or show one GPU only (CUDA_VISIBLE_DEVICES=0)."
        )
    if stack.methods:
        _refuse_engines(trainer, stack)
    _refuse_arguments(trainer, stack)


def _refuse_engines(trainer: Any, stack: Stack) -> None:
    """Say before the training which engine the methods cannot work in."""
    if trainer.is_deepspeed_enabled:
        raise refusal("DeepSpeedEngine")
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and getattr(plugin, "fsdp_version", 1) == 1:
        raise refusal("FullyShardedDataParallel")
    for method in stack.methods:
        if plugin is not None and method.not_sharded:
            raise refusal_when_sharded(method)


def _refuse_arguments(trainer: Any, stack: Stack) -> None:
    """Say before the training what of the Trainer's arguments a method cannot work with."""
    step, accumulation = stack.step_method, trainer.args.gradient_accumulation_steps
    if step is not None and step.whole_batch and accumulation > 1:
        raise HostError(
            f"{step.name} needs the whole batch of an update at once, and gradient_accumulation_steps is "
            f"{accumulation}: set it to 1 with a larger batch, or leave {step.name} out."
        )
    out = [m.label for m in stack.methods if isinstance(m, ModelMethod) and m.leaves_weights_out]
    is_ddp = trainer.args.world_size > 1 and not trainer.is_fsdp_enabled
    if out and is_ddp and trainer.args.ddp_find_unused_parameters is not True:
        raise HostError(
            f"{out[0]} leaves weights without a gradient, which breaks DDP silently: set "
            "ddp_find_unused_parameters=True."
        )
    _refuse_losses_without_logits(trainer, stack)
    noisy = [m.label for m in stack.methods if TASK_EMBEDDINGS in m.claims]
    if noisy and trainer.args.neftune_noise_alpha is not None:
        raise HostError(
            f"neftune_noise_alpha={trainer.args.neftune_noise_alpha:g} and {noisy[0]} would both put noise on the "
            f"word embeddings: set neftune_noise_alpha=None, or leave {noisy[0]} out."
        )
    final = [m.label for m in stack.methods if isinstance(m, ModelMethod) and m.changes_final_weights]
    if final and trainer.args.load_best_model_at_end:
        raise HostError(
            f"{final[0]} makes the final weights, and load_best_model_at_end would load others: "
            f"set load_best_model_at_end=False, or leave {final[0]} out."
        )


def _refuse_losses_without_logits(trainer: Any, stack: Stack) -> None:
    model = trainer.model  # None between two trials of a search, until `train` asks model_init for the next
    if not stack.loss_methods or (model is not None and has_fused_head(trainer.accelerator.unwrap_model(model))):
        return
    name = stack.loss_methods[0].label
    fuses = (trainer.args.liger_kernel_config or {}).get("fused_linear_cross_entropy", True)
    if trainer.args.use_liger_kernel and fuses:
        raise HostError(
            f"{name} compares logits, and Liger's fused loss makes none: set "
            "liger_kernel_config={'fused_linear_cross_entropy': False}, or use_liger_kernel=False."
        )
    if getattr(trainer.args, "loss_type", None) == "chunked_nll":
        raise HostError(f"{name} compares logits, and loss_type='chunked_nll' makes none: set loss_type='nll'.")
