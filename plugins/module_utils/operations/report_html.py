# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report for people: one HTML file without anything from elsewhere. Pure: report data in, text out."""

from __future__ import annotations

import sys
from typing import Any

from .errors import OperationsError

_GOOD = ("cut_over", "rolled_back", "finalized", "ok", "go", "changed")


def number(value: Any, digits: int = 0) -> str:
    """A figure with thin spaces between thousands, or a dash when nothing was measured."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def bars(items: list[dict[str, Any]], width: float = 620.0) -> dict[str, Any]:
    """Horizontal bars: x and width in pixels for every item with ``started`` and ``seconds``, and the axis' ticks."""
    end = max((i["started"] + (i["seconds"] or 0) for i in items), default=0.0) or 1.0
    scale = width / end
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600) if end / s <= 8), 7200)
    return {
        "items": [{**i, "x": i["started"] * scale, "w": max((i["seconds"] or 0) * scale, 2.0)} for i in items],
        "ticks": [{"x": k * step * scale, "label": duration(k * step) if k else "0"} for k in range(int(end / step) + 1)],
        "height": 24 * len(items) + 24,
        "width": width,
    }


def curve(series: list[list[float]], stop: list[float] | None, width: float = 820.0, height: float = 120.0) -> dict[str, Any]:
    """Acknowledged writes per second as a polygon; ``series`` is a list of [seconds since start, writes], stop the gap's [from, to]."""
    top = max((y for _unused, y in series), default=0) or 1
    begin, end = (series[0][0], series[-1][0] + 1) if series else (0, 1)
    scale = width / ((end - begin) or 1)
    points = " ".join(f"{(x - begin) * scale:.1f},{height - y / top * (height - 14):.1f}" for x, y in series)
    band = None if not stop else {"x": (stop[0] - begin) * scale, "w": max((stop[1] - stop[0]) * scale, 1.5)}
    return {
        "points": f"0,{height} {points} {width},{height}",
        "top": top,
        "width": width,
        "height": height,
        "band": band,
        "seconds": end - begin,
    }


TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ r.name }}: {{ r.result }}</title>
<style>
:root{--ink:#1c2733;--soft:#607080;--line:#dde3ea;--paper:#fff;--back:#f4f6f9;--good:#14804a;--bad:#c0392b;--mark:#2563a8;--band:#f6c9c4}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#93a3b3;--line:#2d3742;--paper:#171d24;--back:#0f1419;--good:#46c987;
--bad:#ff7b6b;--mark:#6cb0f5;--band:#5b2b28}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0}h2{font-size:17px;margin:34px 0 10px}
.sub{color:var(--soft);margin:2px 0 20px}
.badge{display:inline-block;padding:2px 12px;border-radius:14px;color:#fff;background:var(--bad);font-size:15px;vertical-align:4px;
margin-left:10px}
.badge.good{background:var(--good);color:#fff}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(142px,1fr));gap:12px}
.card{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:22px;line-height:1.3}.card span{color:var(--soft);font-size:13px}
.panel{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:14px;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--soft);font-weight:500}
td,th{padding:4px 10px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:12px;color:var(--soft)}.good{color:var(--good)}
.bad{color:var(--bad)}
svg text{fill:var(--ink);font-size:12px}svg .soft{fill:var(--soft)}summary{cursor:pointer;color:var(--mark)}
</style></head><body><main>
<h1>{{ r.name }}<span class="badge {{ 'good' if r.result in good }}">{{ r.result | replace('_', ' ') }}</span></h1>
<p class="sub">{{ r.started }} to {{ r.ended }} · every number on this page was measured in this run</p>
<div class="cards">
<div class="card"><b>{{ r.write_stop_seconds | duration }}</b><span>writes stopped, freeze to new endpoint</span></div>
<div class="card"><b>{{ (r.client.longest_write_gap_seconds if r.client else none) |
duration }}</b><span>longest gap that a client saw</span></div>
<div class="card"><b class="{{ 'good' if r.client and r.client.lost == 0 else 'bad' if r.client else '' }}">{{ (r.client.lost if r.client
else none) | number }}</b><span>lost of {{ (r.client.acknowledged if r.client else none) | number }} acknowledged writes</span></div>
<div class="card"><b class="{{ 'good' if r.tables and r.tables.verified == r.tables.count else 'bad' }}">{{ (r.tables.verified if r.tables
else none) | number }} / {{ (r.tables.count if r.tables else none) | number }}</b><span>tables equal, {{ (r.tables.rows if r.tables else
none) | number }} rows</span></div>
<div class="card"><b>{{ (r.application.online if r.application else none) | number }} / {{ (r.application.processes if r.application else
none) | number }}</b><span>processes online, {{ (r.application.restarts if r.application else none) | number }} restarts</span></div>
<div class="card"><b>{{ (r.provision.cost_monthly if r.provision else none) | number(2) }} {{ r.provision.currency if r.provision else
'' }}</b><span>a month{% if r.provision and r.provision.cost_before is not none %}, {{ r.provision.cost_before |
number(2) }} before, as declared{% endif %}</span></div>
</div>

<h2>Phases</h2><div class="panel">{% set b = bars(r.phases) %}
<svg width="{{ b.width + 330 }}" height="{{ b.height }}" role="img" aria-label="Timeline of the phases">
{% for t in b.ticks %}<line x1="{{ 160 + t.x }}" x2="{{ 160 + t.x }}" y1="0" y2="{{ b.height - 20 }}" stroke="var(--line)"/>
<text class="soft" x="{{ 160 + t.x }}" y="{{ b.height - 5 }}" text-anchor="middle">{{ t.label }}</text>{% endfor %}
{% for i in b['items'] %}<text x="0" y="{{ loop.index0 * 24 + 16 }}">{{ i.name }}</text>
<rect x="{{ 160 + i.x }}" y="{{ loop.index0 * 24 + 4 }}" width="{{ i.w }}" height="16" rx="3" fill="var({{ '--good' if i.result in good else
'--bad' }})"/><text class="soft" x="{{ 166 + i.x + i.w }}" y="{{ loop.index0 * 24 + 16 }}">{{ i.seconds | duration }}</text>{% endfor %}
</svg>{% for p in r.phases if p.failure %}
<p class="bad">{{ p.name }} failed on {{ p.failure.host }} at <em>{{ p.failure.task }}</em>: {{ p.failure.message }}</p>{% endfor %}</div>

{% if r.write_stop_steps %}<h2>The write stop{% if r.method %} <code>{{ r.method }}</code>{% endif %}</h2>
<div class="panel">{% set b = bars(r.write_stop_steps) %}
<svg width="{{ b.width + 330 }}" height="{{ b.height }}" role="img" aria-label="Steps of the write stop">
{% for t in b.ticks %}<line x1="{{ 160 + t.x }}" x2="{{ 160 + t.x }}" y1="0" y2="{{ b.height - 20 }}" stroke="var(--line)"/>
<text class="soft" x="{{ 160 + t.x }}" y="{{ b.height - 5 }}" text-anchor="middle">{{ t.label }}</text>{% endfor %}
{% for i in b['items'] %}<text x="0" y="{{ loop.index0 * 24 + 16 }}">{{ i.name }}</text>
<rect x="{{ 160 + i.x }}" y="{{ loop.index0 * 24 + 4 }}" width="{{ i.w }}" height="16" rx="3" fill="var({{ '--mark' if i.result in good else
'--bad' }})"/><text class="soft" x="{{ 166 + i.x + i.w }}" y="{{ loop.index0 * 24 + 16 }}">{{ i.seconds | duration }}</text>{% endfor %}
</svg></div>{% endif %}

{% if r.client and r.client.per_second %}<h2>Acknowledged writes per second, as a client saw them</h2>
<div class="panel">{% set c = curve(r.client.per_second, r.client.gap) %}
<svg width="{{ c.width }}" height="{{ c.height + 20 }}" role="img" aria-label="Acknowledged writes per second">
{% if c.band %}<rect x="{{ c.band.x }}" y="0" width="{{ c.band.w }}" height="{{ c.height }}" fill="var(--band)"/>{% endif %}
<polygon points="{{ c.points }}" fill="var(--mark)" fill-opacity=".35" stroke="var(--mark)"/>
<text class="soft" x="4" y="12">{{ c.top | number }} writes/s at most</text><text class="soft" x="{{ c.width }}" y="{{ c.height + 15 }}"
text-anchor="end">{{ c.seconds | duration }}</text></svg>
<p class="sub">{{ r.client.acknowledged | number }} acknowledged, {{ r.client.lost | number }} lost, {{ r.client.doubled |
number }} doubled; {{ r.client.reads | number }} reads, {{ r.client.failed_reads | number }} failed</p></div>{% endif %}

{% if r.critical_tables %}<h2>Critical tables</h2><div class="panel"><table><tr><th>table</th><th class="n">rows</th>
<th class="n">missing</th><th class="n">extra</th><th class="n">changed</th><th>checksum</th></tr>
{% for t in r.critical_tables %}<tr><td class="{{ 'good' if t.verified else 'bad' }}">{{ t.name }}</td>
<td class="n">{{ t.rows | number }}</td><td class="n">{{ t.missing }}</td><td class="n">{{ t.extra }}</td><td class="n">{{ t.changed }}</td>
<td><code>{{ t.checksum }}</code></td></tr>{% endfor %}</table></div>{% endif %}

{% if r.table_list %}<h2>Tables</h2><div class="panel"><details {{ 'open' if r.table_list | length <= 12 or r.tables.verified !=
r.tables.count }}><summary>{{ r.tables.count }} tables, {{ r.tables.rows | number }} rows, {{ r.tables.bytes | size }} copied{% if
r['copy'] %} in {{ r['copy'].seconds | duration }} ({{ r['copy'].mb_per_s | number(1) }} MB/s){% endif %}{% if
r.verification %}, verified in {{ r.verification.seconds | duration }}{% endif %}</summary>
<table><tr><th>table</th><th class="n">rows</th><th class="n">bytes</th><th class="n">missing</th><th class="n">extra</th>
<th class="n">changed</th><th>checksum</th></tr>
{% for t in r.table_list %}<tr><td class="{{ '' if t.verified else 'bad' }}">{{ t.name }}</td><td class="n">{{ t.rows | number }}</td>
<td class="n">{{ t.bytes | size }}</td><td class="n">{{ t.missing }}</td><td class="n">{{ t.extra }}</td><td class="n">{{ t.changed }}</td>
<td><code>{{ t.checksum }}</code></td></tr>{% endfor %}</table></details></div>{% endif %}

{% if r.gates %}<h2>Gates</h2><div class="panel">{% for g in r.gates %}<p><b class="{{ 'good' if g.decision == 'go' else
'bad' }}">{{ g.decision | replace('_', '-') }}</b> {{ g.name }} · by {{ g.by }} · {{ g.at }}</p>
<table>{% for c in g.criteria %}<tr><td class="{{ 'good' if c.holds else 'bad' }}">{{ '✓' if c.holds else '✗' }} {{ c.name }}</td>
<td>{{ c.measured }}</td><td><code>{{ c.wanted }}</code></td><td>{{ c.reason }}</td></tr>{% endfor %}</table>{% endfor %}</div>{% endif %}

{% if r.latencies %}<h2>Probes</h2><div class="panel"><table><tr><th>probe</th><th>phase</th><th>from</th><th class="n">samples</th>
<th class="n">p50 ms</th><th class="n">p95 ms</th><th class="n">max ms</th></tr>
{% for l in r.latencies %}<tr><td class="{{ 'good' if l.result in good else 'bad' }}">{{ l.name }}</td><td>{{ l.phase }}</td>
<td>{{ l.host }}</td><td class="n">{{ l.samples | number }}</td><td class="n">{{ l.p50_ms | number(2) }}</td>
<td class="n">{{ l.p95_ms | number(2) }}</td><td class="n">{{ l.max_ms | number(2) }}</td></tr>{% endfor %}</table></div>{% endif %}

{% if r.provision and r.provision.lines %}<h2>Cost a month</h2><div class="panel"><table>{% for l in r.provision.lines %}<tr>
<td>{{ l.resource }}</td><td>{{ l.item }}</td><td class="n">{{ l.after | float | number(2) }} {{ r.provision.currency }}</td>
</tr>{% endfor %}</table></div>{% endif %}

{% if r.decisions %}<h2>Decisions</h2><div class="panel"><table>{% for d in r.decisions %}<tr><td>{{ d.at }}</td><td>{{ d.name }}</td>
<td>{{ d.result }}</td><td>{{ d.by }}</td></tr>{% endfor %}</table></div>{% endif %}

{% if r.slowest_tasks %}<h2>Slowest tasks</h2><div class="panel"><table>{% for t in r.slowest_tasks %}<tr>
<td class="n">{{ t.seconds | duration }}</td><td>{{ t.host }}</td><td>{{ t.name }}</td></tr>{% endfor %}</table></div>{% endif %}
</main></body></html>
"""


def render(report: dict[str, Any]) -> str:
    """The page for a report as ``report.summarise`` returns it. All text is escaped. Raises OperationsError without Jinja2."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise OperationsError(
            f"the report needs Jinja2, which {sys.executable} does not find", "Install jinja2 for that Python."
        ) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=number, duration=duration, size=size)
    environment.globals.update(bars=bars, curve=curve)
    return environment.from_string(TEMPLATE).render(r=report, good=_GOOD)
