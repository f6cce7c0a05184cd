"""The X-ray of a meta-gradient: its first-order part and its curvature parts, and what estimators would have lost.

split.py has the arithmetic of one task, measure.py its measures over tasks, report.py what is said of them; the command
is meta/cli/xray.py, the pictures are meta.plots.xray.
"""

from meta.xray.measure import NothingFinite, XRay, tracked_metrics, xray
from meta.xray.report import SAFE, report
from meta.xray.split import Split, split, windows_of

__all__ = [
    "SAFE",
    "NothingFinite",
    "Split",
    "XRay",
    "report",
    "split",
    "tracked_metrics",
    "windows_of",
    "xray",
]
