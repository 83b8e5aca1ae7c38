"""The digest of a model: its configuration, weights and tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path

from steadytune.support.reading import open_regular
from steadytune.tasks.digest import LENGTH


def model_digest(name: str) -> str:
    """Digest of a model's configuration, weights and tokenizer; a Hub model is downloaded for it.

    Raises:
        ModelNotFoundError: it is nowhere.
    """
    from steadytune.models.load import find_model

    source = find_model(name)
    if source.found_in == "hub":
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py"]
        folder = Path(snapshot_download(source.location, allow_patterns=patterns))
    else:
        folder = Path(source.location)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".txt", ".model", ".safetensors", ".py"):
            digest.update(f"\n{file.name}\n".encode())
            with open_regular(file) as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()[:LENGTH]
