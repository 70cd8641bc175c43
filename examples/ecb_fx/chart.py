"""The chart of one day's cross rates."""

import io
from collections.abc import Mapping
from decimal import Decimal


def as_png(title: str, crosses: Mapping[str, Decimal]) -> bytes:
    """Draw what one unit of the base buys of each currency; the same rates give the same bytes.

    Raises ImportError where matplotlib is not installed.
    """
    # Optional, and takes a second to import.
    from matplotlib.figure import Figure

    names = sorted(crosses, key=lambda name: (crosses[name], name))
    labels = [name.rpartition(".")[2] for name in names]
    figure = Figure(figsize=(8, 0.6 + 0.24 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(labels, [float(crosses[name]) for name in names], color="#2b6cb0")
    axes.bar_label(bars, [f"{crosses[name]:f}" for name in names], padding=3, fontsize=7)
    axes.set_xscale("log")  # one dollar buys 0.7 pounds and 14,000 rupiah
    axes.margins(x=0.15, y=0.01)
    axes.tick_params(labelsize=8)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("Source: European Central Bank; cross rates are computed", fontsize=7)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
