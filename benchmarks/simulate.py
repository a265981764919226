"""Every strategy in simulated time, LiteLLM's rules beside ours, from the same arrivals; one table a scenario.

Run with `python -m benchmarks.simulate [--seconds 60] [--rate 40] [scenario …]`.
"""

from __future__ import annotations

import argparse

from benchmarks.report import Report
from fast_router.simulation import Fault, ServerSpec, World, simulate

CONTENDERS = (
    "LiteLLM simple-shuffle",
    "LiteLLM least-busy",
    "LiteLLM latency-based-routing",
    "simple_shuffle",
    "round_robin",
    "least_busy",
    "latency_based",
    "power_of_two",
    "peak_ewma",
    "session_affinity",
)


def _fleet(*faults: Fault) -> list[ServerSpec]:
    """Four equal servers, the last of them with faults."""
    return [ServerSpec(f"s{n}", faults=faults if n == 3 else ()) for n in range(4)]


SCENARIOS: dict[str, tuple[str, list[ServerSpec]]] = {
    "equal": ("four equal servers", _fleet()),
    "slow": ("one of four ten times slower", _fleet(Fault("slow"))),
    "flaky": ("one of four fails 30 % of its requests", _fleet(Fault("error", share=0.3))),
    "throttled": ("one of four answers 429, Retry-After 5", _fleet(Fault("throttle", retry_after=5))),
    "hanging": ("one of four hangs from second 10 to 40", _fleet(Fault("hang", 10, 40))),
    "restarting": ("one of four is down from second 10 to 30", _fleet(Fault("down", 10, 30))),
}
_BARS = "▁▂▃▄▅▆▇█"


def spark(values: list[float]) -> str:
    """Draw values as a line of bars; the tallest is the largest."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int(v / top * (len(_BARS) - 1) + 0.5))] for v in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    columns = [
        "scenario",
        "strategy",
        "p50 s",
        "p99 s",
        "errors",
        "attempts a request",
        "wasted",
        "shares %",
        "worst a second",
    ]
    report = Report(
        "simulate",
        "Simulated fleets of four (service time 0.5 s, log-normal)",
        columns,
        ["The same arrivals and service times for everybody. LiteLLM's rows follow a model of its documented rules."],
    )
    for key in arguments.scenarios or SCENARIOS:
        title, servers = SCENARIOS[key]
        world = World(servers, rate=arguments.rate, seconds=arguments.seconds, seed=arguments.seed)
        for outcome in simulate(world, CONTENDERS):
            worst = [seconds for seconds, _ in outcome.timeline]
            width = max(1, len(worst) // 20)
            report.add(
                title if outcome.name == CONTENDERS[0] else "",
                outcome.name,
                round(outcome.percentile(0.5), 3),
                round(outcome.percentile(0.99), 3),
                outcome.errors,
                round(outcome.amplification, 3),
                sum(outcome.wasted.values()),
                "/".join(f"{100 * share:.0f}" for share in outcome.shares().values()),
                spark([max(worst[i : i + width]) for i in range(0, len(worst), width)]),
            )
    report.finish()


if __name__ == "__main__":
    main()
