"""Where a model comes from: the embedded one, a local folder, the Hub's cache, and only then the Hub."""

from __future__ import annotations

import copy
import json
import queue
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steadytune.errors import ModelNotFoundError, SteadytuneError, did_you_mean
from steadytune.heads.registry import head_of
from steadytune.models.folder_check import check_folder
from steadytune.models.new_head import draw_head, in_short, is_of_the_head, other_outputs
from steadytune.models.pooled.choice import Pooling, choose_pooling
from steadytune.support.hub import CONNECTION_SECONDS, hub_address, hub_is_reachable, within
from steadytune.support.text import brief
from steadytune.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: How the weights are held: in 32 bits, or as they are stored.
Dtype = Literal["float32", "auto"]
EMBEDDED = ("minilm",)


@dataclass(frozen=True)
class ModelSource:
    """Where a model was found.

    Attributes:
        location: a folder, or a Hub id.
        found_in: ``"embedded"``, ``"folder"``, ``"cache"`` or ``"hub"``.
        note: what the user must get to see: that the head of the checkpoint is replaced.
    """

    location: str
    found_in: str
    note: str | None = None


def find_model(name: str) -> ModelSource:
    """Find a model without loading it: embedded, folder, cache, Hub, in this order.

    Raises:
        ModelNotFoundError: it is nowhere, or the Hub cannot be reached; within 5 seconds, saying what was tried.
    """
    if name in EMBEDDED:
        from steadytune.tasks.named.demo import minilm_folder

        return ModelSource(str(minilm_folder()), "embedded")
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        found = _model_folder(folder, name)
        check_folder(found, name)
        return ModelSource(str(found), "folder")
    cached = _cached_folder(name)
    if cached is not None:
        check_folder(cached, name)
        return ModelSource(str(cached), "cache")
    _require_on_hub(name)
    return ModelSource(name, "hub")


def _model_folder(folder: Path, name: str) -> Path:
    if not folder.exists():
        raise ModelNotFoundError(f"--model {name}: there is no such folder.")
    if not folder.is_dir():
        raise ModelNotFoundError(f"--model {name}: is a file; give the folder that holds config.json and the weights.")
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"  # the folder of a run
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"--model {name}: the folder holds a PEFT adapter; merge it into its base model first, with PEFT's "
            "merge_and_unload(), and save that with save_pretrained()."
        )
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"--model {name}: the folder holds no config.json, so it is not a saved model.")
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"--model {name}: the folder holds no .safetensors weights (pickled ones are never read); save the model "
            "again with save_pretrained()."
        )
    return folder


def _cached_folder(name: str) -> Path | None:
    """The folder in the Hub's cache: loaded by its path, Transformers asks the Hub for nothing else."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise ModelNotFoundError(
            f"--model {name}: neither a folder nor a name the Hub could know.{did_you_mean(name, EMBEDDED)}"
        ) from error
    weights = ("model.safetensors", "model.safetensors.index.json")
    has_weights = any(isinstance(try_to_load_from_cache(name, file), str) for file in weights)
    return Path(config).parent if isinstance(config, str) and has_weights else None


def _require_on_hub(name: str) -> None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    looked = f"no folder {name!r}, nothing in the cache {constants.HF_HUB_CACHE}"
    hint = did_you_mean(name, EMBEDDED)
    if constants.is_offline_mode():
        raise ModelNotFoundError(
            f"--model {name}: {looked}, and the Hub is off (HF_HUB_OFFLINE).{hint} Give a folder."
        )
    address = hub_address()
    remedy = f"{hint} Check the connection, give a folder, or use --model minilm, which needs no Hub."
    if not hub_is_reachable():
        constants.HF_HUB_OFFLINE = True  # everything after this answers at once instead of timing out
        raise ModelNotFoundError(f"--model {name}: {looked}, and {address} cannot be reached.{remedy}")
    try:
        within(CONNECTION_SECONDS, lambda: HfApi().model_info(name))
    except queue.Empty:
        constants.HF_HUB_OFFLINE = True
        raise ModelNotFoundError(
            f"--model {name}: {looked}, and {address} did not answer in {CONNECTION_SECONDS:g} s.{remedy}"
        ) from None
    except GatedRepoError as error:
        raise ModelNotFoundError(f"--model {name}: the Hub wants you to ask for access and log in.") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(f"--model {name}: {looked}, and the Hub has no such model.{hint}") from error
    except Exception as error:  # whatever the Hub's client and its HTTP library raise becomes one line
        reason = brief(error)
        raise ModelNotFoundError(f"--model {name}: {looked}; {address} gave an error ({reason}).{remedy}") from error


def load_model(
    name: str,
    task: Task,
    *,
    trust_remote_code: bool = False,
    new_head: bool = False,
    dtype: Dtype = "float32",
    pooling: Pooling = "auto",
    trained: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ModelSource]:
    """Load a model with the head of a task, and its tokenizer; safetensors only.

    The class is the ``Auto`` class of the head, see `TaskHead.auto_class`. For retrieval it has no head.

    Args:
        name: an embedded model, a folder or a Hub id.
        task: tells the head, the number and the names of the outputs.
        trust_remote_code: run code that the model brings along.
        new_head: for training: where the checkpoint's head has other outputs than the task (a model of MNLI that goes
            on with RTE), draw a new one and say so in the note. Otherwise such a checkpoint is refused.
        dtype: of the weights, ``"float32"`` or, as they are stored, ``"auto"``: an optimizer loses most updates of
            weights in 16 bits.
        pooling: how token states become one vector for classes, several labels and numbers: ``"auto"`` as the
            checkpoint declares (sentence encoders do), else the architecture's own head, which is ``"cls"``.
        trained: for predictions: also refuse a checkpoint that lacks weights of the head.

    Raises:
        ModelNotFoundError: it is nowhere, or cannot be loaded as such a model.
        SettingsError: the head or the model cannot be pooled.
    """
    source, head = find_model(name), head_of(task.head)
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": source.found_in != "hub",
    }
    from steadytune.models.tokenizer import fit_tokens, give_padding, load_tokenizer

    with _one_line(name, task):
        config, model, loading = _load_weights(source, task, options, pooling, dtype, new_head=new_head)
        tokenizer = load_tokenizer(source.location, head, options)
    mismatched = [key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]]
    _require_finite(model, name)
    _require_body(model, loading["missing_keys"], name, alone=not head.has_outputs)
    _require_all_layers(model, loading["unexpected_keys"], name)
    if trained:
        _require_trained_head(loading["missing_keys"], name)
    others = other_outputs(config, task)
    notes = [_note_on_precision(config, dtype) if new_head else None]
    notes += [_replaced_head(model, task, name, others, mismatched, new_head=new_head)]
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # Transformers makes one of nothing but special tokens
        raise ModelNotFoundError(
            f"--model {name}: no files of a tokenizer are with the model; save it there with save_pretrained()."
        )
    head.check_model(model, tokenizer, loading["missing_keys"], name)
    _require_known_tokens(model, tokenizer, name)
    notes.append(fit_tokens(model, tokenizer, name, resize=new_head))
    notes.append(give_padding(model, tokenizer, head))
    _require_whole_characters(tokenizer, name)
    return model, tokenizer, replace(source, note=" ".join(note for note in notes if note) or None)


@contextmanager
def _one_line(name: str, task: Task) -> Iterator[None]:
    """Turn what Transformers raises in the block, which has many types, into one line."""
    try:
        yield
    except SteadytuneError:
        raise
    except Exception as error:
        reason = brief(error, 10_000)
        if "ignore_mismatched_sizes" in reason:
            reason = f"its head has not {task.number_of_outputs} outputs, or config.json is not that of its weights"
        raise ModelNotFoundError(
            f"--model {name}: cannot be loaded for {task.head} ({type(error).__name__}: {reason[:300]})."
        ) from error


def _load_weights(
    source: ModelSource, task: Task, options: Mapping[str, Any], pooling: Pooling, dtype: Dtype, *, new_head: bool
) -> tuple[PreTrainedConfig, PreTrainedModel, dict[str, Any]]:
    """Return the configuration as it is stored, the model, and what Transformers reports about its weights."""
    import transformers

    head = head_of(task.head)
    how: dict[str, Any] = {
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": new_head,
        **options,
    }
    config = transformers.AutoConfig.from_pretrained(source.location, **options)
    how["dtype"] = _precision(config, dtype)
    chosen = choose_pooling(source.location, head, config, pooling, from_hub=source.found_in == "hub")
    if chosen is None:
        kind = head.auto_class(is_encoder_decoder=getattr(config, "is_encoder_decoder", False))
        outputs = head.configuration(task.label_names)
        model, loading = getattr(transformers, kind).from_pretrained(source.location, **how, **outputs)
        return config, model, loading
    from steadytune.models.pooled.configuration import PooledConfig
    from steadytune.models.pooled.modeling import PooledForSequenceClassification

    named = copy.deepcopy(config)
    named.update(head.configuration(task.label_names))
    own = PooledConfig.over(named, chosen.pooling, normalize=chosen.normalize)
    loaded: Any = PooledForSequenceClassification.from_pretrained(source.location, config=own, **how)
    return config, *loaded  # two of them, as `output_loading_info` asks


def _note_on_precision(config: Any, dtype: Dtype) -> str | None:
    """Say how weights that are stored in 16 bits are held in training."""
    stored = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    if stored not in ("bfloat16", "float16"):
        return None
    held = "kept so (--dtype auto)" if dtype == "auto" else "trained in float32; --dtype auto keeps them"
    return f"The weights are stored in {stored} and {held}."


def _require_finite(model: PreTrainedModel, name: str) -> None:
    from steadytune.core.stack.finite_watch import non_finite_weight

    broken = non_finite_weight(model)
    if broken is not None:
        raise ModelNotFoundError(
            f"--model {name}: its weight {broken} holds NaN or an infinity: the training that wrote it diverged, or "
            "the file is damaged. Name another model or checkpoint."
        )


def _require_known_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise where a token that every text gets has no row in the word embeddings."""
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if rows is None:
        return
    numbers = {word: getattr(tokenizer, f"{word}_token_id") for word in ("pad", "unk", "cls", "sep", "bos", "eos")}
    for word, number in numbers.items():
        if number is not None and number >= rows:
            token = getattr(tokenizer, f"{word}_token")
            raise ModelNotFoundError(
                f"--model {name}: its tokenizer's {word} token {token!r} has the number {number}, and the word "
                f"embeddings end at {rows - 1}: tokenizer_config.json is not that of the model. Save both again with "
                "save_pretrained(), after resize_token_embeddings() if the token is new."
            )


def _require_whole_characters(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise where the tokenizer's settings could not be saved again after the training."""
    try:
        json.dumps(tokenizer.init_kwargs, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ModelNotFoundError(
            f"--model {name}: its tokenizer_config.json holds half a character ({half!r}), which no file can hold."
        ) from error


def _precision(config: Any, dtype: Dtype) -> Dtype:
    """Return the type of the weights; those that are quantized keep theirs."""
    return "auto" if getattr(config, "quantization_config", None) else dtype


def _require_body(model: PreTrainedModel, missing: Iterable[str], name: str, *, alone: bool) -> None:
    # A new head is expected, and some checkpoints come without the pooler; anything else would train from random.
    body = "" if alone else f"{model.base_model_prefix}."
    absent = sorted(key for key in missing if key.startswith(body) and "pooler" not in key)
    if absent:
        raise ModelNotFoundError(
            f"--model {name}: {len(absent)} tensors of the encoder are not in its weights, {absent[0]} for one: the "
            "file is not of this architecture or not whole."
        )


def _require_all_layers(model: PreTrainedModel, unexpected: Iterable[str], name: str) -> None:
    """Raise where the weights have layers that config.json does not name: they would be left out in silence."""

    def shape_of(key: str) -> str:
        return re.sub(r"\.\d+\.", ".N.", key.removeprefix(f"{model.base_model_prefix}."))

    known = {shape_of(key) for key in model.state_dict()}
    left_out = sorted(key for key in unexpected if ".N." in shape_of(key) and shape_of(key) in known)
    if left_out:
        raise ModelNotFoundError(
            f"--model {name}: its weights have layers that config.json does not name, {left_out[0]} for one, "
            f"{len(left_out)} tensors in all: set the number of layers in config.json to that of the weights."
        )


def _require_trained_head(missing: Iterable[str], name: str) -> None:
    absent = sorted(missing)
    if absent:
        raise ModelNotFoundError(
            f"--model {name}: has no trained head: {absent[0]} is not in its weights and would be random. Train it "
            "first, and give the folder of that run."
        )


def _replaced_head(
    model: PreTrainedModel, task: Task, name: str, others: str | None, mismatched: list[str], *, new_head: bool
) -> str | None:
    """Give the model a new head where the checkpoint's is another task's, and say so."""
    wrong = [key for key in mismatched if not is_of_the_head(model, key)]
    if wrong:
        raise ModelNotFoundError(
            f"--model {name}: cannot be loaded for {task.head}: config.json is not that of its weights, {wrong[0]} "
            "has another shape."
        )
    if others is None and not mismatched:
        return None
    why = f"the outputs of {name} are {others or 'of another number'}, and this task's are {_outputs(task)}"
    if not new_head:
        raise ModelNotFoundError(f"--model {name}: {why}.")
    draw_head(model)
    return f"A new head is drawn: {why}."


def _outputs(task: Task) -> str:
    return in_short(task.label_names) if task.label_names else f"{task.number_of_outputs} ({task.head})"


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens fit: what the tokenizer says, and no more than the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    for padding in (getattr(table, "padding_idx", None) for table in tables):
        positions -= 0 if padding is None else padding + 1  # RoBERTa counts from behind the padding
    return min(tokenizer.model_max_length, positions) if positions > 0 else tokenizer.model_max_length
