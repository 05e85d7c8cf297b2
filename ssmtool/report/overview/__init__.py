"""A model on one page: the view (words, tables, charts) and its forms, HTML, Markdown and PDF."""

from __future__ import annotations

from ssmtool.report.overview.build import view
from ssmtool.report.overview.save import save_report

__all__ = ["save_report", "view"]
