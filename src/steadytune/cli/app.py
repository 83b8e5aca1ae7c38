"""The verbs, and how every mistake becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from steadytune import __version__
from steadytune.cli import options
from steadytune.cli.stopped import Stopped
from steadytune.core.errors import SteadytuneError

BAD_INPUT, INTERNAL_ERROR, INTERRUPTED = 2, 1, 130
#: Of an error, in characters; a path or a value in it can be a megabyte.
LONGEST_LINE = 1500

app = typer.Typer(
    name="steadytune",
    help="Fine-tuning of pretrained transformers that holds steady on little data: NoisyTune and SMART, as published.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOISE = "Noise"

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="METHOD.SETTING=VALUE", help="A method's setting; repeatable.")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"steadytune {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a verb.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Example: steadytune train --model minilm --task movie-reviews --train-size 500 --methods noisytune,smart"
)
@options.with_train_options
def train(values: options.TrainOptions) -> None:
    """Fine-tune a model of any head (classes, numbers, tags, answers, text) on a named task or on your own rows."""
    from steadytune.cli.train import run_training

    run_training(values)


@app.command(epilog="Example: steadytune multitask --tasks rte,mrpc,sst2 --methods smart --fine-tune")
@options.with_multi_task_options
def multitask(values: options.TrainOptions) -> None:
    """Train one encoder on several tasks, a head for each (MT-DNN), then, if asked for, fine-tune for each task."""
    from steadytune.cli.multitask import run_multi_task

    run_multi_task(values)


@app.command(epilog="Example: steadytune hybrid --model bert-base-uncased --methods smart")
@options.with_hybrid_options
def hybrid(values: options.TrainOptions) -> None:
    """Train the hybrid network on WNLI: which noun does the pronoun stand for? (masked language models only)."""
    from steadytune.cli.hybrid import run_hybrid

    run_hybrid(values)


@app.command(epilog="Example: steadytune report runs/first")
def report(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Output folder of a comparison.")],
    output_dir: Annotated[Path | None, typer.Option(help="Where to write (else into RUNS).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Write a comparison's report: one HTML page, Markdown, CSV, JSON and a model card."""
    from steadytune.cli.report import write_report

    write_report(runs, output_dir, quiet=quiet)


@app.command(
    epilog="Example: steadytune compare --task movie-reviews --train-size 500 --methods none,noisytune,smart --seeds 6"
)
@options.with_compare_options
def compare(values: options.TrainOptions) -> None:
    """Compare methods with tuned plain training over seeds: what holds, what it costs, and a report."""
    from steadytune.cli.compare import run_comparison

    run_comparison(values)


@app.command(epilog="Example: steadytune evaluate runs/first --only perturbations,calibration")
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
        ),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder with the data sets of named tasks.")] = None,
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
    output: Annotated[Path | None, typer.Option(help="File of the results (else RUN/evaluation.json).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Measure a trained model: robustness, calibration, smoothness, agreement with people, distance moved."""
    from steadytune.cli.evaluate import run_evaluation

    given = {
        "only": only,
        "data_dir": data_dir,
        "seeds": seeds,
        "rates": rates,
        "radii": radii,
        "max_eval_samples": max_eval_samples,
        "layer": layer,
    }
    run_evaluation(run, given, output, as_json=as_json, quiet=quiet)


@app.command(epilog="Example: steadytune perturb minilm runs/noisy-minilm --intensity 0.15 --head classification")
def perturb(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder, a run, 'minilm' or a Hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The new folder.")],
    *,
    intensity: Annotated[float, typer.Option(metavar="X", help="Lambda, 0 to 1.", rich_help_panel=NOISE)] = 0.15,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the noise.", rich_help_panel=NOISE)] = 42,
    noise: Annotated[str, typer.Option(help="'uniform' or 'gaussian'.", rich_help_panel=NOISE)] = "uniform",
    scope: Annotated[
        str,
        typer.Option(help="Relative to the std of each 'matrix', or 'global'.", rich_help_panel=NOISE),
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
            help="The head that it will be trained with: then `train` on it is `train --methods noisytune` on SRC. "
            "Else tensors are named as the checkpoint's own class names them.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a saved model at DST.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Write a checkpoint with NoisyTune's noise, from disk to disk, in little memory."""
    from steadytune.cli.perturb import run_perturbation

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


@app.command(epilog="Example: steadytune methods freelb")
def methods(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with settings.")] = None,
) -> None:
    """List the methods with role, paper and cost; with names, their settings and ranges."""
    from steadytune.cli.describe import show_methods

    show_methods(names or [])


@app.command(epilog="Example: steadytune explain noisytune,smart --model minilm --set smart.weight=3")
def explain(
    names: Annotated[str, typer.Argument(metavar="METHODS", help="Methods by name, separated by commas.")],
    model: Annotated[str | None, typer.Option(help="Also say how far each weight of this model would move.")] = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 42,
    tensors: Annotated[bool, typer.Option("--tensors", help="With --model: one line for every tensor.")] = False,
) -> None:
    """Say what methods do to a step: passes, memory, what they touch, what conflicts."""
    from steadytune.cli.describe import show_explanation

    show_explanation(names, model, set_ or [], seed, tensors=tensors)


@app.command(epilog="Example: steadytune tasks xnli --data-dir data")
def tasks(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these records whole.")] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder with the data sets of named tasks.")] = None,
) -> None:
    """List the named tasks, or show some."""
    from steadytune.cli.describe import show_tasks

    show_tasks(names or [], data_dir)


@app.command(epilog="Example: steadytune doctor")
def doctor() -> None:
    """Check this machine: versions, devices, the embedded demo, the Hub."""
    from steadytune.cli.doctor import show_doctor

    show_doctor()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0 done, 1 a fault of ours, 2 bad input (one line on standard error says what to do), 130 stopped by the user.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("STEADYTUNE_DEBUG"))
    arguments = [a for a in arguments if a != "--debug"]
    # Nothing here may talk to the network or to telemetry behind the user's back while it works offline.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        status = app(arguments, standalone_mode=False) or 0
        return _fail("stopped.", status) if status == INTERRUPTED else status  # typer's answer to Ctrl-C
    except (Exception, KeyboardInterrupt) as error:  # the last line of defence: no traceback unless asked for
        if debug:
            traceback.print_exc()
        message, status = _describe(error)
        return _fail(message, status)


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, SteadytuneError):
        return str(error), BAD_INPUT
    if isinstance(error, Stopped | KeyboardInterrupt):
        return str(error) or "stopped.", INTERRUPTED
    if options.is_usage_error(error):
        return options.usage_message(error), BAD_INPUT
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or 'input or output'}.", BAD_INPUT
    if _is_failed_write(error):
        return f"a file could not be written ({error}): is the disk full? The same command continues.", BAD_INPUT
    return f"internal error, {type(error).__name__}: {error} (--debug shows where).", INTERNAL_ERROR


def _is_failed_write(error: BaseException) -> bool:
    """Whether saving weights failed, which safetensors and torch do not tell by an OSError."""
    signs = {"SafetensorError": ("I/O error",), "RuntimeError": ("PytorchStreamWriter", "iostream error")}
    return any(sign in str(error) for sign in signs.get(type(error).__name__, ()))


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    # Control characters out of data or file names must not reach the terminal.
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} [...] {line[-LONGEST_LINE // 2 :]}"
    print(f"steadytune: {line}", file=sys.stderr)
    return status
