"""The verb `perturb`: NoisyTune on a checkpoint folder, from disk to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from steadytune.cli.views.console import Screen, byte_bar, show_lines
from steadytune.settings.asked import Asked
from steadytune.settings.fields import MODEL, OUTPUT, setting

SUMMARY = "Write a checkpoint with NoisyTune's noise, from disk to disk, in little memory."
PANEL = "Before training"
PLACE = 2
EXAMPLE = "steadytune perturb minilm runs/noisy-minilm --intensity 0.15"

NOISE = "Noise"


def _as_patterns(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Options(Asked):
    """What `perturb` can be asked for."""

    source: str = setting(
        ..., "A folder, a run, 'minilm' or a Hub id.", MODEL, metavar="SRC", positional=True, required=True, first=1
    )
    destination: Path = setting(..., "The new folder.", OUTPUT, metavar="DST", positional=True, required=True, first=2)
    intensity: float = setting(0.15, "Lambda, 0 to 1.", NOISE, first=3)
    seed: int = setting(42, "Seed of the noise.", NOISE)
    noise: Literal["uniform", "gaussian"] = setting("uniform", "Distribution of the noise.", NOISE)
    scope: Literal["matrix", "global"] = setting(
        "matrix", "What the noise is relative to: the std of each matrix, or one of all weights.", NOISE
    )
    word_embeddings: Literal["auto", "perturb", "keep"] = setting(
        "auto", "'auto' keeps the word embeddings of multilingual models.", NOISE
    )
    perturb_head: bool = setting(False, "Also perturb the task's head.", NOISE)
    skip: Annotated[tuple[str, ...], BeforeValidator(_as_patterns)] = setting(
        (), "Tensors to leave alone: *.bias,*LayerNorm*", NOISE, metavar="PATTERNS"
    )
    head: str | None = setting(
        None,
        "Task type it will be trained for: then `train` on DST equals `train --methods noisytune` on SRC (default: "
        "tensors are named as in the checkpoint's own class).",
        NOISE,
        metavar="NAME",
        completes="heads",
    )
    overwrite: bool = setting(False, "Replace a saved model at DST.", OUTPUT)


def run(options: Options) -> None:
    """Write the checkpoint with noise, and print how far its weights moved."""
    from steadytune.models.checkpoint.perturb import perturb_checkpoint
    from steadytune.support.quiet_libraries import quiet_transformers

    quiet_transformers()
    console = Screen()
    with byte_bar(console, "perturbing", quiet=options.quiet) as tell:
        made = perturb_checkpoint(
            options.source,
            options.destination,
            tell=tell,
            **options.model_dump(exclude={"source", "destination", "quiet"}),
        )
    if options.quiet:
        return
    show_lines(console, str(made.report))
    if made.left_out:
        show_lines(console, f"Left out, because they hold weights without noise: {', '.join(made.left_out)}")
    show_lines(console, f"Kept in {made.folder}; it loads in from_pretrained, or with --model {made.folder}")
