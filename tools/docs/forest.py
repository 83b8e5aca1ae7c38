"""The forest plot of the README: the gain of every method in every kept comparison, as one SVG without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from evidence import MAIN_QUESTIONS, RESULTS, kept_cells

from steadytune.comparison.statistics.cells import compare_cell

ROW, TOP, NAMES, PLOT, FIGURES = 22, 64, 312, 330, 190
WIDTH = NAMES + PLOT + FIGURES
#: Gains on the axis, in units of the score.
SHOWN = 0.12
ALPHA = 0.05
STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;fill:#24292f}
.muted{fill:#57606a}.zero{stroke:#8c959f}.grid{stroke:#d8dee4}.unsure{stroke:#57606a;fill:#57606a}
.gain{stroke:#1a7f37;fill:#1a7f37}.loss{stroke:#b35900;fill:#b35900}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.muted{fill:#9198a1}.zero{stroke:#656c76}.grid{stroke:#30363d}
.unsure{stroke:#9198a1;fill:#9198a1}.gain{stroke:#3fb950;fill:#3fb950}.loss{stroke:#f0883e;fill:#f0883e}}
"""


@dataclass(frozen=True)
class Line:
    """One method in one comparison.

    Attributes:
        data: task and rows.
        method: the candidate.
        seeds: pairs of runs.
        gain: mean difference from plain training.
        interval: the exact 95 % interval, if there are seeds enough for one.
        p: after Holm's correction.
    """

    data: str
    method: str
    seeds: int
    gain: float
    interval: tuple[float, float] | None
    p: float | None

    @property
    def kind(self) -> str:
        """Colored are only results that the corrected test calls beyond chance."""
        if self.p is None or self.p >= ALPHA:
            return "unsure"
        return "gain" if self.gain > 0 else "loss"


def lines_of_evidence() -> Iterator[Line]:
    """Every method of every kept comparison that the README shows."""
    for path, cell in (*kept_cells(RESULTS), *kept_cells(RESULTS / "questions")):
        if path.parent != RESULTS and path.stem not in MAIN_QUESTIONS:
            continue
        found = compare_cell(cell)
        size = f", {found.train_size} rows" if found.train_size else ""
        for row in found.methods:
            pair = row.against_plain
            if pair is not None and pair.mean is not None:
                yield Line(f"{found.task}{size}", row.candidate, pair.n, pair.mean, pair.exact_interval, row.holm_p)


def summary(lines: Sequence[Line]) -> str:
    """What the lines say together, in one sentence that follows from the numbers."""
    gains = sum(line.kind == "gain" for line in lines)
    losses = sum(line.kind == "loss" for line in lines)
    return (
        f"{len(lines)} results so far: {_counted(gains, 'gain')} and {_counted(losses, 'loss')} beyond chance "
        "(exact paired test, Holm's correction, p < 0.05)."
    )


def _counted(number: int, noun: str) -> str:
    word = noun if number == 1 else {"gain": "gains", "loss": "losses"}[noun]
    return f"{number or 'no'} {word}"


def forest_plot(lines: Sequence[Line]) -> str:
    """The picture."""
    height = TOP + ROW * len(lines) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d">',
        '<title id="t">Gain over tuned plain training, method by method</title>',
        f'<desc id="d">{escape(summary(lines))}</desc>',
        f"<style>{STYLE}</style>",
        '<text x="8" y="22" font-weight="600">Gain in accuracy over tuned plain training, 95 % interval</text>',
        '<text x="8" y="44" class="muted">data</text>',
        '<text x="186" y="44" class="muted">method</text>',
        f'<text x="{WIDTH - 8}" y="44" class="muted" text-anchor="end">gain, p, seeds</text>',
        *_axis(height),
    ]
    before = ""
    for index, line in enumerate(lines):
        parts += _row(line, TOP + ROW * index + 14, named=line.data != before)
        before = line.data
    return "\n".join([*parts, "</svg>", ""])


def _x(gain: float) -> float:
    clipped = max(-SHOWN, min(SHOWN, gain))
    return NAMES + PLOT * (clipped + SHOWN) / (2 * SHOWN)


def _axis(height: int) -> Iterator[str]:
    for tick in (-0.1, -0.05, 0.0, 0.05, 0.1):
        kind = "zero" if tick == 0 else "grid"
        yield f'<line class="{kind}" x1="{_x(tick):.1f}" x2="{_x(tick):.1f}" y1="{TOP - 8}" y2="{height - 28}"/>'
        text = f"{tick:+.2f}".replace("-", "−") if tick else "0"
        yield f'<text class="muted" x="{_x(tick):.1f}" y="{height - 10}" text-anchor="middle">{text}</text>'


def _row(line: Line, y: int, *, named: bool) -> Iterator[str]:
    if named:
        yield f'<text x="8" y="{y + 4}">{escape(line.data)}</text>'
    yield f'<text x="186" y="{y + 4}">{escape(_short(line.method))}</text>'
    if line.interval is not None:
        low, high = map(_x, line.interval)
        yield f'<line class="{line.kind}" stroke-width="2" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
    yield f'<circle class="{line.kind}" cx="{_x(line.gain):.1f}" cy="{y}" r="4"/>'
    p = "too few seeds" if line.interval is None or line.p is None else f"p = {line.p:.2g}"
    figures = f"{line.gain:+.3f}".replace("-", "−") + f", {p}, {line.seeds}"
    weight = ' font-weight="600"' if line.kind != "unsure" else ""
    yield f'<text x="{WIDTH - 8}" y="{y + 4}" text-anchor="end"{weight}>{figures}</text>'


def _short(method: str) -> str:
    return method.replace("noisytune(intensity=", "noisytune (").replace("noisytune+smart", "both")
