"""Figures as SVG within a page, in whose light or dark colours they are drawn."""

import contextlib
import html
import io
import re
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that the SVG's text is searched for, and what takes their place.
_INK, GRID = "#010203", "#040506"
_PAGE_COLORS = {_INK: "currentColor", GRID: "var(--grid)"}
_SIZE = (4.2, 2.9)  # inches
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "afd_tf",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Drawing:
    """A figure with one pair of axes.

    Attributes:
      axes: to draw on.
      text: an <svg> element, when the drawing is done.
    """

    def __init__(self, size: tuple[float, float]):
        self.figure = Figure(figsize=size, layout="constrained")
        self.axes: Axes = self.figure.subplots()
        self.text = ""


@contextlib.contextmanager
def drawing(description: str, size: tuple[float, float] = _SIZE) -> Iterator[Drawing]:
    """Opens a figure that is an <svg> element at the end of the block.

    Args:
      description: for those who do not see it.
      size: width and height in inches; on the page, it is as wide as its place.
    """
    with matplotlib.rc_context(_STYLE):
        drawn = Drawing(size)
        yield drawn
        buffer = io.StringIO()
        # No date and no version of Matplotlib, so that a report can be compared.
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawn.text = _within_page(buffer.getvalue(), description)


def _within_page(text: str, description: str) -> str:
    """Returns an SVG file as an element of a page."""
    view = re.search(r'viewBox="[^"]*"', text)[0]
    # The declarations of names are an XML file's, and the sheet holds for a whole page.
    body = re.sub(
        r"<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :]
    )
    for color, replacement in _PAGE_COLORS.items():
        body = body.replace(color, replacement)
    body = re.sub(r"font-family: [^;\"]*(; )?", "", body)
    body = body.replace("xlink:href", "href")
    label = html.escape(description)
    return f'<svg role="img" aria-label="{label}" {view}>{body}'


def with_own_ids(text: str, prefix: str) -> str:
    """Returns an SVG whose ids begin with a prefix; those that nothing names are gone.

    An id counts once in a page, where several figures have the same ones.
    """
    named = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))

    def renamed(found: re.Match) -> str:
        return f' id="{prefix}{found[1]}"' if found[1] in named else ""

    text = re.sub(r' id="([^"]*)"', renamed, text)
    return re.sub(r'((?:url\(|href=")#)', rf"\g<1>{prefix}", text)
