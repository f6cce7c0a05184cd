"""The X-ray of a meta-gradient: its first-order part and its curvature parts, and what estimators would have lost.

split.py has the arithmetic of one task, measure.py its measures over tasks, report.py what is said of them, tracking.py
what a run's log has of them; the command is meta/cli/xray.py, the picture meta.plots.xray.
"""

from meta.xray.measure import NothingFinite, XRay, xray
from meta.xray.report import SAFE, report
from meta.xray.split import Split, expect_unrolled, split, windows_of
from meta.xray.tracking import track, tracked_metrics

__all__ = [
    "SAFE",
    "NothingFinite",
    "Split",
    "XRay",
    "expect_unrolled",
    "report",
    "split",
    "track",
    "tracked_metrics",
    "windows_of",
    "xray",
]
