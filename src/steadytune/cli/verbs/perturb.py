"""The verb `perturb`: NoisyTune on a checkpoint folder, from disk to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from steadytune.cli.views.console import byte_bar, show_lines


def run_perturbation(source: str, destination: Path, given: dict[str, Any], *, quiet: bool) -> None:
    """Write the checkpoint with noise, and print how far its weights moved."""
    from steadytune.models.checkpoint.perturb import perturb_checkpoint
    from steadytune.support.quiet_libraries import quiet_transformers

    quiet_transformers()
    console = Console()
    with byte_bar(console, "perturbing", quiet=quiet) as tell:
        made = perturb_checkpoint(source, destination, tell=tell, **given)
    if quiet:
        return
    show_lines(console, str(made.report))
    if made.left_out:
        show_lines(console, f"Left out, because they hold weights without noise: {', '.join(made.left_out)}")
    show_lines(console, f"Kept in {made.folder}; it loads in from_pretrained, or with --model {made.folder}")
