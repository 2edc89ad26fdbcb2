"""The tables of `peers.py`: every engine's figures, and quire's against the best of each kind."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_UP = "start-up s"
Table = list[list[str]]


@dataclass
class Result:
    """What an entry of the table has measured.

    Attributes:
        engine, weights, kind, output, checkpoint, adapter: As in `peers.Entry`.
        version: What the engine says that it is.
        failure: Why it has no figures, or no more of them.
        figures: Per column, one value per round, in tokens per second.
        seconds: Per batch, what each round has measured: of the first tokens, and of all.
        disturbed: Per batch, the share of the CPUs that other processes had in each round.
        start_up: Seconds, one per start.
    """

    engine: str
    weights: str
    kind: str
    output: str
    checkpoint: str
    adapter: str
    version: str = ""
    failure: str | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    disturbed: dict[int, list[float]] = field(default_factory=dict)
    start_up: list[float] = field(default_factory=list)

    def add(
        self, batch: int, num_prompt: int, num_outputs: int, answer: tuple[dict[str, float], float]
    ) -> None:
        """Books a measurement, as defined in `peers.py`, and how much it was disturbed."""
        (first, whole), share = (answer[0]["first"], answer[0]["whole"]), answer[1]
        self.disturbed.setdefault(batch, []).append(share)
        self.seconds.setdefault(batch, []).append((first, whole))
        prefill, decode = batch * num_prompt / first, batch * (num_outputs - 1) / (whole - first)
        self.figures.setdefault(f"prefill b{batch}", []).append(prefill)
        self.figures.setdefault(f"decode b{batch}", []).append(decode)

    def last_round(self) -> str:
        """One line for the terminal."""
        if self.failure:
            return f"{self.engine} {self.weights}: {self.failure}"
        values = ", ".join(f"{name} {rates[-1]:.1f}" for name, rates in self.figures.items())
        others = max(shares[-1] for shares in self.disturbed.values())
        return f"{self.engine} {self.weights}: {values}; others had up to {others:.0%} of the CPUs"

    def median(self, column: str) -> float | None:
        """The median of a column's rounds; None if there is none."""
        values = self.start_up if column == START_UP else self.figures.get(column)
        return statistics.median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the medians beside what they are made of."""
        medians = {column: self.median(column) for column in (*self.figures, START_UP)}
        return {**dataclasses.asdict(self), "medians": medians}


def columns_of(batches: Sequence[int]) -> list[str]:
    """Prefill of the largest and smallest batch, decode of all, and start-up."""
    prefill = dict.fromkeys((f"prefill b{max(batches)}", f"prefill b{min(batches)}"))
    return [*prefill, *(f"decode b{batch}" for batch in batches), START_UP]


def shown(value: float | None) -> str:
    """Three digits, or more before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def figures_table(results: Sequence[Result], columns: Sequence[str]) -> Table:
    """One line per entry that has figures."""
    rows = [["engine", "weights", "output matrix", *columns]]
    for result in results:
        if result.figures:
            name = [result.engine, result.weights, result.output]
            rows.append([*name, *(shown(result.median(column)) for column in columns)])
    return rows


def best_peer(results: Sequence[Result], column: str, kinds: Sequence[str]) -> Result | None:
    """The fastest peer of a column among those with weights of these kinds."""
    sign = -1 if column == START_UP else 1
    peers = [
        (sign * median, index)
        for index, result in enumerate(results)
        if result.engine != "quire" and result.kind in kinds
        if (median := result.median(column)) is not None
    ]
    return results[max(peers)[1]] if peers else None


def ratios_table(results: Sequence[Result], columns: Sequence[str]) -> Table:
    """Per column, the best peers, and how many times as fast as they quire is with each of its formats."""
    groups = {
        "any": ("bf16", "int8", "int4"),
        "INT4": ("int4",),
        "INT8": ("int8",),
        "bf16": ("bf16",),
    }
    ours = [result for result in results if result.engine == "quire" and result.figures]
    rows = [["best peer of", *columns]]
    for group, kinds in groups.items():
        best = [best_peer(results, column, kinds) for column in columns]
        if not any(best):
            continue
        rows.append(
            [f"**{group}**", *(_name_of(peer, column) for peer, column in zip(best, columns, strict=True))]
        )
        for result in ours:
            cells = [_ratio(result, peer, column) for peer, column in zip(best, columns, strict=True)]
            rows.append([f"quire {result.weights} / {group}", *cells])
    return rows


def _name_of(peer: Result | None, column: str) -> str:
    return f"{peer.engine} {peer.weights}: {shown(peer.median(column))}" if peer else ""


def _ratio(ours: Result, peer: Result | None, column: str) -> str:
    """Above 1 where quire is faster, in every column."""
    mine, theirs = ours.median(column), peer.median(column) if peer else None
    if mine is None or theirs is None:
        return ""
    return f"{theirs / mine if column == START_UP else mine / theirs:.2f}"


def render(rows: Table) -> str:
    """A Markdown table, aligned, so that it can be read in a terminal too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text_columns = sum(not cell.startswith(("prefill", "decode", "start")) for cell in rows[0])

    def line(row: Sequence[str], pad: Callable[[str, int], str]) -> str:
        cells = [
            cell.ljust(width) if i < text_columns else pad(cell, width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * width if i < text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(
        [line(rows[0], str.rjust), line(rule, str.rjust), *(line(r, str.rjust) for r in rows[1:])]
    )


def markdown(
    results: Sequence[Result], machine: dict[str, Any], load: dict[str, Any], batches: Sequence[int]
) -> str:
    """The whole report."""
    columns = columns_of(batches)
    worst = max((max(shares) for r in results for shares in r.disturbed.values()), default=0.0)
    versions = {result.engine: result.version for result in results if result.version}
    lines = [
        f"{load['shape']}, random weights, {load['prompt']} tokens in, {load['output']} out, medians of",
        f"{load['rounds']} rounds; {machine['cpu']}, {machine['threads']} threads, {machine['date']}.",
        f"Tokens per second, except for start-up. Other processes had {worst:.0%} of the CPUs at worst.",
        "",
        render(figures_table(results, columns)),
        "",
        "Ratios above 1 are quire's:",
        "",
        render(ratios_table(results, columns)),
        "",
        "Versions: " + "; ".join(f"{engine} {version}" for engine, version in versions.items()) + ".",
    ]
    failures = [f"- {r.engine} {r.weights}: {r.failure}" for r in results if r.failure]
    if failures:
        lines += ["", "Not measured:", "", *failures]
    return "\n".join(lines) + "\n"


def describe_machine(threads: int) -> dict[str, Any]:
    """The CPU, its cores, the threads in use, and the day."""
    fields: dict[str, str] = {}
    cores = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
        cores += name.strip() == "processor"
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    return {
        "cpu": fields.get("model name", "unknown CPU"),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "cores": cores,
        "flags": [flag for flag in known if flag in fields.get("flags", "").split()],
        "threads": threads,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
