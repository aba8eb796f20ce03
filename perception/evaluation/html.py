"""Pages that need no script and no network: elements, tables and small charts; what enters as text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_NO_ATTRIBUTES: Mapping[str, str] = {}
_SIZE = (240, 190)
_LEFT, _TOP, _RIGHT, _BOTTOM = 28, 20, 232, 158  # of the unit square, in units of the chart

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #6a737d; --line: #d8dee4; --card: #f6f8fa;
  --shade: 9, 105, 218; --s0: #0969da; --s1: #1a7f37; --s2: #bc4c00; --s3: #8250df; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --faint: #8b949e; --line: #30363d;
  --card: #161b22; --shade: 88, 166, 255; --s0: #58a6ff; --s1: #3fb950; --s2: #f0883e; --s3: #bc8cff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5em; margin: .2em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin: 1.8em 0 .4em; border-bottom: 1px solid var(--line); padding-bottom: .2em; }
h3 { font-size: 1em; margin: .2em 0; }
p { margin: .4em 0; } a { color: var(--s0); } .faint, figcaption { color: var(--faint); font-size: .87em; }
nav a { margin-right: 1em; display: inline-block; padding: .35em 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8em 0; }
th, td { padding: .28em .6em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { color: var(--faint); font-weight: 600; font-size: .87em; vertical-align: bottom; white-space: normal; }
tbody th { font-weight: 500; }
.cards, .charts { display: grid; gap: 10px; }
.cards { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(46%, 230px), 1fr)); }
.pictures { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6em .8em; }
.card b { display: block; font-size: 1.5em; } figure { margin: 0; overflow-wrap: anywhere; }
img, svg { max-width: 100%; height: auto; display: block; } img { border-radius: 6px; }
svg text { fill: var(--faint); font: 10px system-ui, sans-serif; } svg .grid { stroke: var(--line); fill: none; }
svg .mark { fill: var(--s0); opacity: .85; } svg .ideal { stroke: var(--faint); stroke-dasharray: 3 3; fill: none; }
svg .l { fill: none; stroke-width: 1.8; } .l0 { stroke: var(--s0); } .l1 { stroke: var(--s1); }
.l2 { stroke: var(--s2); } .l3 { stroke: var(--s3); } .k0 { color: var(--s0); } .k1 { color: var(--s1); }
.k2 { color: var(--s2); } .k3 { color: var(--s3); } .key span { margin-right: 1em; }
"""


class Markup(str):
    """Text that is markup already; every other text is escaped where it enters an element."""


@dataclass(frozen=True, eq=False)
class Marks:
    """Dots of a chart.

    Attributes:
        x: (N,) in 0..1.
        y: (N,) in 0..1.
        weights: (N,) areas, relative to the largest one.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


def element(tag: str, *children: str, attributes: Mapping[str, str] = _NO_ATTRIBUTES) -> Markup:
    """Builds an element.

    Args:
        tag: its name.
        children: what is in it; all but `Markup` is escaped.
        attributes: by name; escaped.

    Returns:
        The markup.
    """
    inner = "".join(child if isinstance(child, Markup) else html.escape(child) for child in children)
    names = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{names}>{inner}</{tag}>")


def styled(tag: str, style: str, *children: str) -> Markup:
    """Builds an element of a class of the style sheet.

    Args:
        tag: its name.
        style: the class.
        children: as of `element`.

    Returns:
        The markup.
    """
    return element(tag, *children, attributes={"class": style})


def table(header: Sequence[str], rows: Sequence[Sequence[str]], shades: np.ndarray | None = None) -> Markup:
    """Builds a table that scrolls sideways where it is wider than the page.

    Args:
        header: names of the columns.
        rows: cells; the first of a row names it.
        shades: (rows, columns - 1) 0..1 how strongly cells are coloured, NaN for not at all.

    Returns:
        The markup.
    """
    body = []
    for number, row in enumerate(rows):
        tints = np.zeros(len(row) - 1) if shades is None else np.nan_to_num(shades[number])
        cells = [
            element("td", cell, attributes={"style": f"background: rgba(var(--shade), {tint:.2f})"} if tint else {})
            for cell, tint in zip(row[1:], tints, strict=True)
        ]
        body.append(element("tr", element("th", row[0], attributes={"scope": "row"}), *cells))
    head = element("tr", *(element("th", name, attributes={"scope": "col"}) for name in header))
    return styled("div", "scroll", element("table", element("thead", head), element("tbody", *body)))


def chart(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    marks: Marks | None = None,
    diagonal: bool = False,
) -> Markup:
    """Draws a chart over the unit square.

    Args:
        title: above it.
        axes: what x and y are.
        lines: x and y of each, (N,) in 0..1, in the colours of `key`.
        marks: dots.
        diagonal: draw the line on which y is x.

    Returns:
        The markup, with the drawing as SVG.
    """
    drawn = [_grid(axes)]
    if diagonal:
        drawn.append(_polyline("ideal", np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    drawn += [_polyline(f"l l{number}", *line) for number, line in enumerate(lines)]
    if marks is not None:
        drawn += _dots(marks)
    size = {"viewBox": f"0 0 {_SIZE[0]} {_SIZE[1]}", "role": "img", "aria-label": title, "width": "100%"}
    return element("figure", element("h3", title), element("svg", *drawn, attributes=size))


def key(names: Sequence[str]) -> Markup:
    """Says which line of charts has which colour.

    Args:
        names: of up to four lines.

    Returns:
        The markup.
    """
    words = [element("span", styled("b", f"k{number}", "\u2014 "), name) for number, name in enumerate(names)]
    return styled("p", "faint key", *words)


def picture(png: bytes, caption: str) -> Markup:
    """Puts a picture into the page itself.

    Args:
        png: a PNG file's content.
        caption: below it.

    Returns:
        The markup.
    """
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    image = Markup(f'<img src="{source}" alt="{html.escape(caption)}" loading="lazy">')
    return element("figure", image, element("figcaption", caption))


def page(title: str, sections: Mapping[str, Sequence[str]]) -> str:
    """Puts a page together; its policy forbids scripts and anything from elsewhere.

    Args:
        title: of the page.
        sections: their content by heading; that under '' comes first and has no heading.

    Returns:
        The HTML document.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    )
    numbered = list(enumerate(sections.items()))
    links = [element("a", name, attributes={"href": f"#s{number}"}) for number, (name, _) in numbered if name]
    parts = [
        element("section", *([element("h2", name)] if name else []), *content, attributes={"id": f"s{number}"})
        for number, (name, content) in numbered
    ]
    return head + element("body", element("h1", title), element("nav", *links), *parts) + "</html>\n"


def _x(value: float) -> float:
    return _LEFT + value * (_RIGHT - _LEFT)


def _y(value: float) -> float:
    return _BOTTOM - value * (_BOTTOM - _TOP)


def _grid(axes: tuple[str, str]) -> Markup:
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{_x(0)} {_y(value)}H{_x(1)}M{_x(value)} {_y(0)}V{_y(1)}"/>')
        parts.append(f'<text x="{_x(value):.0f}" y="{_BOTTOM + 13}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{_LEFT - 4}" y="{_y(value) + 3:.0f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{_x(0.5)}" y="{_SIZE[1] - 4}" text-anchor="middle">{html.escape(axes[0])}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 8}">{html.escape(axes[1])}</text>')
    return Markup("".join(parts))


def _polyline(style: str, x: np.ndarray, y: np.ndarray) -> Markup:
    points = " ".join(f"{_x(u):.1f},{_y(v):.1f}" for u, v in zip(x.tolist(), y.tolist(), strict=True))
    return Markup(f'<polyline class="{style}" points="{points}"/>')


def _dots(marks: Marks) -> list[Markup]:
    known = np.isfinite(marks.x) & np.isfinite(marks.y)
    radii = 2 + 7 * np.sqrt(marks.weights / max(float(marks.weights.max(initial=0)), 1e-9))
    return [
        Markup(f'<circle class="mark" cx="{_x(u):.1f}" cy="{_y(v):.1f}" r="{r:.1f}"/>')
        for u, v, r in zip(marks.x[known].tolist(), marks.y[known].tolist(), radii[known].tolist(), strict=True)
    ]
