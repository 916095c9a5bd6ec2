"""Time against error for each problem of `stiff.py`."""

import itertools

COLORS = {"diffrax": "tab:orange", "diffrax Newton": "tab:red", "CVODES": "black"}  # ours: blues; scipy: grey
COLUMNS = 3


def save_figure(path, points):
    """`points`: of each problem by its name."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    rows = -(-len(points) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(9.5, 3.2 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for axis, (name, of_problem) in zip(axes.flat, points.items(), strict=False):
        _draw(axis, of_problem)
        axis.set(title=name.replace("_", " "), xscale="log", yscale="log", xlabel="error at t1")
        axis.invert_xaxis()
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    for row in axes:
        row[0].set_ylabel("ms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
    print(f"\nsaved {path}")


def _draw(axis, points):
    """A line for each solver."""
    blues = itertools.cycle(("#08306b", "#2171b5", "#4292c6", "#9ecae1"))
    greys = itertools.cycle((":", "--", "-."))
    for method, group in itertools.groupby(points, key=lambda point: point.method):
        error, time = zip(*((point.error, 1e3 * point.time) for point in group), strict=True)
        if method.startswith("scipy"):
            axis.plot(error, time, next(greys), color="0.6", label=method)
        elif method in COLORS:
            axis.plot(error, time, "s-", color=COLORS[method], markersize=3, label=method)
        else:
            axis.plot(error, time, "o-", color=next(blues), markersize=4, label=f"odejax {method}")
