"""Draw how fast samplers converge on a table: as released, as the paper's theorems have it, and from sampled pairs."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from _program import run
from prefloop.captions import many
from prefloop.figures import legend_above, look, save
from prefloop.progress import Summary
from prefloop.rows import InputError, read_json
from prefloop.tabular import BOUNDS, LOWER_BOUND_REWARDS, NAMES

MEASURES = {"param_diff": "mean |δ| (units of reward)", "max_diff": "largest |δ| (units of reward)"}
# Title, mode, kind, measure, and the smallest value shown: below it lie rounding and nothing of interest.
PANELS = [
    ("exact gradients, as released", "normalised", "exact", "param_diff", 1e-14),
    ("exact gradients, paper mode", "paper", "exact", "max_diff", 1e-20),
    ("paper mode, lower-bound instance", "lower_bound", "exact", "max_diff", 1e-20),
    ("sampled pairs, as released", "normalised", "empirical", "param_diff", None),
]
# How a bound is named in the picture, at which of its values, and which end of the text is there.
BOUND_LABELS = {
    "unif": ("${.}588^T$", 5e-3, "left"),
    "mix_r": ("${.}5^{2^T-1}$", 1e-11, "right"),
    "mix_p": ("${.}611^{2^T-1}$", 1e-15, "left"),
}

# How a sampler draws a pair: by its z, or as one component of a mixture alone.
WEIGHTS = {
    "unif": "0 for {}, all pairs alike",
    "mix_r": "r_a − r_b for {}, what the rewards say",
    "mix_p": "x_ab for {}, what the policy says",
    "mix_p_star": "the same within plus or minus the largest difference of rewards for {}",
}
COMPONENTS = {
    "mix_1": "component ① of a mixture (weight 2, all pairs alike), alone",
    "mix_r_2": "component ② of Mix-R (weight e^z + e^−z, z = r_a − r_b), alone",
    "mix_p_2": "component ② of Mix-P (weight e^z + e^−z, z = x_ab), alone",
}


def main(
    *,
    rows: Path,
    cost: Path,
    figure: Path,
    actions: int,
    beta: float,
    exact_rate: float,
    empirical_rate: float,
    pairs: int,
) -> Summary:
    """Draw |δ| by update: medians over seeds, bands from the 10th to the 90th percentile.

    Args:
        rows: What `tabular` wrote.
        cost: What it says that took.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
        actions: Actions, for the caption, as are the others.
        beta: β.
        exact_rate: Learning rate of the exact gradients, as released.
        empirical_rate: Learning rate of sampled pairs.
        pairs: Pairs sampled an update.
    """
    table = pd.read_csv(rows)
    if table.empty:
        raise InputError(f"{rows}: no rows")
    data, samplers = quantiles(table), list(table["sampler"].unique())
    picture, panels = plt.subplots(2, 2, figsize=(7.2, 5.6), layout="constrained")
    for axes, (title, mode, kind, measure, least) in zip(panels.flat, PANELS, strict=True):
        part = data[(data["mode"] == mode) & (data["kind"] == kind) & (data["measure"] == measure)]
        for index, sampler in enumerate(samplers):
            draw(axes, part[part["sampler"] == sampler], NAMES[sampler], index)
        axes.set(title=title, ylabel=MEASURES[measure], xlabel="updates", yscale="log", xlim=(0, None))
        if least is not None:
            axes.set_ylim(least, 10)
        if mode == "paper":
            draw_bounds(axes, least, part["step"].max(), samplers)
    legend_above(picture, panels[0][0])
    seeds = table.loc[table["mode"] == "normalised", "seed"].nunique()
    settings = f"{actions} actions, β = {beta:g}, {many(seeds, 'seed')}"
    rates = f"learning rate {exact_rate:g} with exact gradients, {empirical_rate:g} with {pairs:,} sampled pairs"
    lines = "Lines are the one seed's."
    if seeds > 1:
        lines = "Lines are medians over seeds, bands go from the 10th to the 90th percentile of seeds and are no "
        lines += "confidence intervals."
    spent = read_json(cost)
    sentences = [
        "How fast the policy learns the rewards, by which sampler draws the pairs, on one prompt with a table of "
        f"actions: {settings}; {rates}. Of the actions a and b the policy says x_ab = β(log π_a − log π_b), and "
        f"δ_ab = (r_a − r_b) − x_ab is what it still lacks; mean and largest |δ| are over pairs. {drawn(samplers)} "
        f"{lines}\n\n{theorems(samplers)}",
        *found(data, samplers, overshoots(table)),
        f"Cost of the simulation: {spent['seconds']:,.0f} seconds for {spent['updates']:,} updates.",
    ]
    save(picture, figure, data, " ".join(sentence for sentence in sentences if sentence))
    return Summary(f"{len(samplers)} samplers, {seeds} seeds -> {figure}")


def quantiles(table: pd.DataFrame) -> pd.DataFrame:
    """Median, 10th and 90th percentile over seeds of |δ|, by mode, kind, sampler, measure and step."""
    keys = ["mode", "kind", "sampler", "step"]
    long = table.melt(id_vars=[*keys, "seed"], value_vars=list(MEASURES), var_name="measure", value_name="size")
    groups = long.groupby([*keys[:3], "measure", "step"])["size"]
    found = groups.quantile([0.1, 0.5, 0.9]).unstack().rename(columns={0.1: "low", 0.5: "median", 0.9: "high"})
    return found.assign(seeds=groups.size()).reset_index()


def draw(axes, part: pd.DataFrame, label: str, index: int) -> None:
    """One sampler's median and band; markers at places of its own, so that lines that coincide are all seen."""
    style, spacing = look(index), max(1, len(part) // 7)
    axes.plot(part["step"], part["median"], label=label, markersize=3.5, markevery=(index % spacing, spacing), **style)
    axes.fill_between(part["step"], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0)


def draw_bounds(axes, least: float, last: int, samplers: list[str]) -> None:
    """The paper's upper bounds for these samplers as thin grey lines, each named where no other line is near."""
    updates = np.linspace(0, last, 400)
    for sampler in (name for name in BOUND_LABELS if name in samplers):
        label, depth, side = BOUND_LABELS[sampler]
        values = BOUNDS[sampler](updates)
        axes.plot(updates[values > least], values[values > least], color="0.45", linewidth=0.8)
        place = np.flatnonzero(values > depth)[-1]
        style = {"ha": side, "fontsize": 7.5, "color": "0.3", "textcoords": "offset points"}
        axes.annotate(label, (updates[place], values[place]), (4 if side == "left" else -4, 3), **style)


def overshoots(table: pd.DataFrame) -> dict[str, int]:
    """In how many seeds the exact, released update ever doubled the largest |δ| it started with, by sampler."""
    part = table[(table["mode"] == "normalised") & (table["kind"] == "exact")]
    largest = part.groupby(["sampler", "seed"], sort=False)["max_diff"].agg(["first", "max"])
    doubled = (largest["max"] > 2 * largest["first"]).groupby("sampler", sort=False).sum()
    return {NAMES[sampler]: int(count) for sampler, count in doubled.items() if count}


def drawn(samplers: list[str]) -> str:
    """How these samplers draw their pairs."""
    weights = [WEIGHTS[name].format(NAMES[name]) for name in samplers if name in WEIGHTS]
    told = [f"A pair is drawn with a weight of 2 + e^z + e^−z, z being {'; '.join(weights)}."] if weights else []
    return " ".join([*told, *(f"{NAMES[name]} is {COMPONENTS[name]}." for name in samplers if name in COMPONENTS)])


def theorems(samplers: list[str]) -> str:
    """What paper mode and its instance are, and what the theorems say of these samplers there."""
    told = "Paper mode is what the theorems (arXiv 2409.19605) suppose: pair weights not normalised, learning rate "
    told += "1/(β²A), rewards scaled to [0, 1]."
    if bounded := [sampler for sampler in samplers if sampler in BOUNDS]:
        told += f" Thin grey lines are their upper bounds for {', '.join(NAMES[sampler] for sampler in bounded)}"
        told += ", quadratic (each update squares the error) but for Unif." if bounded != ["unif"] else ", linear."
    instance = ", ".join(f"{reward:.3g}" for reward in LOWER_BOUND_REWARDS)
    told += f" The lower-bound instance has three actions of reward {instance} and no seeds"
    return told + ("; on it, they say, uniform sampling stays linear." if "unif" in samplers else ".")


def found(data: pd.DataFrame, samplers: list[str], doubled: dict[str, int]) -> list[str]:
    """Where the released updates ended, and where they went astray, as sentences."""
    told = ["As released, weights sum to 1 and rewards have any size."]
    if set(samplers) & {"mix_r", "mix_p", "mix_p_star"}:
        told.append(
            "There each update leaves a share of the error, a small one for mixtures, so that convergence is linear; "
            "quadratic convergence is visible in paper mode only."
        )
    for kind, gradients in {"exact": "exact gradients", "empirical": "sampled pairs"}.items():
        part = data[(data["mode"] == "normalised") & (data["kind"] == kind) & (data["measure"] == "param_diff")]
        ends = part[part["step"] == part["step"].max()].set_index("sampler")["median"]
        each = ", ".join(f"{NAMES[sampler]} {ends[sampler]:.2g}" for sampler in samplers)
        told.append(f"The median seed's mean |δ| after {part['step'].max():,} updates with {gradients}: {each}.")
    astray = ", ".join(f"{name} {count}" for name, count in doubled.items()) or "none"
    told.append(
        f"Seeds in which, with exact gradients, the largest |δ| first grew to more than twice its start: {astray}."
    )
    return told


run(main)
