"""Plans and reports of `shrink` as one HTML page, which needs nothing but itself.

This module changes when the page is to know something else; how it looks is said in
`kprune/page/shrink.html`.
"""

from kprune.page.render import render as render_page
from kprune.structure.picture import render
from kprune.structure.plan import ShrinkPlan, ShrinkReport


def page(plan: ShrinkPlan, report: ShrinkReport | None = None) -> str:
    """Returns a page with a plan's picture and tables, and a report's proof.

    The same data as JSON is in its element `kprune`.

    Args:
        plan: The plan.
        report: The report on carrying it out, if that is done.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    svg = render(plan, "svg").decode()
    return render_page(
        "shrink.html",
        (plan if report is None else report).to_dict(),
        plan=plan,
        report=report,
        totals=plan.totals,
        picture=svg[svg.index("<svg") :],  # Without what only XML files begin with.
    )
