"""The main table as LaTeX for booktabs, whole or a row of it."""

from __future__ import annotations

from dynat.report.tables import DAGGER, DOUBTED, UNTESTED, Cell, Row, Table, notes


def to_tex(table: Table) -> str:
    """The table, ready to be included."""
    lines = [
        r"% In the preamble: \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{tex(' '.join([table.about, table.shape, *notes(table), *table.warnings]))}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"    \toprule",
        *(f"    {line}" for line in tex_head(table)),
        r"    \midrule",
        *(f"    {line}" for line in _body(table)),
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _body(table: Table) -> list[str]:
    """The rows, each group below a rule and its title."""
    lines: list[str] = []
    for title, rows in table.sections:
        lines += [r"\midrule"] if lines else []
        lines += [rf"\multicolumn{{{len(table.columns) + 2}}}{{l}}{{\emph{{{tex(title)}}}}} \\"] if title else []
        lines += map(tex_row, rows)
    return lines


def tex_head(table: Table) -> list[str]:
    """The lines above the rows: titles, and what sets a column apart."""
    notes_row = [rf"{{\scriptsize {tex(c.note)}}}" if c.note else "" for c in table.columns]
    return [
        rf"Run & Method & {' & '.join(tex(c.title) for c in table.columns)} \\",
        *([rf"& & {' & '.join(notes_row)} \\"] if any(notes_row) else []),
    ]


def tex_row(row: Row) -> str:
    """A run's line of it."""
    cells = " & ".join(map(_cell, row.cells))
    return rf"\texttt{{{tex(row.run)}}}{tex(row.mark)} & {tex(row.method)} & {cells} \\"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
    around = rf"$\pm$ {cell.spread}" if cell.spread else f"[{cell.interval}]".replace("–", "--")
    return rf"{value}{tex(cell.mark)} {{\scriptsize {around}}}"


_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"$_\infty$",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
    DAGGER: r"$^{\dagger}$",
    UNTESTED: r"$^{\ddagger}$",
    DOUBTED: r"$^{\S}$",
    "·": r"$\cdot$",
}


def tex(text: str) -> str:
    """Any text as LaTeX would print it."""
    return "".join(_TEX.get(sign, sign) for sign in text)
