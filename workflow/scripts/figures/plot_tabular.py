"""Draw how fast samplers converge in the tabular simulation.

Panels show exact gradients as released, exact gradients as the paper's theorems assume, and sampled pairs.
"""

from pathlib import Path

from _program import run
from prefloop.core.csv_files import read_frame
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.methods.tabular import BOUNDS, SAMPLER_LABELS
from prefloop.report.captions import caption, count_of
from prefloop.report.plotting import save_figure
from prefloop.report.tabular_curves import delta_quantiles, draw_convergence, final_deltas, overshooting_seeds


def main(
    *,
    rows: Path,
    figure: Path,
    actions: int,
    beta: float,
    exact_rate: float,
    empirical_rate: float,
    pairs: int,
) -> Summary:
    """Draw |δ| by update: medians over seeds, bands from the 10th to the 90th percentile.

    Args:
        rows: The output of simulate_tabular.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
        actions: Number of actions; this and the following values are for the caption.
        beta: β.
        exact_rate: Learning rate of the exact gradients, as released.
        empirical_rate: Learning rate of sampled pairs.
        pairs: Pairs sampled per update.
    """
    table = read_frame(rows)
    if table.empty:
        raise InputError(f"{rows}: no rows")
    data, samplers = delta_quantiles(table), list(table["sampler"].unique())
    seeds = table.loc[table["mode"] == "normalized", "seed"].nunique()
    lines = "Lines are one seed"
    if seeds > 1:
        lines = f"Lines are medians and bands the 10th to 90th percentile of {seeds} seeds"
    bounded = ", ".join(SAMPLER_LABELS[sampler] for sampler in samplers if sampler in BOUNDS)
    doubled = ", ".join(f"{name} {count}" for name, count in overshooting_seeds(table).items()) or "none"
    text = caption(
        f"Difference |δ| between the rewards and the policy's implicit rewards, by update, for {actions} actions "
        f"and β = {beta:g}; learning rate {exact_rate:g} with exact gradients, {empirical_rate:g} with "
        f"{count_of(pairs, 'sampled pair')}.",
        f"{lines}" + (f"; grey lines are upper bounds of arXiv 2409.19605 for {bounded}." if bounded else "."),
        f"The final median of mean |δ|, as released, is {final_deltas(data, samplers, 'exact')} with exact gradients "
        f"and {final_deltas(data, samplers, 'empirical')} with sampled pairs; number of seeds whose largest |δ| "
        f"more than doubled at first: {doubled}.",
    )
    save_figure(draw_convergence(data, samplers), figure, data, text)
    return Summary(f"{len(samplers)} samplers, {seeds} seeds -> {figure}")


run(main)
