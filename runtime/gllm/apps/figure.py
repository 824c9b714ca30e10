"""What all plots share. Only this module imports matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """Return matplotlib.pyplot without a display. Raises ValueError that says how to install it."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'gllm[plots]'") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.titlesize": 9})
    pyplot.rcParams["svg.hashsalt"] = "gllm"
    return pyplot


def save(figure: Any, path: Path) -> None:
    """Save and close a figure. The file has no date, so that the same figures make the same file."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=110, metadata=metadata)
    pyplot().close(figure)
