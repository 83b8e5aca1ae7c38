"""How the command line reads: what help costs and teaches, suggestions, completion, and output without a terminal."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from steadytune.cli import main, suggestions
from steadytune.cli.app import app
from steadytune.cli.options import FIRST
from steadytune.cli.program import named_in, program
from steadytune.cli.verb import FOLDER, PANELS, verbs
from steadytune.errors import SettingsError
from steadytune.evaluation.parts import PARTS
from steadytune.heads.registry import FILE_HEADS
from steadytune.methods.registry import REGISTRY
from steadytune.settings.fields import all_facts, known_names
from steadytune.settings.of_verbs import KINDS, kind_of
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_names

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]

IMPORTED = """
import json, sys
import steadytune
named = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted(named & {"typer", "rich", "pydantic", "yaml", "torch", "numpy", "importlib_metadata"})))
from steadytune.cli import main
main(["--help"])
print()
print(json.dumps(sorted(name for name in sys.modules if name.startswith("steadytune."))))
named = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted(named & {"pydantic", "yaml", "numpy", "torch", "scipy"})))
"""


def test_the_package_and_its_help_import_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert json.loads(lines[0]) == []  # the names of the package are imported when they are used
    assert json.loads(lines[-1]) == []  # nor do the settings of the verbs exist before one of them is called
    ours = {name.removeprefix("steadytune.") for name in json.loads(lines[-2])}
    own = ("app", "verb", "program", "mistakes", "stopped", "streams", "help")
    allowed = {"cli", *(f"cli.{name}" for name in own)}
    allowed |= {"errors", "names", "version"}
    allowed |= {"models", "models.pooled", "models.pooled.auto_classes"}  # waits for Transformers to be imported
    assert ours <= allowed


# --- help --------------------------------------------------------------------------------------------


def test_every_verb_has_a_group_and_an_example_that_its_options_take() -> None:
    assert [verb.name for verb in verbs()] == list(COMMANDS)
    assert {verb.name for verb in verbs()} == {file.stem for file in FOLDER.glob("[a-z]*.py")}
    for verb in verbs():
        assert verb.panel in PANELS
        program_name, name, *arguments = shlex.split(verb.example)
        assert (program_name, name) == ("steadytune", verb.name)
        COMMANDS[name].make_context(name, list(arguments))  # raises where an option is unknown


def test_options_are_in_groups() -> None:
    panels = {p.rich_help_panel for p in COMMANDS["compare"].params if p.name != "help" and p.rich_help_panel}
    assert panels == {
        *("Model", "Data", "Methods", "Training (names of TrainingArguments)", "Output", "Comparison"),
        *("How it is run", FIRST),
    }
    by_name = {p.name: p for p in COMMANDS["train"].params}
    assert by_name["save_steps"].rich_help_panel == by_name["quiet"].rich_help_panel == "Output"
    assert "constant_with_warmup" in by_name["lr_scheduler_type"].help


@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("train", "train_file task model methods set seed learning_rate num_train_epochs train_size"),
        ("compare", "train_file tasks model methods set seeds learning_rates num_train_epochs train_sizes"),
    ],
)
def test_help_begins_with_what_matters_most(verb: str, first: str) -> None:
    shown = [p.name for p in COMMANDS[verb].params if p.rich_help_panel == FIRST]
    assert shown[:9] == first.split()


def test_options_of_a_run_that_a_comparison_has_twice_say_so() -> None:
    helps = {p.name: p.help for p in COMMANDS["compare"].params if p.name != "help"}
    assert helps["seed"].endswith("The same as --first-seed.")
    for name in ("learning_rate", "task", "train_size"):
        assert helps[name].endswith(f"The same as --{name.replace('_', '-')}s with one value.")
        assert "Default" not in helps[name]
    assert "The same as" not in {p.name: p.help for p in COMMANDS["train"].params}["seed"]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("verb", ["", *COMMANDS])
def test_help_fits_its_width_and_is_whole(verb: str, width: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", str(width))
    assert main([verb, "--help"] if verb else ["--help"]) == 0
    text = capsys.readouterr().out
    assert width == 40 or max(map(len, text.splitlines())) <= width
    assert not re.search("\x1b|…|<[a-z]+>|\\[\\[|[{}]|VALUE,V", text)
    words = " ".join(text.split())
    for parameter in COMMANDS[verb].params if verb else ():
        assert parameter.name == "help" or " ".join((parameter.help or "").split()) in words, parameter.name
        assert parameter.param_type_name == "argument" or parameter.opts[0] in words
    assert f"Example: steadytune {verb}" in words or not verb


def test_a_file_is_given_by_its_place_or_its_option(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("train", "compare"):
        assert main([verb, "rows.csv", "--output-dir", "run"]) == 2
        assert "'rows.csv': there is no such file" in capsys.readouterr().err
        assert main([verb, "rows.csv", "--train-file", "other.csv"]) == 2
        assert "'rows.csv' and --train-file 'other.csv': give one of them." in capsys.readouterr().err


#: What people type who come from other tools, and what it is called here.
FROM_OTHER_TOOLS = {
    **dict.fromkeys(("lr", "peak_lr", "max-lr"), "learning_rate"),
    **dict.fromkeys(("epochs", "num-epochs", "max_epochs"), "num_train_epochs"),
    **dict.fromkeys(("batch-size", "train_batch_size", "bs"), "per_device_train_batch_size"),
    **dict.fromkeys(("eval-batch-size",), "per_device_eval_batch_size"),
    **dict.fromkeys(("max-len", "max_seq_length", "max-seq-len"), "max_length"),
    **dict.fromkeys(("model-name", "model_name_or_path", "checkpoint"), "model"),
    **dict.fromkeys(("grad-accum", "accumulate_grad_batches"), "gradient_accumulation_steps"),
    **dict.fromkeys(("warmup-ratio", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("scheduler", "lr-scheduler"), "lr_scheduler_type"),
    **dict.fromkeys(("gradient-clip-val", "grad_clip"), "max_grad_norm"),
    **dict.fromkeys(("wd",), "weight_decay"),
    **dict.fromkeys(("out-dir", "save_dir"), "output_dir"),
    **dict.fromkeys(("random-seed",), "seed"),
    **dict.fromkeys(("max-train-samples",), "train_size"),
    **dict.fromkeys(("dev-file", "eval_file"), "validation_file"),
    **dict.fromkeys(("label-smoothing",), "label_smoothing_factor"),
    **dict.fromkeys(("log-every", "log_interval"), "logging_steps"),
    **dict.fromkeys(("no-cuda",), "use_cpu"),
}


@pytest.mark.parametrize("name", FROM_OTHER_TOOLS)
def test_names_of_other_tools_are_answered_with_ours(name: str, tmp_path: Path, capsys) -> None:
    ours = FROM_OTHER_TOOLS[name]
    assert main(["train", "rows.csv", f"--{name}", "3"]) == 2
    assert f"Did you mean '--{ours.replace('_', '-')}'?" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text(f"{name}: 3\n")
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    assert f"Did you mean {ours!r}?" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=f"Did you mean '{ours}'"):
        TrainSettings(**{name.replace("-", "_"): 3})


def test_a_name_of_another_tool_is_none_of_ours() -> None:
    for kind in map(kind_of, KINDS):
        facts = all_facts(kind)
        others = [name for known in facts.values() for name in known.elsewhere]
        assert len(set(others)) == len(others)
        assert not set(others) & set(known_names(kind))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "No command given. (`steadytune --help` lists them)"),
        (["-q"], "No such option: -q."),
        (["evaluate"], "Missing argument 'RUN'."),
        (["train", "--seed"], "Option '--seed' requires an argument."),
        (["fit"], "No such command 'fit'."),
    ],
)
def test_a_line_that_says_nothing_is_answered_in_one(arguments: list[str], told: str, capsys) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"steadytune: {told}")
    assert error.count("\n") == 1


def test_only_the_verb_that_is_called_has_its_options_made() -> None:
    assert named_in(["--debug", "train", "--seed", "1"]) == "train"
    assert named_in(["report", "runs"]) == "report"
    assert named_in(["--help"]) == ""
    listed: Any = typer.main.get_command(program("train"))
    assert len(listed.commands["train"].params) > 30
    assert [p.name for p in listed.commands["compare"].params] == []
    assert listed.commands["compare"].help == COMMANDS["compare"].help


# --- suggestions -------------------------------------------------------------------------------------

ROWS = ("train", "--train-file", "train.csv")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["comapre"], "Did you mean 'compare'?"),
        (["train", "--lerning-rate", "1"], "Did you mean '--learning-rate'?"),
        (
            [*ROWS, "--methods", "smrat"],
            "There is no method 'smrat'. Did you mean 'smart'? `steadytune methods` lists",
        ),
        ([*ROWS, "--methods", "smart", "--set", "smart.wieght=3"], "Did you mean 'weight'?"),
        (["train", "--task", "movie-review"], "Did you mean 'movie-reviews'?"),
        ([*ROWS, "--head", "clasification"], "--head: must be one of 'causal_lm', "),
        ([*ROWS, "--head", "clasification"], "got 'clasification'. Did you mean 'classification'?"),
        (
            ["compare", *ROWS[1:], "--engine", "locl"],
            "--engine: must be one of 'local', 'ray'; got 'locl'. Did you mean",
        ),
        ([*ROWS, "--text-column", "txt"], "Did you mean 'text'? Name the column with --text-column."),
        (["evaluate", ".", "--only", "calibation"], "Did you mean 'calibration'?"),
        ([*ROWS, "--train-size", "0%"], "--train-size '0%' is zero"),
        ([*ROWS, "--group-by-length", "maybe"], "--group-by-length: must be true or false; got 'maybe'."),
        ([*ROWS, "--config", "c.yaml"], "there is no setting 'sede'. Did you mean 'seed'?"),
        (
            [*ROWS, "--config", "compare.yaml"],
            "'seeds' is a setting of `steadytune compare`: `steadytune compare --config compare.yaml` takes it; for "
            "one run: `steadytune init FILE --verb train --output train.yaml`.",
        ),
        (
            ["compare", "--config", "multi.yaml"],
            "'fine_tune' is a setting of `steadytune multitask`: `steadytune multitask --config multi.yaml` takes it.",
        ),
        ([*ROWS, "--seeds", "6"], "No such option: --seeds. It is one of `steadytune compare`."),
    ],
)
def test_a_near_name_is_suggested(tmp_path: Path, monkeypatch, capsys, arguments, told) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\n" + "a,x\nb,y\n" * 10)
    (tmp_path / "c.yaml").write_text("sede: 3\n")
    (tmp_path / "compare.yaml").write_text("methods: [none]\nseeds: 6\nlearning_rates: [1e-4]\n")
    (tmp_path / "multi.yaml").write_text("tasks: [rte]\nfine_tune: true\nfine_tune_methods: [smart]\n")
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_options_may_be_written_as_training_arguments_are(capsys) -> None:
    assert main(["train", "--learning_rate", "-1"]) == 2
    assert "--learning-rate: must be above 0; got -1." in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["perturb", "minilm", "~nobodyhere/x"], ["init", "~nobodyhere/x.csv"]])
def test_the_home_of_nobody_is_told(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == "steadytune: a path begins with ~ and the name of nobody here; write it out.\n"


# --- completion --------------------------------------------------------------------------------------


def completed(line: str, capsys, monkeypatch) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    for name, value in (("COMP_WORDS", line), ("COMP_CWORD", str(len(words) - 1))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("_STEADYTUNE_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit):
        main([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("steadytune comp", ["compare"]),
        ("steadytune train --gradient-c", ["--gradient-checkpointing"]),
        ("steadytune compare --first", ["--first-seed"]),
        ("steadytune train --methods noisytune,smoo", ["noisytune,smoothness"]),
        ("steadytune compare --methods none,noisytune+smoo", ["none,noisytune+smoothness"]),
        ("steadytune train --set r_dr", ["r_drop."]),
        ("steadytune methods mean", ["mean_teacher"]),
        ("steadytune explain fr", ["freeat", "freelb", "freeze"]),
        ("steadytune train --task movie", ["movie-reviews"]),
        ("steadytune multitask --tasks rte,movie", ["rte,movie-reviews"]),
        ("steadytune train --lr-scheduler-type cons", ["constant", "constant_with_warmup"]),
        ("steadytune train --head tok", ["token_classification"]),
        ("steadytune evaluate run --only sets,cal", ["sets,calibration"]),
        ("steadytune init --verb tr", ["train"]),
        ("steadytune train --train-file tr", []),  # left to the shell, which knows the files
    ],
)
def test_shells_complete(line: str, offered: list[str], capsys, monkeypatch) -> None:
    assert completed(line, capsys, monkeypatch) == offered


def test_what_is_completed_is_what_there_is() -> None:
    assert suggestions.method_names()[: len(REGISTRY)] == list(REGISTRY)
    assert suggestions.tasks("") == list(task_names())
    assert suggestions.heads("") == list(FILE_HEADS)
    assert set(suggestions.PARTS) == set(PARTS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("_STEADYTUNE_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit):
        main([])
    script = capsys.readouterr().out
    assert "_STEADYTUNE_COMPLETE=complete_" in script.replace(f"{shell}_complete", f"complete_{shell}")
    assert re.search(r"\bsteadytune\b", script)
