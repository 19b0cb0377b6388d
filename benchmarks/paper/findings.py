"""Findings from the rows: each is a figure and two sentences, made from the numbers alone.

A finding whose rows are missing is left out.
"""

import itertools
import operator
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.table import AGREED, SETTING, SIZES, TENTHS, Row, between

HELD_OUT, TRAINING = "held-out", "training"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    name: str
    """File name of its figure."""
    title: str
    """Heading in the report."""
    sentences: str
    """Summary of the numbers."""
    figure: Figure
    """Plot of the numbers."""


def findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Yield the findings for which there are enough rows."""
    trained = [row for row in rows if not row.early]
    found = [find(trained) for find in (short, positions, aware, density, influence, memory, unlike)]
    yield from (finding for finding in (*found, length(rows)) if finding)


def short(rows: Sequence[Row]) -> Finding | None:
    """Show where the agreement is low, and whether network or formula is nearer to the clean image there."""
    own = [row for row in rows if row.inputs == HELD_OUT]
    if not own:
        return None
    figure, (axes,) = _figure(1)
    said = []
    for p in sorted({row.patch_size for row in own}):
        same = [row for row in own if row.patch_size == p]
        axes.plot([_ahead(row) for row in same], [row.agreement for row in same], ".", label=f"p = {p}")
        noise = [row.sigma for row in same if row.agreement < AGREED]
        where = f" (σ = {between(noise)})" if noise else ""
        said.append(f"{len(noise)} of {len(same)} rows at p = {p}{where}")
    axes.axhline(AGREED, color="grey", linewidth=0.8)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="PSNR, network − formula (dB)", ylabel="agreement (dB)")
    axes.legend(fontsize=7)
    ahead = [_ahead(row) for row in own if row.agreement < AGREED]
    sides = [
        f"In {len(side)} of them the network is {where} the formula, "
        f"by {abs(statistics.fmean(side)):.1f} dB in the mean."
        for where, side in (
            ("nearer to the truth than", [gain for gain in ahead if gain > 0]),
            ("farther from the truth than", [gain for gain in ahead if gain <= 0]),
        )
        if side
    ]
    return Finding(
        "short",
        f"Agreement below {AGREED} dB",
        f"On held-out images networks and formula agree to less than {AGREED} dB in {', '.join(said)}. "
        f"{' '.join(sides) or 'None falls short.'}",
        figure,
    )


def positions(rows: Sequence[Row]) -> Finding | None:
    """Compare the formula within one mask pattern with the one that pools all positions."""
    own = [row for row in rows if row.inputs == HELD_OUT and row.pooled_agreement is not None]
    if not own:
        return None
    figure, (axes,) = _figure(1)
    said = []
    for number, physics in enumerate(dict.fromkeys(row.physics for row in own)):
        apart, pooled = (
            [(row.sigma, getattr(row, name)) for row in own if row.physics == physics]
            for name in ("agreement", "pooled_agreement")
        )
        _line(axes, apart, f"{physics}, the same pattern", color=f"C{number}")
        _line(axes, pooled, f"{physics}, all positions", color=f"C{number}", linestyle="--")
        means = [statistics.fmean(level for _, level in points) for points in (apart, pooled)]
        said.append(f"{means[0]:.1f} and {means[1]:.1f} dB ({physics})")
    axes.set(ylabel="agreement (dB)")
    _noise(axes, own)
    axes.legend(fontsize=7)
    return Finding(
        "positions",
        "What a mask tells of the position",
        "Through a mask the formula compares a patch with those that were seen through the same pattern, "
        "which tells it where in the image it is; a network is the same at every position. On held-out "
        "images the networks agree with it, and with the formula that has the patches of all positions and "
        f"is told the mask, to {', '.join(said)} in the mean.",
        figure,
    )


def aware(rows: Sequence[Row]) -> Finding | None:
    """Compare each pre-inverse with none."""
    gains = []
    held_out = [row for row in rows if row.inputs == HELD_OUT]
    agnostic = {_setting(row, "pre_inverse"): row for row in held_out if row.pre_inverse == "identity"}
    for row in held_out:
        plain = agnostic.get(_setting(row, "pre_inverse"))
        if row.pre_inverse != "identity" and plain:
            formula = row.formula_psnr - plain.formula_psnr
            gains.append((row, formula, row.network_psnr - plain.network_psnr))
    if not gains:
        return None
    figure, (left, right) = _figure(2)
    for name in dict.fromkeys(_seen(row) for row, _, _ in gains):
        own = [gain for gain in gains if _seen(gain[0]) == name]
        _line(left, [(row.sigma, formula) for row, formula, _ in own], name)
    left.set(ylabel="PSNR, aware − agnostic (dB)", title="formula")
    _noise(left, rows)
    left.axhline(0, color="grey", linewidth=0.8)
    left.legend(fontsize=7)
    right.plot([formula for _, formula, _ in gains], [network for _, _, network in gains], ".")
    right.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    right.set(
        xlabel="gain of the formula (dB)", ylabel="gain of the network (dB)", title="formula and networks"
    )
    best = max(gains, key=lambda gain: gain[1])
    worst = min(gains, key=lambda gain: gain[1])
    same = sum((formula > 0) == (network > 0) for _, formula, network in gains)
    off = statistics.fmean(abs(formula - network) for _, formula, network in gains)
    return Finding(
        "aware",
        "Aware and agnostic",
        f"Seen through a pre-inverse the formula gains from {worst[1]:+z.1f} dB ({_seen(worst[0])}, "
        f"σ = {worst[0].sigma:g}) to {best[1]:+z.1f} dB ({_seen(best[0])}, σ = {best[0].sigma:g}) on "
        f"held-out images. The networks gain where the formula does, and lose where it does, in {same} of "
        f"{len(gains)} comparisons; their gains are {off:.1f} dB apart in the mean.",
        figure,
    )


def density(rows: Sequence[Row]) -> Finding | None:
    """Compare the agreement of likely and unlikely patches."""
    held_out = [row for row in rows if row.inputs == HELD_OUT]
    own = [row for row in held_out if not _uneven(row)]
    if not own:
        return None
    figure, (axes,) = _figure(1)
    for sigma in sorted({row.sigma for row in own}):
        means = np.mean([row.by_density for row in own if row.sigma == sigma], axis=0)
        axes.plot(range(1, TENTHS + 1), means, "o-", markersize=3, label=f"σ = {sigma:g}")
    axes.set(xlabel="tenth of the pixels, by log density", ylabel="agreement (dB)")
    axes.legend(fontsize=7)
    low, high = (statistics.fmean(row.by_density[tenth] for row in own) for tenth in (0, -1))
    ranks = [float(np.corrcoef(range(TENTHS), np.argsort(np.argsort(row.by_density)))[0, 1]) for row in own]
    uneven = len(held_out) - len(own)
    left_out = (
        f" {uneven} rows are left out: they see more or fewer pixels of a patch, and so its density differs."
        if uneven
        else ""
    )
    rising = sum(row.by_density[-1] > row.by_density[0] for row in own)
    return Finding(
        "density",
        "Agreement and density",
        f"In the tenth of the held-out pixels whose patches are least likely under the training set, "
        f"networks and formula agree to {low:.1f} dB in the mean, in the likeliest tenth to {high:.1f} dB. "
        f"The likeliest tenth agrees better in {rising} of {len(own)} rows, and the rank correlation of log "
        f"density and agreement is {statistics.fmean(ranks):+.2f} in the mean.{left_out}",
        figure,
    )


def influence(rows: Sequence[Row]) -> Finding | None:
    """Show how the agreement depends on the noise, the patch size and the number of training images."""
    own = [row for row in rows if row.inputs == HELD_OUT]
    names = {"sigma": "σ", "patch_size": "p", "training": "K"}
    varied = {name: _varied(own, name) for name in names}
    found = {name: (means, count) for name, (means, count) in varied.items() if len(means) > 1}
    if not found:
        return None
    figure, axes = _figure(len(found))
    said = []
    for panel, (name, (means, count)) in zip(axes, found.items(), strict=True):
        panel.plot(list(means), list(means.values()), "o-", markersize=3)
        panel.set(xlabel=names[name], ylabel="agreement (dB)")
        _ticks(panel, list(means))
        said.append(f"from {_ends(names[name], means)} (mean of {count})")
    unsaid = [names[name] for name in names if name not in found]
    rest = f" With all else the same, not varied: {', '.join(unsaid)}." if unsaid else ""
    return Finding(
        "influence",
        "Noise σ, patch size p and number K of training images",
        "Agreement on held-out images, over what was run at each of the values, goes "
        f"{'; '.join(said)}.{rest}",
        figure,
    )


def memory(rows: Sequence[Row]) -> Finding | None:
    """Compare training images with held-out ones, and low effective sample sizes with high ones."""
    pairs = _pairs(rows, TRAINING, HELD_OUT)
    if not pairs:
        return None
    figure, (left, right) = _figure(2)
    _line(left, [(a.sigma, a.formula_psnr - b.formula_psnr) for a, b in pairs], "formula")
    for network in dict.fromkeys(a.network for a, _ in pairs):
        own = [(a.sigma, a.network_psnr - b.network_psnr) for a, b in pairs if a.network == network]
        _line(left, own, network)
    left.set(ylabel="PSNR, training − held-out (dB)")
    _noise(left, rows)
    left.axhline(0, color="grey", linewidth=0.8)
    left.legend(fontsize=7)
    gains = _by_size([held_out for _, held_out in pairs])
    right.bar([_range(k) for k in gains], list(gains.values()))
    right.set(xlabel="effective sample size, held-out images", ylabel="PSNR, network − formula (dB)")
    right.tick_params(axis="x", labelsize=6)
    sigma = min(a.sigma for a, _ in pairs)
    least = [(a, b) for a, b in pairs if a.sigma == sigma]
    formula = statistics.fmean(a.formula_psnr - b.formula_psnr for a, b in least)
    network_gain = statistics.fmean(a.network_psnr - b.network_psnr for a, b in least)
    few, many = min(gains), max(gains)
    return Finding(
        "memory",
        "Memorisation and generalisation",
        f"At σ = {sigma:g} the formula is {formula:+z.1f} dB better on images that it was built from than on "
        f"held-out ones, the networks {network_gain:+z.1f} dB. On held-out pixels with an effective sample "
        f"size of {_range(few)} the networks are {gains[few]:+z.1f} dB nearer to the truth than the formula, "
        f"with {_range(many)} {gains[many]:+z.1f} dB.",
        figure,
    )


def unlike(rows: Sequence[Row]) -> Finding | None:
    """Compare images of the data set with images unlike it."""
    kinds = list(dict.fromkeys(row.inputs for row in rows))
    others = [kind for kind in kinds if kind not in (TRAINING, HELD_OUT)]
    if not others or HELD_OUT not in kinds:
        return None
    figure, (left, right) = _figure(2)
    for kind in kinds:
        own = [row for row in rows if row.inputs == kind]
        _line(left, [(row.sigma, row.agreement) for row in own], kind)
        _line(right, [(row.sigma, _ahead(row)) for row in own], kind)
    left.set(ylabel="agreement (dB)")
    right.set(ylabel="PSNR, network − formula (dB)")
    for panel in (left, right):
        _noise(panel, rows)
    left.legend(fontsize=7)
    agreement, gain = {}, {}
    for kind in kinds:
        own = [row for row in rows if row.inputs == kind]
        agreement[kind] = f"{statistics.fmean(row.agreement for row in own):.1f} dB on {kind}"
        gain[kind] = f"{statistics.fmean(map(_ahead, own)):+z.1f} dB on {kind}"
    return Finding(
        "unlike",
        "Images unlike the training set",
        f"Networks and formula agree in the mean to {', '.join(agreement.values())} images. The networks are "
        f"nearer to the truth than the formula by {', '.join(gain.values())} images.",
        figure,
    )


def length(rows: Sequence[Row]) -> Finding | None:
    """Show how the agreement rises during a training."""
    curves = _curves([row for row in rows if row.inputs == HELD_OUT])
    if not curves:
        return None
    figure, (axes,) = _figure(1)
    networks = list(dict.fromkeys(network for network, _ in curves))
    for network, points in curves:
        colour = f"C{networks.index(network)}"
        label = network if network not in axes.get_legend_handles_labels()[1] else None
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, linewidth=0.8, label=label)
    axes.set(xlabel="steps", ylabel="agreement, held-out (dB)", xscale="log")
    axes.legend(fontsize=7)
    first = statistics.fmean(points[0][1] for _, points in curves)
    last = statistics.fmean(points[-1][1] for _, points in curves)
    steps = [points[-1][0] for _, points in curves]
    doubled = [
        points[-1][1] - half[1]
        for _, points in curves
        for half in [point for point in points if 2 * point[0] <= points[-1][0]][-1:]
    ]
    late = (
        f" Of that, {statistics.fmean(doubled):.1f} dB in the mean (from {min(doubled):.1f} to "
        f"{max(doubled):.1f} dB) came after the last network with at most half of the steps."
        if doubled
        else ""
    )
    return Finding(
        "length",
        "Length of the training",
        f"Agreement on held-out images, the mean over σ, goes from {first:.1f} dB after "
        f"{curves[0][1][0][0]} steps to {last:.1f} dB after {between(steps)}, at the end of the training."
        f"{late}",
        figure,
    )


def _curves(rows: Sequence[Row]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return, for each training with early networks, its network, and steps with their mean agreement."""
    trainings: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for row in rows:
        versions = trainings.setdefault(_setting(row, "sigma"), {})
        versions.setdefault(row.steps, []).append(row.agreement)
    network = [name for name in SETTING if name != "sigma"].index("network")
    return [
        (setting[network], [(steps, statistics.fmean(of)) for steps, of in sorted(versions.items())])
        for setting, versions in trainings.items()
        if len(versions) > 1
    ]


def _setting(row: Row, *but: str) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in SETTING if name not in but)


def _uneven(row: Row) -> bool:
    """Return whether the noise, and so the scale of the density, differs between pixels."""
    return row.physics.startswith("inpaint") and row.pre_inverse != "identity"


def _ahead(row: Row) -> float:
    """Return by how much the network is nearer to the clean image than the formula, in dB."""
    return row.network_psnr - row.formula_psnr


def _seen(row: Row) -> str:
    return f"{row.physics}, {row.pre_inverse}"


def _pairs(rows: Sequence[Row], one: str, other: str) -> list[tuple[Row, Row]]:
    """Return the pairs of rows that differ only in the images measured."""
    found = {_setting(row, "inputs"): row for row in rows if row.inputs == other}
    return [
        (row, found[_setting(row, "inputs")])
        for row in rows
        if row.inputs == one and _setting(row, "inputs") in found
    ]


def _varied(rows: Sequence[Row], name: str) -> tuple[dict[float, float], int]:
    """Return the mean agreement at each value of a setting, over cases run at all values, and their count."""
    groups: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in rows:
        groups.setdefault(_setting(row, name), {})[getattr(row, name)] = row.agreement
    run = Counter(frozenset(group) for group in groups.values())
    most = max(run, key=lambda values: (len(values), run[values]), default=frozenset())
    full = [group for group in groups.values() if set(group) >= most]
    return {value: statistics.fmean(group[value] for group in full) for value in sorted(most)}, len(full)


def _by_size(rows: Sequence[Row]) -> dict[int, float]:
    """Return the networks' mean gain over the formula in each range of effective sample sizes, by pixels."""
    gains = {}
    for k in range(len(SIZES) - 1):
        found = [known for row in rows if (known := row.by_size[k]) is not None]
        if found:
            shares, network, formula = zip(*found, strict=True)
            gains[k] = statistics.fmean(map(operator.sub, network, formula), shares)
    return gains


def _range(k: int) -> str:
    low, high = SIZES[k], SIZES[k + 1]
    return f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"


def _ends(name: str, means: dict[float, float]) -> str:
    (low, first), *_, (high, last) = means.items()
    return f"{first:.1f} dB at {name} = {low:g} to {last:.1f} dB at {name} = {high:g}"


def _noise(axes: Axes, rows: Sequence[Row]) -> None:
    """Make σ the x axis."""
    axes.set_xlabel("σ")
    _ticks(axes, sorted({row.sigma for row in rows}))


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Mark only the given values, on a logarithmic axis."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    axes.set_xticks([], minor=True)


def _line(axes: Axes, points: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    """Draw the mean of the points at each x."""
    ordered = itertools.groupby(sorted(points), key=lambda point: point[0])
    means = [(x, statistics.fmean(y for _, y in same)) for x, same in ordered]
    axes.plot(*zip(*means, strict=True), marker="o", markersize=3, label=label, **style)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.5 * panels, 3.2), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])
