"""The table stage: from finished runs to Markdown, CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path

from scrflow.config.table import TableStage
from scrflow.report.published import load_papers
from scrflow.report.tables.cells import collect, to_csv
from scrflow.report.tables.claims import claims_markdown, judge
from scrflow.report.tables.render import latex, markdown, published_markdown
from scrflow.storage.artifact import write_text


def write_table(
    config: TableStage, results: Path, papers: Path, out_markdown: Path, out_csv: Path, out_latex: Path
) -> None:
    """Write one table from the runs under ``results`` and the published numbers in ``papers`` (config/papers).

    The Markdown ends with the claims that the table judges, and with the paper's own table. ScrflowError naming the
    file where a run's metrics are missing or damaged, or a published row or column is unknown.
    """
    where = config.table.published
    published = where is not None or any(claim.published for claim in config.table.claims)
    registry = load_papers(papers) if published else None
    cells = collect(config, results, registry)
    text = markdown(config, cells)
    if config.table.claims:
        text += "\n" + claims_markdown(list(judge(config, results)), config, registry)
    if where is not None:
        published = registry.table(where.paper, where.table)
        paper = registry.paper(where.paper)
        arxiv = f", arXiv {paper.arxiv}" if paper.arxiv else ""
        text += f"\n## As published\n\n{paper.name} {published.name} ({paper.venue}{arxiv}). {published.about}\n\n"
        text += published_markdown(published) + "\n"
    write_text(out_csv, to_csv(config, cells))
    write_text(out_latex, latex(config, cells))
    write_text(out_markdown, text)
