"""What a model's folder says of itself, before a library believes it: sizes, lengths, and the files of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steadytune.errors import ModelNotFoundError
from steadytune.support.reading import RESULTS, read_json
from steadytune.support.text import excerpt

CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer_config.json", "model.safetensors.index.json"
#: Names in config.json that stand for a size in all architectures that have them.
SIZES = frozenset(
    {"hidden_size", "d_model", "n_embd", "dim", "embedding_size", "vocab_size", "intermediate_size", "hidden_dim"}
    | {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "d_ff", "d_kv"}
    | {"num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"}
    | {"max_position_embeddings", "n_positions", "num_key_value_heads", "head_dim", "encoder_ffn_dim"}
)
LARGEST = 2**31
_DEEPEST = 5


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder whose files say what no model has, in one line.

    Args:
        folder: holds config.json.
        name: of the model, as it was given.

    Raises:
        ModelNotFoundError: a size is no positive whole number, or the index names other files than the folder holds.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():  # libraries would wait for it without end
            raise ModelNotFoundError(
                f"--model {name}: {excerpt(path.name)} is a pipe or a device, not a regular file."
            )
    config = _read(folder / CONFIG, name)
    for place, value in _sizes(config):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < LARGEST:
            raise ModelNotFoundError(
                f"--model {name}: {place} in {CONFIG} is {excerpt(value)}, and must be a positive whole number."
            )
    if (folder / TOKENIZER).is_file():
        length = _read(folder / TOKENIZER, name).get("model_max_length", 1)
        if isinstance(length, bool) or not isinstance(length, int | float) or length < 1 or length != length // 1:
            raise ModelNotFoundError(
                f"--model {name}: model_max_length in {TOKENIZER} is {excerpt(length)}, and must be a positive whole "
                "number."
            )
    if (folder / INDEX).is_file():
        try:
            files_of_index(folder)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"--model {name}: {error}.") from None


def files_of_index(folder: Path) -> list[Path]:
    """The weights that an index names; each must be a file of that folder.

    Raises:
        OSError: the index cannot be read.
        ValueError: it is no index, or names something else.
    """
    found = read_json(folder / INDEX, RESULTS)
    names = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(names, Mapping) or not names:
        raise ValueError(f"{folder / INDEX}: is no index of weights")
    files = set()
    for file in names.values():
        if not isinstance(file, str) or any(sign in file for sign in "/\\\0") or not file.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: names {excerpt(file)}, which is no file of weights in this folder")
        files.add(file)
    missing = sorted(file for file in files if not (folder / file).is_file())
    if missing:
        raise ValueError(f"{folder / INDEX}: names {excerpt(missing[0])}, which is not there")
    return sorted(folder / file for file in files)


def _read(file: Path, name: str) -> Mapping[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"--model {name}: {file.name} cannot be read ({excerpt(error)}).") from None
    if not isinstance(content, Mapping):
        raise ModelNotFoundError(f"--model {name}: {file.name} holds no settings by name.")
    return content


def _sizes(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in SIZES and value is not None:
            yield key, value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _sizes(value, depth + 1)
