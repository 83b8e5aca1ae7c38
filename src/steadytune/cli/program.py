"""The verbs: their arguments, an example of each, and the function that does the work, imported when it is called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steadytune.cli import suggestions
from steadytune.cli.verb import (
    BEFORE,
    LOOKING,
    NOISE,
    OUTPUT,
    RESULTS,
    TRAINING,
    VERBS,
    DataDir,
    Quiet,
    SetOption,
    Verb,
    _verb,
)
from steadytune.version import __version__

if TYPE_CHECKING:
    from steadytune.cli.options import TrainOptions

INIT_FOR = ("compare", "train")
#: Stands for all verbs, where any of them may be asked for.
ALL = "*"


def named_in(arguments: list[str]) -> str:
    """The verb among the arguments whose options are many, so that only they are made; empty without one."""
    return next((verb.name for verb in VERBS if verb.settings and verb.name in arguments), "")


@functools.cache
def program(asked: str = ALL) -> typer.Typer:
    """The command line.

    Args:
        asked: of the verbs that have an option per setting, the one that is called; the others are listed without
            options, because making them takes longer than showing the help.
    """
    app = typer.Typer(
        name="steadytune",
        help="Fine-tuning of pretrained transformers that holds steady on little data: "
        "NoisyTune and SMART, as published.",
        epilog="First: steadytune compare --task movie-reviews --train-size 64. Your own rows: steadytune init FILE",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda name: name.replace("_", "-"),  # as the names of TrainingArguments are typed
        },
    )
    app.callback()(_program)
    for verb in VERBS:
        run = verb.run
        if verb.settings:
            run = _with_options(verb) if asked in (ALL, verb.name) else _listed(verb)
        app.command(verb.name, epilog=f"Example: {verb.example}", rich_help_panel=verb.panel)(run)
    return app


def _with_options(verb: Verb) -> Callable[..., None]:
    from steadytune.cli.options import with_settings

    return with_settings(verb.run, verb.settings)


def _listed(verb: Verb) -> Callable[..., None]:
    def stub() -> None:
        raise AssertionError(f"{verb.name} was not asked for")

    stub.__doc__ = verb.run.__doc__
    return stub


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"steadytune {__version__}")
        raise typer.Exit


def _program(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a verb.")
    ] = False,
) -> None:
    pass


@_verb(BEFORE, "steadytune init reviews.csv")
def init(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Your rows: .csv, .tsv, .jsonl, .parquet, or tags and questions."),
    ] = None,
    *,
    task: Annotated[
        str | None, typer.Option(help="A named task instead of a file.", autocompletion=suggestions.tasks)
    ] = None,
    validation_file: Annotated[Path | None, typer.Option(help="Rows to choose by.")] = None,
    test_file: Annotated[Path | None, typer.Option(help="Rows to judge by.")] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the text.")] = None,
    text_pair_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the second text.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the label.")] = None,
    head: Annotated[
        str | None, typer.Option(help="Else told from the file.", autocompletion=suggestions.heads)
    ] = None,
    model: Annotated[str, typer.Option(help="Whose tokenizer measures the lengths.")] = "minilm",
    data_dir: DataDir = None,
    verb: Annotated[
        str,
        typer.Option(help="What it is for: 'compare' or 'train'.", autocompletion=suggestions.one_of(INIT_FOR)),
    ] = "compare",
    output: Annotated[Path, typer.Option("--output", "-o", help="The configuration.", rich_help_panel=OUTPUT)] = Path(
        "steadytune.yaml"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace it.", rich_help_panel=OUTPUT)] = False,
    quiet: Quiet = False,
) -> None:
    """Look at your rows and write a commented configuration for `train` and `compare`."""
    from steadytune.cli.verbs.init import write_configuration

    rows = {
        "task": task,
        "train_file": file,
        "validation_file": validation_file,
        "test_file": test_file,
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "head": head,
        "model": model,
        "data_dir": data_dir,
    }
    given = {name: str(value) for name, value in rows.items() if value is not None}
    write_configuration(given, output, verb, overwrite=overwrite, quiet=quiet)


@_verb(TRAINING, "steadytune train --model minilm --task movie-reviews --train-size 500 --methods smart", "train")
def train(values: TrainOptions) -> None:
    """Fine-tune a model of any head (classes, numbers, tags, answers, text) on a named task or on your own rows."""
    from steadytune.cli.verbs.train import run_training

    run_training(values)


@_verb(TRAINING, "steadytune compare --task movie-reviews --train-size 500 --methods none,smart --seeds 6", "compare")
def compare(values: TrainOptions) -> None:
    """Compare methods with tuned plain training over seeds: what holds, what it costs, and a report."""
    from steadytune.cli.verbs.compare import run_comparison

    run_comparison(values)


@_verb(TRAINING, "steadytune multitask --tasks rte,mrpc,sst2 --methods smart --fine-tune", "multitask")
def multitask(values: TrainOptions) -> None:
    """Train one encoder on several tasks, a head for each (MT-DNN), then, if asked for, fine-tune for each task."""
    from steadytune.cli.verbs.multitask import run_multi_task

    run_multi_task(values)


@_verb(TRAINING, "steadytune hybrid --model bert-base-uncased --methods smart", "hybrid")
def hybrid(values: TrainOptions) -> None:
    """Train the hybrid network on WNLI: which noun does the pronoun stand for? (masked language models only)."""
    from steadytune.cli.verbs.hybrid import run_hybrid

    run_hybrid(values)


@_verb(RESULTS, "steadytune report runs/first")
def report(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Output folder of a comparison.")],
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write (else into RUNS).", rich_help_panel=OUTPUT)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a comparison's report: one HTML page, Markdown, CSV, JSON and a model card."""
    from steadytune.cli.verbs.report import write_report

    write_report(runs, output_dir, quiet=quiet)


@_verb(RESULTS, "steadytune evaluate runs/first --only perturbations,calibration")
def evaluate(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a finished run; with --only retrieval also a model.")
    ],
    *,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help="Of sets, annotators, calibration, movement, perturbations, embedding_attack, smoothness, retrieval.",
            autocompletion=suggestions.parts,
        ),
    ] = None,
    data_dir: DataDir = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Seeds of the noise on texts. Default 3.")] = None,
    rates: Annotated[
        str | None, typer.Option(metavar="X,X", help="Rates of the noise on texts. Default 0.05,0.1,0.2.")
    ] = None,
    radii: Annotated[
        str | None,
        typer.Option(metavar="X,X", help="Radii of the attack on embeddings. Default 0.0003,0.001,0.003,0.01."),
    ] = None,
    max_eval_samples: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of each set (else as in the run).")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(metavar="N", help="For retrieval: layer of the sentence vectors (else 2 above half the layers)."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="File of the results (else RUN/evaluation.json).", rich_help_panel=OUTPUT)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the file instead of tables.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure a trained model: robustness, calibration, smoothness, agreement with people, distance moved."""
    from steadytune.cli.verbs.evaluate import run_evaluation

    given = {
        "only": only,
        "data_dir": data_dir,
        "seeds": seeds,
        "rates": rates,
        "radii": radii,
        "max_eval_samples": max_eval_samples,
        "layer": layer,
        "trust_remote_code": trust_remote_code,
    }
    run_evaluation(run, given, output, as_json=as_json, quiet=quiet)


@_verb(BEFORE, "steadytune perturb minilm runs/noisy-minilm --intensity 0.15")
def perturb(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder, a run, 'minilm' or a Hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The new folder.")],
    *,
    intensity: Annotated[float, typer.Option(metavar="X", help="Lambda, 0 to 1.", rich_help_panel=NOISE)] = 0.15,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the noise.", rich_help_panel=NOISE)] = 42,
    noise: Annotated[str, typer.Option(help="'uniform' or 'gaussian'.", rich_help_panel=NOISE)] = "uniform",
    scope: Annotated[
        str, typer.Option(help="Relative to the std of each 'matrix', or 'global'.", rich_help_panel=NOISE)
    ] = "matrix",
    word_embeddings: Annotated[
        str,
        typer.Option(help="'auto' keeps those of multilingual models; 'perturb', 'keep'.", rich_help_panel=NOISE),
    ] = "auto",
    perturb_head: Annotated[
        bool, typer.Option("--perturb-head", help="Also the task's head.", rich_help_panel=NOISE)
    ] = False,
    skip: Annotated[
        str | None,
        typer.Option(metavar="PATTERNS", help="Tensors to leave alone: *.bias,*LayerNorm*", rich_help_panel=NOISE),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="The head that it will be trained with: then `train` on DST is `train --methods noisytune` on SRC. "
            "Else tensors are named as the checkpoint's own class names them.",
            autocompletion=suggestions.heads,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a saved model at DST.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint with NoisyTune's noise, from disk to disk, in little memory."""
    from steadytune.cli.verbs.perturb import run_perturbation

    given = {
        "intensity": intensity,
        "seed": seed,
        "noise": noise,
        "scope": scope,
        "word_embeddings": word_embeddings,
        "skip": tuple(part.strip() for part in (skip or "").split(",") if part.strip()),
        "perturb_head": perturb_head,
        "head": head,
        "overwrite": overwrite,
    }
    run_perturbation(source, destination, given, quiet=quiet)


@_verb(LOOKING, "steadytune methods freelb")
def methods(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Show these with settings.", autocompletion=suggestions.single_methods
        ),
    ] = None,
) -> None:
    """List the methods with role, paper and cost; with names, their settings and ranges."""
    from steadytune.cli.verbs.describe import show_methods

    show_methods(names or [])


@_verb(LOOKING, "steadytune explain noisytune,smart --model minilm --set smart.weight=3")
def explain(
    names: Annotated[
        str,
        typer.Argument(
            metavar="METHODS", help="Methods by name, separated by commas.", autocompletion=suggestions.methods
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Also say how far each weight of this model would move.")] = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the noise.")] = 42,
    tensors: Annotated[bool, typer.Option("--tensors", help="With --model: one line for every tensor.")] = False,
    *,
    memory: Annotated[str, typer.Option(metavar="full|low", help="'low': with one graph at a time.")] = "full",
) -> None:
    """Say what methods do to a step: passes, memory, what they touch, what conflicts."""
    from steadytune.cli.verbs.describe import show_explanation

    show_explanation(names, model, set_ or [], seed, tensors=tensors, memory=memory)


@_verb(LOOKING, "steadytune tasks xnli --data-dir data")
def tasks(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Show these records whole.", autocompletion=suggestions.tasks),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """List the named tasks, or show some."""
    from steadytune.cli.verbs.describe import show_tasks

    show_tasks(names or [], data_dir)


@_verb(LOOKING, "steadytune doctor")
def doctor() -> None:
    """Check this machine: versions, devices, the embedded demo, the Hub."""
    from steadytune.cli.verbs.doctor import show_doctor

    show_doctor()
