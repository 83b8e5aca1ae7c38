"""`steadytune perturb`: the bits of NoisyTune in memory, written from disk to disk in little memory."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers import tiny, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM, XLMRobertaModel

import steadytune
from steadytune import Stack, noisytune
from steadytune.cli import main
from steadytune.errors import CheckpointError, MethodError, ModelNotFoundError, SettingsError
from steadytune.methods import noisytune as noisytune_module
from steadytune.models.checkpoint import files as checkpoint_files
from steadytune.models.checkpoint.files import StoredTensor
from steadytune.models.checkpoint.perturb import RECORD, PerturbedCheckpoint, perturb_checkpoint
from steadytune.settings.train import TrainSettings
from steadytune.support.atomic_files import this_process
from steadytune.training.run import train

tiny_folder = tiny_model.tiny_folder

WORDS = "bert.embeddings.word_embeddings.weight"


def masked(dtype: torch.dtype = torch.float32, **settings: Any) -> BertForMaskedLM:
    return tiny.seeded(lambda: BertForMaskedLM(BertConfig(**tiny.sizes(**settings))), 0, dtype)


def llama(**settings: Any) -> LlamaForCausalLM:
    return tiny.seeded(lambda: LlamaForCausalLM(LlamaConfig(**tiny.llama_sizes(), **settings)), 1, torch.bfloat16)


def encoder(dtype: torch.dtype = torch.float32) -> nn.Module:
    return tiny.seeded(lambda: BertModel(BertConfig(**tiny.sizes())), 0, dtype)


def multilingual() -> nn.Module:
    config = transformers.XLMRobertaConfig(**tiny.sizes(), pad_token_id=1)
    return tiny.seeded(lambda: XLMRobertaModel(config), 0)


def in_memory(folder: Path, kind: Any, **settings: Any) -> nn.Module:
    model = kind.from_pretrained(folder)
    stack = Stack([noisytune(**settings)], seed=7)
    stack.prepare(model)
    stack.close()
    return model


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return [n for n in first if first[n].dtype != second[n].dtype or not torch.equal(first[n], second[n])]


SEQUENCE = transformers.AutoModelForSequenceClassification
CASES = {
    "one file": (encoder, {}, {}, BertModel),
    "as it is trained": (encoder, {"head": "classification"}, {}, SEQUENCE),
    "tied, bfloat16, global": (lambda: masked(torch.bfloat16), {}, {"scope": "global"}, BertForMaskedLM),
    "gaussian, skipped": (masked, {}, {"noise": "gaussian", "skip": ("*.bias",)}, BertForMaskedLM),
    "untied decoder": (lambda: llama(tie_word_embeddings=False), {}, {}, LlamaForCausalLM),
    "tied decoder": (lambda: llama(tie_word_embeddings=True), {}, {}, LlamaForCausalLM),
    "float16": (lambda: encoder(torch.float16), {}, {}, BertModel),
    "multilingual": (multilingual, {}, {}, XLMRobertaModel),
}


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_noise_in_memory(tmp_path: Path, case: str, monkeypatch) -> None:
    for module in (
        noisytune_module,
        sys.modules["steadytune.models.checkpoint.perturb"],
    ):  # so that tensors have many parts
        whole = module.parts
        monkeypatch.setattr(module, "parts", lambda size, whole=whole: whole(size, 64))
    build, how, settings, kind = CASES[case]
    model = build()
    shards = {} if case == "one file" else {"max_shard_size": "6KB"}
    model.save_pretrained(tmp_path / "old", **shards)
    assert len(list((tmp_path / "old").glob("*.safetensors"))) == 1 or shards
    made = perturb_checkpoint(tmp_path / "old", tmp_path / "new", seed=7, **how, **settings)
    head = ["classifier.weight", "classifier.bias"] if kind is SEQUENCE else []  # drawn anew by each loading
    expected, got = in_memory(tmp_path / "old", kind, **settings), kind.from_pretrained(tmp_path / "new")
    assert set(differing(expected, got)) <= set(head)
    start = kind.from_pretrained(tmp_path / "old")
    moved = {t.name for t in made.report.tensors if not t.reason}
    assert moved
    assert {n for n, p in start.named_parameters() if not p.equal(got.get_parameter(n))} - set(head) == moved
    in_memory_report = noisytune(**settings).preview(start, 7)
    assert {repr(t) for t in made.report.tensors} == {repr(t) for t in in_memory_report.tensors if t.name not in head}


def test_tied_weights_that_are_stored_twice(tmp_path: Path) -> None:
    masked().save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    weights = load_file(file)
    for change in (0.0, 1.0):  # the same content is tied when it is loaded; another is not
        copied = weights | {"cls.predictions.decoder.weight": weights[WORDS] + change}
        save_file(copied, file, {"format": "pt"})
        perturb_checkpoint(tmp_path / "old", tmp_path / "new", seed=7, overwrite=True)
        got = BertForMaskedLM.from_pretrained(tmp_path / "new")
        assert differing(in_memory(tmp_path / "old", BertForMaskedLM), got) == []
        assert (got.get_input_embeddings().weight is got.get_output_embeddings().weight) == (change == 0)


def test_all_that_is_no_weight_of_the_model_is_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    encoder().save_pretrained(old)
    file = old / "model.safetensors"
    foreign = {"embeddings.position_ids": torch.arange(40), "foreign.weight": torch.ones(3, 3), "none": torch.ones(0)}
    save_file(load_file(file) | foreign, file, {"format": "pt", "of": "someone"})
    (old / "tokenizer").mkdir()
    (old / "tokenizer" / "words.txt").write_text("a")
    (old / "pytorch_model.bin").write_bytes(b"never read")
    made = perturb_checkpoint(old, new)
    assert made.left_out == ("pytorch_model.bin",)
    assert (new / "tokenizer" / "words.txt").read_text() == "a"
    assert (new / "config.json").read_bytes() == (old / "config.json").read_bytes()
    assert json.loads((new / RECORD).read_text())["noisytune"]["seed"] == 42
    before, after = file.read_bytes(), (new / file.name).read_bytes()
    header = 8 + int.from_bytes(before[:8], "little")
    assert before[:header] == after[:header]
    assert len(before) == len(after)
    weights = load_file(new / file.name)
    assert all(torch.equal(weights[name], content) for name, content in foreign.items())
    save_file(foreign | {"pooler.dense.bias": torch.ones(3)}, file)
    with pytest.raises(
        CheckpointError, match=r"pooler\.dense\.bias has the shape \[3\], and config.json makes it \[16\]"
    ):
        perturb_checkpoint(old, tmp_path / "other")
    save_file(foreign, file)
    with pytest.raises(CheckpointError, match="no tensor of its files is a parameter of BertModel"):
        perturb_checkpoint(old, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_intensity_0_leaves_every_bit(tmp_path: Path) -> None:
    encoder().save_pretrained(tmp_path / "old")
    perturb_checkpoint(tmp_path / "old", tmp_path / "new", intensity=0)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("old", "new")]
    assert contents[0] == contents[1]


# --- faults ------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path) -> Path:
    encoder().save_pretrained(tmp_path / "old", max_shard_size="20KB")
    return tmp_path / "old"


def truncated(old: Path) -> None:
    file = max(old.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])


def no_shard(old: Path) -> None:
    max(old.glob("*.safetensors")).unlink()


def bad_index(old: Path) -> None:
    (old / checkpoint_files.INDEX).write_text("[1]")


def pickled(old: Path) -> None:
    (old / checkpoint_files.INDEX).unlink()
    (old / "pytorch_model.bin").write_bytes(b"")


def no_model(old: Path) -> None:
    (old / "config.json").write_text('{"model_type": "bart-like"}')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncated, "is damaged or not whole"),
        (no_shard, "which is not there"),
        (bad_index, "is no index of weights"),
        (pickled, "pytorch_model.bin is a pickle, which is never read.*save_pretrained"),
        (no_model, "is no model that Transformers can build"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_nothing_is_left(old: Path, tmp_path: Path, damage, told) -> None:
    damage(old)
    with pytest.raises((CheckpointError, ModelNotFoundError), match=told):
        perturb_checkpoint(old, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_what_the_new_folder_may_be(old: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years")
    for place, told in (
        (old, "outside"),
        (old / "new", "outside"),
        (tmp_path, "outside"),
        (tmp_path / "thesis", "no saved model"),
    ):
        with pytest.raises(SettingsError, match=told):
            perturb_checkpoint(old, place, overwrite=True)
    with pytest.raises(SettingsError, match="is a file"):
        perturb_checkpoint(old, tmp_path / "thesis" / "chapter.txt")
    perturb_checkpoint(old, tmp_path / "new", seed=1)
    first = load_file(min((tmp_path / "new").glob("*.safetensors")))
    with pytest.raises(SettingsError, match="exists; give another folder, or --overwrite"):
        perturb_checkpoint(old, tmp_path / "new", seed=2)
    perturb_checkpoint(old, tmp_path / "new", seed=2, overwrite=True)
    second = load_file(min((tmp_path / "new").glob("*.safetensors")))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_writing_leaves_what_was_there(old: Path, tmp_path: Path, monkeypatch, error) -> None:
    perturb_checkpoint(old, tmp_path / "new")
    before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(StoredTensor, "write", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else SettingsError
    with pytest.raises(expected, match=None if expected is KeyboardInterrupt else r"No space left on device.*nothing"):
        perturb_checkpoint(old, tmp_path / "new", seed=5, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_what_a_killed_process_left_is_cleared(old: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = this_process().rpartition("-")[0]
    for name in (f".new.{host}-{dead.pid}.unfinished", f".new.{host}-1.unfinished"):  # process 1 is alive
        (tmp_path / name).mkdir()
    (tmp_path / f".new.old.{host}-{dead.pid}.unfinished").mkdir()  # killed while it replaced this one
    (tmp_path / f".new.old.{host}-{dead.pid}.unfinished" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="exists"):
        perturb_checkpoint(old, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".new.{host}-1.unfinished", "new", "old"]
    assert (tmp_path / "new" / "config.json").read_text() == "{}"


def test_a_full_disk_is_told_before_anything_is_written(old: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(SettingsError, match=r"needs 0\.00 GB, and 0\.00 GB are free there"):
        perturb_checkpoint(old, tmp_path / "new")
    with pytest.raises(MethodError, match="every parameter stays"):
        perturb_checkpoint(old, tmp_path / "new", skip="*")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


# --- the verb, and memory ----------------------------------------------------------------------------


def test_the_verb(old: Path, tmp_path: Path, capsys) -> None:
    arguments = ["perturb", str(old), str(tmp_path / "new"), "--intensity", "0.1", "--seed", "3", "--skip", "*.bias"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "noisytune moves" in told.out
    assert "(skipped by name)" in told.out
    assert told.err == ""
    expected: PerturbedCheckpoint = steadytune.perturb_checkpoint(old, tmp_path / "again", 0.1, seed=3, skip="*.bias")
    weights = [sorted(folder.glob("*.safetensors")) for folder in (tmp_path / "new", expected.folder)]
    assert [file.read_bytes() for file in weights[0]] == [file.read_bytes() for file in weights[1]]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"steadytune: {tmp_path / 'new'}: exists")
    assert main([*arguments, "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


MEASURED = """
import sys
from steadytune.models.checkpoint.perturb import perturb_checkpoint
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
perturb_checkpoint(sys.argv[1], sys.argv[2])
before = peak()
made = perturb_checkpoint(sys.argv[3], sys.argv[4])
print(before, peak(), max(t.size for t in made.report.tensors if not t.reason) * 4 / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
@pytest.mark.long
def test_memory_does_not_grow_with_the_model(old: Path, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=60_000, hidden_size=512, num_hidden_layers=12, intermediate_size=2048, num_attention_heads=8
    )
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in BertModel(config).named_parameters()}
    (tmp_path / "large").mkdir()
    config.save_pretrained(tmp_path / "large")
    header, start = {}, 0
    for name, shape in shapes.items():
        stop = start + torch.Size(shape).numel() * 4
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).numpy().tobytes()
    with (tmp_path / "large" / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for written in range(0, start, len(noise)):
            file.write(noise[: start - written])
    assert start > 250 * 2**20
    folders = [str(tmp_path / name) for name in ("old", "small", "large", "noisy")]
    done = subprocess.run([sys.executable, "-c", MEASURED, *folders], capture_output=True, text=True, check=True)
    before, after, largest = map(float, done.stdout.split())
    assert largest > 100
    assert after - before < largest  # not even one copy of the largest tensor


def test_training_of_the_copy_is_training_of_the_original_with_noise(tmp_path: Path, tiny_folder, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model.write_csv(tmp_path / "train.csv", tiny_model.rows(24))
    perturb_checkpoint(tiny_folder, tmp_path / "noisy", head="classification")
    given = {"train_file": "train.csv", "max_steps": 2, "max_length": 16, "use_cpu": True}
    for model, methods in (
        (str(tiny_folder), "noisytune"),
        (str(tmp_path / "noisy"), "none"),
        (str(tiny_folder), "none"),
    ):
        train(TrainSettings(model=model, methods=[methods], output_dir=f"{Path(model).name}-{methods}", **given))
    noisy, copy, plain = (
        load_file(tmp_path / name / "model" / "model.safetensors")
        for name in (f"{tiny_folder.name}-noisytune", "noisy-none", f"{tiny_folder.name}-none")
    )
    assert all(torch.equal(noisy[name], copy[name]) for name in noisy)
    assert any(not torch.equal(noisy[name], plain[name]) for name in noisy)
