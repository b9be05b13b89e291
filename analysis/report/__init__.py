"""One self-contained HTML file from records and training logs."""

from analysis.report.write import write_report

__all__ = ["write_report"]
