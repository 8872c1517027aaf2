"""The explorer's charts as Vega-Lite specifications, made by Altair; the page fills in the rows that are chosen."""

from typing import Any

import altair as alt

from deepnet.claims.verdicts import VERDICTS
from deepnet.figures.looks import BLUE, ORANGE, PALETTE, VERMILLION

Layered = alt.LayerChart | alt.FacetChart  # what alt.layer says that it returns
FONT = 12
ROWS = alt.Data(name="rows")  # given by the page
VERDICT_COLOURS = alt.Scale(domain=list(VERDICTS[:4]), range=[BLUE, VERMILLION, "#8a8a8a", "#d9d9d9"])


def charts() -> dict[str, dict[str, Any]]:
    """The specification of each chart by the id of its place in the page."""
    made = {
        "curves": curves_chart(), "map": map_chart(), "layers": layers_chart(),
        "specification": specification_chart(), "choices": choices_chart(),
    }  # fmt: skip
    return {place: _finished(chart) for place, chart in made.items()}


def _finished(chart: alt.Chart | Layered) -> dict[str, Any]:
    spec = (
        chart.properties(width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure_axis(labelFontSize=FONT, titleFontSize=FONT, titleFontWeight="normal", grid=True)
        .configure_legend(orient="top", labelFontSize=FONT, title=None, columns=2, symbolStrokeWidth=3)
        .configure_view(strokeWidth=0)
        .to_dict()
    )
    # the version is given by what is inlined, and the page names no address
    return {key: value for key, value in spec.items() if key != "$schema"}


def curves_chart() -> Layered:
    """One metric over training, a line per run, profile and seed; a point that is hovered says which run it is of."""
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:Q", title="epoch"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("run:N", sort=None, scale=alt.Scale(range=list(PALETTE))),
        strokeDash=alt.StrokeDash("profile:N", sort=["paper", "cpu", "sample"], legend=None),
        detail=["seed:N"],
    )
    told = [f"{key}:N" for key in ("run", "profile", "seed", "x", "value", "commit", "verify")]
    # not the nearest point, since Vega-Lite 6 then reads the tooltip off the Voronoi cell, which has no such fields
    hovered = alt.selection_point(name="hovered", on="pointerover", clear="pointerout", empty=False)
    opacity = alt.condition(hovered, alt.value(1), alt.value(0))
    points = base.mark_circle(size=150).encode(tooltip=told, opacity=opacity)
    return alt.layer(base.mark_line(strokeWidth=1.5, clip=True), points.add_params(hovered)).properties(height=300)


def map_chart() -> Layered:
    """A quantity by layer and epoch of one run, with the chosen epoch marked."""
    base, axis = alt.Chart(ROWS), alt.Axis(labelOverlap=True, grid=False)
    cells = base.mark_rect().encode(
        x=alt.X("epoch:O", title="epoch", axis=alt.Axis(labelOverlap=True, labelAngle=0, grid=False)),
        y=alt.Y("layer:O", title="weight layer, from the input up", sort="descending", axis=axis),
        color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(gradientLength=200)),
        tooltip=["epoch:Q", "layer:Q", "value:Q"],
    )
    chosen = base.mark_rect(fill=None, stroke=VERMILLION, strokeWidth=2).encode(x="epoch:O")
    return alt.layer(cells, chosen).properties(height=300)


def layers_chart() -> alt.Chart:
    """A quantity by layer at the chosen epoch."""
    return (
        alt.Chart(ROWS)
        .mark_line(point=True, color=BLUE)
        .encode(
            x=alt.X("layer:Q", title="weight layer, from the input on", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=None),
            tooltip=["layer:Q", "value:Q"],
        )
        .properties(height=220)
    )


CHOICES = ("epochs", "margin", "level", "seed left out")
AXIS = alt.Axis(minExtent=140, maxExtent=140, labelLimit=138)  # so that the two charts stand above each other
RANK = alt.X("rank:O", axis=None)


def specification_chart() -> Layered:
    """The effect and interval of one part of a claim in every setting, in the order of the effect.

    A square marks the registered setting, a ring the one that is chosen.
    """
    low, effect = (alt.Y(f"{end}:Q", title=None, axis=AXIS, scale=alt.Scale(zero=False)) for end in ("low", "effect"))
    told = [f"{key}:N" for key in ("verdict", "effect", "low", "high", *CHOICES)]
    base = alt.Chart(ROWS).encode(x=RANK, color=alt.Color("verdict:N", scale=VERDICT_COLOURS))
    marks = [
        base.transform_filter(f"datum.{which}")
        .mark_point(shape=shape, size=200, strokeWidth=2.5, filled=False)
        .encode(y=effect, color=alt.value(colour))
        for which, shape, colour in (("registered", "square", "#000000"), ("chosen", "circle", ORANGE))
    ]
    interval = base.mark_rule().encode(y=low, y2="high:Q")
    point = base.mark_circle(size=30, opacity=1).encode(y=effect, tooltip=told)
    return alt.layer(interval, point, *marks).properties(height=220)


def choices_chart() -> alt.Chart:
    """Which choices each setting of the specification curve is made of; the colour is the claim's verdict in it."""
    return (
        alt.Chart(ROWS)
        .transform_fold(list(CHOICES), as_=["what", "which"])
        .transform_calculate(choice="datum.what + ': ' + datum.which")
        .mark_tick(thickness=3, height=9)
        .encode(
            x=RANK,
            y=alt.Y("choice:N", title=None, axis=AXIS),
            color=alt.Color("claim:N", scale=VERDICT_COLOURS, legend=None),
            tooltip=["claim:N", *(f"{choice}:N" for choice in CHOICES)],
        )
    )
