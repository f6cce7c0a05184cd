"""One self-contained page about a sweep, or about a single run."""

from meta.report.arms import ReportError, Sweep, read
from meta.report.page import page

__all__ = ["ReportError", "Sweep", "page", "read"]
