"""The tables that ``sdn-triton bench run`` shows; they are made from what is in the JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..measuring.intervals import Estimate, Interval, median_interval, ratio_samples
from ..terminal import BAD, FAINT, GOOD, Table, error_size, mebibytes, milliseconds, ratio

COLUMNS = (
    "provider",
    "ms",
    "95 %\nms",
    "\n/floor",
    "against the\nfastest baseline",
    "GB/s",
    "of\ncopy",
    "GFLOP/s",
    "of\nproduct",
    "MiB",
    "error\n/bound",
)
SUMMARY = ("case", "/floor", "fastest\nbaseline", "against\nit", "95 %", "verdict")


class Against(NamedTuple):
    """A provider beside the fastest baseline of its case: its name, and how many times as fast the provider is.

    ``interval`` is that of the ratio, round by round. The verdict asks for more: that the two medians' own intervals
    have nothing in common.
    """

    baseline: str
    speedup: float
    interval: Interval
    verdict: str


def timed(case: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results that have times."""
    return {name: result for name, result in case["results"].items() if result["status"] == "ok"}


def fastest_baseline(content: Mapping[str, Any], case: Mapping[str, Any]) -> str | None:
    """The fastest other way to the same result; None if none was timed."""
    roles = content["providers"]
    rivals = {name: r["median_ms"] for name, r in timed(case).items() if roles[name]["role"] == "baseline"}
    return min(rivals, key=lambda name: rivals[name]) if rivals else None


def floor_of(content: Mapping[str, Any], case: Mapping[str, Any]) -> str | None:
    """The first floor that was timed."""
    return next((name for name in timed(case) if content["providers"][name]["role"] == "floor"), None)


def relative(case: Mapping[str, Any], over: str, under: str) -> Estimate:
    """The time of one provider in times of another's: of the medians, and the interval of the ratio in each round.

    Rounds that were not measured in turns cannot be set beside each other: there the interval is as wide as the ends
    of the two medians' intervals allow.
    """
    a, b = (case["results"][name] for name in (over, under))
    samples = a["samples_ms"], b["samples_ms"]
    if len(samples[0]) == len(samples[1]):
        interval = median_interval(ratio_samples(*samples))
    else:
        ends = [median_interval(values) for values in samples]
        interval = Interval(ends[0].low / ends[1].high, ends[0].high / ends[1].low)
    return Estimate(a["median_ms"] / b["median_ms"], interval)


def verdict(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether one result is "faster" or "slower" than another; "undecided" where their intervals overlap."""
    if own["interval_ms"] is None or other["interval_ms"] is None:
        return "undecided"
    if not Interval(*own["interval_ms"]).is_apart_from(Interval(*other["interval_ms"])):
        return "undecided"
    return "faster" if own["median_ms"] < other["median_ms"] else "slower"


def against(content: Mapping[str, Any], case: Mapping[str, Any], name: str) -> Against | None:
    """One of the library's own providers beside the fastest baseline; nothing else has a speed-up."""
    baseline = fastest_baseline(content, case)
    if baseline is None or name not in timed(case) or content["providers"][name]["role"] != "ours":
        return None
    results = case["results"]
    return Against(baseline, *relative(case, baseline, name), verdict(results[name], results[baseline]))


def legend(content: Mapping[str, Any]) -> list[str]:
    """What runs where, and how to read the tables."""
    environment = content["environment"]
    device, git = environment["device"], environment["git"]
    threads = f", {device['threads']} thread(s)" if "threads" in device else f", driver {device['driver']}"
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "triton", "python") if environment[name])
    revision = f", revision {git['revision'][:10]}{' (changed)' if git['dirty'] else ''}" if git["revision"] else ""
    lines = [f"{device['name']}{threads}; {versions}{revision}"]
    load, cores = (environment["load"] or [0.0])[0], device.get("cores")
    if cores and load > 0.5 * cores:
        lines.append(f"This machine is busy with other work (load {load:.1f} on {cores} cores): times will vary.")
    lines += ["", *(f"{name} ({p['role']}): {p['title']}" for name, p in content["providers"].items()), ""]
    return [
        *lines,
        "ms: median, and the interval that holds the true median at 95 %. /floor: over the time of the vanilla",
        "convolution. GB/s, GFLOP/s: the least traffic and the products of the operator over the time, beside it in",
        "shares of what a copy and a matrix product reach here. MiB: peak memory beyond inputs and weights.",
        "error/bound: the largest error against float64 in sizes of what is allowed.",
        "",
    ]


def case_table(content: Mapping[str, Any], case: Mapping[str, Any], told: set[str] | None = None) -> Table:
    """One row a provider; what has no time has a note that says why, unless that was ``told`` before."""
    told = set() if told is None else told
    table = Table(case["id"], COLUMNS)
    floor, roofs = floor_of(content, case), content["roofs"]
    reasons: dict[str, list[str]] = {}
    for name, result in case["results"].items():
        if result["status"] != "ok":
            label = result["status"].upper() if result["status"] in ("refused", "failed") else result["status"]
            reasons.setdefault(f"{label}: {result['why']}", []).append(name)
            if label.isupper():
                table.add([name, label, *[""] * 8, _error(result)], BAD)
            continue
        seconds = result["median_ms"] / 1e3
        rates = case["bytes"] / seconds, case["flop"] / seconds
        product = roofs["matmul_by_dtype"][case["dtype"]]
        own = against(content, case, name)
        table.add(
            [
                name,
                milliseconds(seconds),
                "-".join(milliseconds(limit / 1e3) for limit in result["interval_ms"] or ()),
                ratio(relative(case, name, floor).median) if floor else "",
                _verdict(own),
                f"{rates[0] / 1e9:.3g}",
                f"{rates[0] / roofs['copy_bytes_per_s']:.0%}",
                f"{rates[1] / 1e9:.3g}",
                f"{rates[1] / product:.0%}",
                mebibytes(result["peak_bytes"]),
                _error(result),
            ],
            {"faster": GOOD, "slower": BAD}.get(own.verdict, "") if own else "",
        )
    notes = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    table.notes += [note for note in notes if note not in told]
    told.update(note for note in notes if "unavailable" in note)
    if not table.rows:
        return Table(case["id"], COLUMNS[:1], notes=table.notes)
    return table.without_empty_columns()


def _error(result: Mapping[str, Any]) -> str:
    return "" if result["error"] is None else error_size(result["error"])


def _verdict(own: Against | None) -> str:
    if own is None:
        return ""
    if own.verdict == "undecided":
        return f"undecided: {own.baseline}"
    return f"{ratio(max(own.speedup, 1 / own.speedup))} {own.verdict} than {own.baseline}"


def summary_tables(content: Mapping[str, Any]) -> list[Table]:
    """For each of the library's own providers all cases, won and lost, the best first."""
    ours = [name for name, provider in content["providers"].items() if provider["role"] == "ours"]
    tables = [_summary(content, name) for name in ours]
    return [table for table in tables if table.rows]


def _summary(content: Mapping[str, Any], name: str) -> Table:
    table = Table(f"{name} beside the floor and the fastest baseline", SUMMARY)
    found = [(case, own) for case in content["cases"] if (own := against(content, case, name)) is not None]
    found.sort(key=lambda pair: -pair[1].speedup)
    for case, own in found:
        floor = floor_of(content, case)
        low, high = own.interval
        table.add(
            [
                case["id"],
                ratio(relative(case, name, floor).median) if floor else "",
                own.baseline,
                ratio(own.speedup),
                f"{low:.2f}-{high:.2f}",
                own.verdict,
            ],
            {"faster": GOOD, "slower": BAD}.get(own.verdict, FAINT),
        )
    verdicts = [own.verdict for _, own in found]
    counts = ", ".join(f"{word} in {verdicts.count(word)}" for word in ("faster", "slower", "undecided"))
    table.notes.append(f"{len(found)} cases: {counts}. Against it: times as fast as the fastest baseline.")
    return table
