"""Figures of matplotlib as SVG inside a page: its colors follow the page, and nothing is fetched."""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDE, NARROW = 560, 344
#: Drawn with these colors, which nobody else uses; the page says what they are, in light and in dark.
INK, MUTED, GRID, SURFACE, GOOD, BAD = "#000101", "#000102", "#000103", "#000104", "#000105", "#000106"
SERIES = tuple(f"#0002{slot:02x}" for slot in range(9))
TOKENS = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    GOOD: "--good",
    BAD: "--bad",
    **{color: f"--series-{slot}" for slot, color in enumerate(SERIES)},
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "steadytune",
    "text.parse_math": False,  # names may hold dollar signs
    "font.size": 13,
    "font.family": "DejaVu Sans",
    "axes.unicode_minus": True,
    "path.simplify": False,
}
SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
TIP = "tip:"
_drawing = threading.Lock()  # the style of matplotlib is one for the whole process

Draw = Callable[[int], Figure]


def series(slot: int) -> str:
    """The color of a candidate: 0 is plain training, the others repeat after eight."""
    return SERIES[0] if slot == 0 else SERIES[1 + (slot - 1) % (len(SERIES) - 1)]


def canvas(width: float, height: float) -> Figure:
    """An empty figure whose points are the pixels of the page."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    return figure


def axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in pixels from the upper left corner, with nothing but a quiet grid."""
    whole_width, whole_height = (72 * side for side in figure.get_size_inches())
    bottom = whole_height - top - height
    added = figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))
    added.patch.set_visible(False)
    for spine in added.spines.values():
        spine.set_visible(False)
    added.tick_params(length=0, labelsize=12, labelcolor=MUTED, pad=5)
    added.grid(visible=True, axis="y", color=GRID, linewidth=1)
    added.set_axisbelow(True)
    return added


def height(panel: Axes) -> float:
    """Size of the axes, in pixels."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    return 72 * figure.get_size_inches()[1] * panel.get_position().height


def tip(text: str) -> str:
    """The mark (gid) of something that shows this text under the mouse."""
    return TIP + text


def inline(draw: Draw, name: str, description: str) -> Markup:
    """Draw at the two widths of the page, of which its style shows one.

    Args:
        draw: makes the figure for a width in pixels.
        name: unique on the page; part of every id.
        description: what a screen reader says in place of the picture.
    """
    with _drawing, rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the browser has them
        both = [_svg(draw(width), f"{name}-{kind}", description, kind) for kind, width in SIZES]
    return Markup("").join(both)


SIZES = (("wide", WIDE), ("narrow", NARROW))


def _svg(figure: Figure, name: str, description: str, kind: str) -> Markup:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    width, height = (round(72 * side) for side in figure.get_size_inches())
    drawing = "".join(_markup(child, name) for child in root if not _is(child, "metadata"))
    attributes = f'class="plot {kind}" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    # Every text in it went through escape().
    return Markup(f'<svg {attributes} role="img" aria-label="{escape(description)}">{drawing}</svg>')


def _is(element: ElementTree.Element, tag: str) -> bool:
    return element.tag == f"{{{SVG}}}{tag}"


def _markup(element: ElementTree.Element, name: str) -> str:
    """An element of matplotlib's as markup for a page, with its own ids and the page's colors."""
    if _is(element, "style"):
        return ""
    children = "".join(_markup(child, name) for child in element)
    title = escape(element.get("id", "").removeprefix(TIP)) if element.get("id", "").startswith(TIP) else ""
    attributes = "".join(_attribute(element, key, value, name) for key, value in element.attrib.items())
    text = escape(element.text) if element.text and element.text.strip() else ""
    tag = element.tag.rpartition("}")[2]
    return f"<{tag}{attributes}>{f'<title>{title}</title>' if title else ''}{text}{children}</{tag}>"


def _attribute(element: ElementTree.Element, key: str, value: str, name: str) -> str:
    if key == "id":
        # Only these are referred to.
        return f' id="{escape(f"{name}-{value}")}"' if _is(element, "path") or _is(element, "clipPath") else ""
    if key == HREF:
        key, value = "href", f"#{name}-{value.removeprefix('#')}"
    elif key == "clip-path":
        value = value.replace("url(#", f"url(#{name}-")
    elif key == "style":
        value = _style(value)
    elif key in ("d", "transform"):
        value = " ".join(_short_numbers(value).split())
    return f' {key}="{escape(value)}"'


def _short_numbers(text: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text)


def _style(style: str) -> str:
    for color, token in TOKENS.items():
        style = style.replace(color, f"var({token})")
    return re.sub(r"font-family:[^;]*;?", "", re.sub(r"'DejaVu Sans'[^;]*", "inherit", style))
