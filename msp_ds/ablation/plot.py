"""The plot of an ablation as one SVG file: a panel for each column, a line for each row, a dot for each seed."""

from html import escape

from msp_ds.ablation.table import Cell, Grid

_LABELS, _PANEL, _PAPER, _GAP = 250, 190, 46, 18
"""Pixels: width of the row names, of a panel, of the paper's number beside it, and between panels."""
_LINE, _HEAD, _FOOT = 24, 46, 30
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.grey{fill:#999}.tick{fill:#666;font-size:10px;text-anchor:middle}"
    ".head{font-weight:600}.end{text-anchor:end}.rule{stroke:#e3e3e3}.spread{stroke:#2563a8;stroke-width:2}"
    ".mean{fill:#2563a8}.seed{fill:#2563a8;fill-opacity:.35}"
)


def ablation_plot(grid: Grid) -> str:
    """Return the SVG file; each panel has its own scale, with the paper's numbers beside it in grey."""
    width = _LABELS + len(grid.columns) * (_PANEL + _PAPER + _GAP)
    height = _HEAD + _LINE * len(grid.rows) + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="Table 4"><style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for place, row in enumerate(grid.rows):
        y = _row_y(place)
        parts.append(f'<line class="rule" x1="8" x2="{width - 8}" y1="{y + _LINE / 2}" y2="{y + _LINE / 2}"/>')
        tasks = "" if row.tasks == row.stages else f'<tspan class="grey" dx="8">{escape(row.tasks)}</tspan>'
        parts.append(f'<text x="8" y="{y + 4}">{escape(row.stages)}{tasks}</text>')
    for place, column in enumerate(grid.columns):
        parts.append(_panel(grid, column, left=_LABELS + place * (_PANEL + _PAPER + _GAP)))
    return "".join((*parts, "</svg>\n"))


def _row_y(place: int) -> float:
    return _HEAD + _LINE * (place + 0.5)


def _panel(grid: Grid, column: str, *, left: float) -> str:
    cells = [grid.cells[row.name, column] for row in grid.rows]
    low, high = _limits(cells)

    def x_of(value: float) -> float:
        return left + 10 + (value - low) / (high - low) * (_PANEL - 20)

    bottom = _HEAD + _LINE * len(cells)
    drawn = [f'<text class="head" x="{left + 10}" y="20">{escape(column)}, %</text>']
    drawn.append(f'<text class="grey end" x="{left + _PANEL + _PAPER}" y="20">paper</text>')
    for value in (low, (low + high) / 2, high):
        drawn.append(f'<line class="rule" x1="{x_of(value):.1f}" x2="{x_of(value):.1f}" y1="{_HEAD}" y2="{bottom}"/>')
        drawn.append(f'<text class="tick" x="{x_of(value):.1f}" y="{bottom + 16}">{value:g}</text>')
    for place, cell in enumerate(cells):
        y = _row_y(place)
        if cell.values:
            drawn.append(_marks([x_of(value) for value in cell.values], x_of(cell.mean), y, title=cell.text()))
            if cell.deviation is not None:
                ends = (max(low, cell.mean - cell.deviation), min(high, cell.mean + cell.deviation))
                x1, x2 = (x_of(end) for end in ends)
                drawn.append(f'<line class="spread" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}"/>')
        else:
            drawn.append(f'<text class="grey" x="{left + 10}" y="{y + 4}">{cell.text()}</text>')
        if cell.paper is not None:
            drawn.append(f'<text class="grey end" x="{left + _PANEL + _PAPER}" y="{y + 4}">{cell.paper:g}</text>')
    return "".join(drawn)


def _marks(seeds: list[float], mean: float, y: float, *, title: str) -> str:
    dots = "".join(f'<circle class="seed" cx="{x:.1f}" cy="{y}" r="3"/>' for x in seeds)
    return f'{dots}<circle class="mean" cx="{mean:.1f}" cy="{y}" r="4.5"><title>{escape(title)}</title></circle>'


def _limits(cells: list[Cell]) -> tuple[float, float]:
    """Round ends of a scale, an even number of percents apart, that all seeds and deviations lie between."""
    reach = [value for cell in cells for value in cell.values]
    reach += [cell.mean + sign * (cell.deviation or 0) for cell in cells if cell.values for sign in (-1, 1)]
    if not reach:
        return 0.0, 100.0
    low, high = max(0, int(min(reach))), min(100, int(max(reach)) + 1)
    if (high - low) % 2:
        low, high = (low - 1, high) if low else (low, high + 1)
    return float(low), float(high)
