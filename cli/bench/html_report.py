"""A load test as one HTML page with pictures, which loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .console import headlines, remarks, rows
from .load import LoadRun
from .metrics import Latencies, Summary
from .svg import Line, line_chart

MAX_POINTS = 400
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2329; --paper: #fff; --grid: #d8dde2; --faint: #5b6670;
  --c0: #0b62a8; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181c; --grid: #343c44;
  --faint: #9aa5af; --c0: #6cb6f5; --c1: #fb923c; --c2: #4ade80; --c3: #c084fc; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin: 0 0 .3rem; }
p.about { color: var(--faint); margin-top: .2rem; }
.pictures { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 11px; }
svg .label { fill: var(--ink); } .grid { stroke: var(--grid); stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; } .c0 { stroke: var(--c0); }
.c1 { stroke: var(--c1); stroke-dasharray: 7 3; } .c2 { stroke: var(--c2); stroke-dasharray: 2 2; }
.c3 { stroke: var(--c3); stroke-dasharray: 9 3 2 3; }
table { border-collapse: collapse; margin: 1rem 0; } th { text-align: left; font-weight: 600; }
td, th { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--grid); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.value { overflow-wrap: anywhere; } summary { cursor: pointer; font-weight: 600; }
"""


def html_report(document: dict[str, Any], summary: Summary, run: LoadRun) -> str:
    """The page.

    Args:
        document: The report as JSON has it: settings, machine and versions are shown.
        summary: The figures.
        run: The samples behind them.
    """
    settings = document["settings"]
    title = f"{settings.get('model', '')} at {settings.get('base_url', '')}"
    table = [(name, each.mean, each.p50, each.p90, each.p99, each.max) for name, each in rows(summary)]
    figures = "\n".join(
        f"<figure><h2>{escape(name)}</h2>{svg}</figure>" for name, svg in _pictures(summary, run)
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">quire bench serve, {escape(document["date"])}</p>',
        _facts([tuple(line.split(maxsplit=1)) for line in headlines(summary)]),
        *(f"<p>{escape(line)}</p>" for line in remarks(summary)),
        _table(["milliseconds", "mean", "p50", "p90", "p99", "max"], table),
        _errors(summary),
        f'<div class="pictures">{figures}</div>',
        *(
            f"<details><summary>{name.capitalize()}</summary>{_facts(list(document[name].items()))}</details>"
            for name in ("settings", "machine", "versions")
        ),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def cumulative(seconds: Sequence[float]) -> list[tuple[float, float]]:
    """The share of samples, in percent, that are not above each value in milliseconds.

    All samples if they are few, and otherwise some hundred quantiles of them, both ends included.
    """
    values = sorted(seconds)
    last = len(values) - 1
    num = min(len(values), MAX_POINTS)
    chosen = sorted({round(index * last / max(1, num - 1)) for index in range(num)})
    return [(values[index] * 1e3, 100.0 * (index + 1) / len(values)) for index in chosen]


def _pictures(summary: Summary, run: LoadRun) -> list[tuple[str, str]]:
    latencies = Latencies.of(run.samples)
    gaps = latencies.itl_chunks if latencies.itl_tokens is None else latencies.itl_tokens
    between = "between chunks" if latencies.itl_tokens is None else "between tokens"
    time = summary.timeline
    middles = [(index + 0.5) * time.bin_seconds for index in range(len(time.concurrency))]

    def shares(title: str, *lines: tuple[str, list[float]]) -> tuple[str, str]:
        drawn = [Line(name, cumulative(values)) for name, values in lines if values]
        svg = line_chart(
            title, drawn, x_label="milliseconds", y_label="% of samples", y_max=100.0, logarithmic=True
        )
        return title, svg

    def over_time(title: str, values: Sequence[float], label: str) -> tuple[str, str]:
        line = Line(title, list(zip(middles, values, strict=True)))
        return title, line_chart(title, [line], x_label="seconds", y_label=label)

    pictures = [
        shares("Time to first token", ("time to first token", latencies.ttft)),
        shares("Time of a token", ("time per output token", latencies.tpot), (between, gaps)),
        shares("End to end", ("end to end", latencies.e2e)),
        over_time("Output tokens over time", time.output_tokens_per_second, "tokens/s"),
        over_time("Requests at once over time", time.concurrency, "requests"),
        over_time("Answered requests over time", time.finished_per_second, "requests/s"),
    ]
    return [(name, svg) for name, svg in pictures if svg]


def _table(header: Sequence[str], lines: Sequence[Sequence[str | float]]) -> str:
    if not lines:
        return ""
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in header[1:])
    body = "".join(
        "<tr>"
        f"<td>{escape(str(line[0]))}</td>"
        + "".join(f'<td class="n">{value:.2f}</td>' for value in line[1:])
        + "</tr>"
        for line in lines
    )
    return f"<table><tr><th>{escape(header[0])}</th>{head}</tr>{body}</table>"


def _errors(summary: Summary) -> str:
    if not summary.errors:
        return ""
    body = "".join(
        f'<tr><td>{escape(kind)}</td><td class="n">{count}</td>'
        f'<td class="value">{escape(summary.error_examples[kind])}</td></tr>'
        for kind, count in summary.errors.items()
    )
    return f'<table><tr><th>failure</th><th class="n">requests</th><th>for example</th></tr>{body}</table>'


def _facts(facts: Sequence[tuple[Any, ...]]) -> str:
    body = "".join(
        f"<tr><th>{escape(str(name).replace('_', ' '))}</th>"
        f'<td class="value">{escape("-" if value is None else str(value))}</td></tr>'
        for name, value in facts
    )
    return f"<table>{body}</table>"
