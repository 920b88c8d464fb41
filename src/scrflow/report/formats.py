"""Tables of text in Markdown and LaTeX, and the numbers in them."""

import math

SUFFIX = {"median_t": " {unit}", "median_r": "°"}  # of a value; the header has the unit of the others
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: "\\" + c for c in "&%$#_{}"}
_LATEX |= {"±": r"$\pm$", "×": r"$\times$", "°": r"$^\circ$", "∞": r"$\infty$", "–": "--"}


def pipe_table(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""

    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, lines)])


def tabular(header: list[str], lines: list[list[str]], comments: list[str]) -> str:
    """A LaTeX tabular (package booktabs) of plain text, after comments."""
    rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in [header, *lines]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}"
    body = [begin, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*(f"% {line}" for line in comments if line), *body]) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return text.translate(str.maketrans(_LATEX))


def format_value(metric: str, value: float, unit: str, spread: float | None = None) -> str:
    """A number with as many digits as it deserves, lengths under a metre in centimetres."""
    if math.isinf(value):
        return "∞"
    if metric == "median_t" and unit == "m" and value < 1:
        value, unit, spread = 100 * value, "cm", None if spread is None else 100 * spread
    digits = 0 if metric == "query_ms" else 1 if metric.startswith("recall@") or abs(value) >= 10 else 2
    shown = f"{value:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")
    return shown + SUFFIX.get(metric, "").format(unit=unit)


def length(value: float, unit: str, digits: int = 2) -> str:
    """A length in the form that is read most easily, 3.2 cm or 1.4 m, with so many significant digits."""
    if not math.isfinite(value):
        return "infinite"
    scale, name = 1.0, unit
    if unit == "m":
        scale, name = (1.0, "m") if value >= 1 else (100.0, "cm") if value >= 0.001 else (1000.0, "mm")
    number = f"{scale * value:.0f}" if scale * value >= 10**digits else f"{scale * value:.{digits}g}"
    return f"{number} {name}"


def limit(bound: tuple[float, float], unit: str, joined: str = ", ") -> str:
    """A threshold: 25 cm, 2°."""
    return f"{length(bound[0], unit, 6)}{joined}{bound[1]:g}°"


def angle(value: float) -> str:
    """An angle in degrees."""
    return f"{value:.2g}°" if value < 10 else f"{value:.0f}°"
