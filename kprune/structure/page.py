"""Plans and reports of `shrink` as one HTML page, which needs nothing but itself.

This module changes when the page is to show something else.
"""

import json

from kprune.structure.picture import render
from kprune.structure.plan import ShrinkPlan, ShrinkReport

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ plan.model }}: {{ plan.asked }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem;
       padding: 1rem; color: #222; background: #fff; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
figure { margin: 0; background: #fff; border-radius: 6px; min-width: 40rem; }
figure svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #888; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #16181d; } }
</style>
</head>
<body>
<h1>{{ plan.model }}</h1>
<p>{{ plan.asked }}{% if plan.blocks %}; blocks: {{ plan.blocks | join(", ") }}
{%- endif %}</p>
<div class="scroll"><table>
<tr><th></th><th class="number">before</th><th class="number">after</th>
<th class="number">left</th></tr>
{% for name, before, after in totals %}
<tr><td>{{ name }}</td><td class="number">{{ "{:,}".format(before) }}</td>
<td class="number">{{ "{:,}".format(after) }}</td>
<td class="number">{{ "%.3f" | format(after / before) if before else "-" }}</td></tr>
{% endfor %}
</table></div>
{% if report %}
<h2>Proof</h2>
<p>{{ report.proof[0] | upper }}{{ report.proof[1:] }}.</p>
<p>{{ report.optimizer }}</p>
{% endif %}
<h2>Channels that go together, before and after</h2>
<div class="scroll"><figure role="img"
aria-label="Channels of each layer before and after">{{ picture | safe }}</figure></div>
<h2>Groups</h2>
<div class="scroll"><table>
<tr><th>group</th><th class="number">before</th><th class="number">after</th>
<th>layers</th></tr>
{% for group in plan.groups %}
<tr><td>{{ group.name }}</td><td class="number">{{ group.size }}</td>
<td class="number">{{ group.left }}</td><td>{{ group.layers | join(", ") }}</td></tr>
{% endfor %}
</table></div>
{% if plan.refusals %}
<h2>What stays, and why</h2>
<div class="scroll"><table>
<tr><th>channels</th><th class="number">number</th><th>because</th></tr>
{% for item in plan.refusals %}
<tr><td>{{ item.name }}</td><td class="number">{{ item.size or "-" }}</td>
<td>{{ item.reason }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if plan.notes %}
<h2>Notes</h2>
<ul>{% for note in plan.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
<script type="application/json" id="kprune">{{ data | safe }}</script>
</body>
</html>
"""


def page(plan: ShrinkPlan, report: ShrinkReport | None = None) -> str:
    """Returns a page with a plan's picture and tables, and a report's proof.

    The same data as JSON is in its element `kprune`.

    Args:
        plan: The plan.
        report: The report on carrying it out, if that is done.

    Raises:
        ImportError: If matplotlib or Jinja is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "A page needs Jinja, which the extra `report` brings: pip install jinja2"
        ) from error
    svg = render(plan, "svg").decode()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    document = json.dumps((plan if report is None else report).to_dict())
    return environment.from_string(_TEMPLATE).render(
        plan=plan,
        report=report,
        totals=plan.totals,
        picture=svg[svg.index("<svg") :],  # Without what only XML files begin with.
        data=document.replace("<", "\\u003c"),  # No name can end the element.
    )
