"""Octavo and other servers side by side: same model, same load, one after another, in rounds.

    python benchmarks/compare.py [--scenarios decode:16,32 prefix] [--rounds 3] [--write]
    python benchmarks/compare.py --report build/compare.json --write

Prints tables with ratios to the best peer and keeps all figures in one JSON file. `--write` puts
them into RESULTS.md and docs/performance. Peers are optional: see docs/benchmarking.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from comparison.limits import LimitsError, measure_limits
from comparison.machine import describe_machine, model_size, raise_open_files
from comparison.publish import write_documents
from comparison.report import heading, tables
from comparison.results import MACHINE, Results, Run, Sample, load_results
from comparison.scenarios import NAMES, parse
from comparison.servers import ROOT, Contender, commit_of, find_peers, octavo, parse_octavo
from comparison.session import Session


def parse_args(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--scenarios",
        nargs="+",
        default=["all"],
        metavar="NAME[:N,N]",
        help=f"of {', '.join(NAMES)}; decode:1,16 are numbers of streams, context:128 tokens",
    )
    parser.add_argument(
        "--peer-scenarios",
        nargs="+",
        metavar="NAME[:N,N]",
        help="those of the peers, when fewer; default: as --scenarios, which takes hours",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny loads: does everything work?")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path.home() / "peers",
        metavar="DIR",
        help="where the peers are; default: ~/peers",
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave out servers whose names begin so, such as vllm, 'llama.cpp q8', octavo",
    )
    parser.add_argument(
        "--octavo",
        action="append",
        default=[],
        metavar="'NAME: OPTIONS'",
        help="measure Octavo with these options of octavo serve as well; may be repeated",
    )
    parser.add_argument(
        "--octavo-tree",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="measure the Octavo of another source tree as well; may be repeated",
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=ROOT / "build/compare.json", metavar="FILE")
    parser.add_argument("--logs", type=Path, default=ROOT / "build/compare-logs", metavar="DIR")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing; read FILE")
    parser.add_argument(
        "--write", action="store_true", help="into benchmarks/RESULTS.md and docs/performance"
    )
    args = parser.parse_args(words)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.quick and args.write:
        parser.error("figures of --quick mean nothing and are not written")
    try:
        args.peer_scenarios = parse(args.peer_scenarios or args.scenarios, quick=args.quick)
        args.scenarios = parse(args.scenarios, quick=args.quick)
        args.variants = [parse_octavo(text) for text in args.octavo]
    except ValueError as error:
        parser.error(str(error))
    return args


def contenders(args: argparse.Namespace) -> tuple[list[Contender], list[str]]:
    """Who is measured, and a line for everyone who is not there."""
    found, missing = find_peers(args.peers, args.threads)
    trees = [tree.resolve() for tree in args.octavo_tree]
    ours = [octavo("Octavo"), *args.variants]
    ours += [octavo(f"Octavo at {commit_of(tree)}", tree=tree) for tree in trees]
    skipped = tuple(name.lower() for name in args.skip)
    chosen = [who for who in [*ours, *found] if not who.name.lower().startswith(skipped)]
    missing = [line for line in missing if not line.lower().startswith(skipped)]
    if len({who.name for who in chosen}) < len(chosen):
        sys.exit("two servers have the same name")
    return chosen, missing


def measure(args: argparse.Namespace, words: list[str]) -> Results:
    """All rounds. The file is written after each sample: what was measured is kept."""
    chosen, missing = contenders(args)
    for line in missing:
        print(f"not found: {line}", file=sys.stderr)
    run = Run(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit_of(ROOT),
        machine=describe_machine(),
        command=shlex.join(["python", "benchmarks/compare.py", *words]),
        load_average=os.getloadavg()[0],
        servers={who.name: who.about for who in chosen},
        missing=missing,
    )
    results = Results(run, model_size(), [who.name for who in chosen if who.is_peer])

    def record(sample: Sample) -> None:
        results.samples.append(sample)
        results.save(args.json)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in sample.figures.items())
        print(
            f"round {sample.round + 1}/{args.rounds}  {sample.server}  {sample.scenario}"
            f" {sample.case or ''}: {figures or f'failed, {sample.error}'}",
            file=sys.stderr,
            flush=True,
        )

    try:
        for number in range(args.rounds):
            measure_round(number, chosen, args, record)
    except KeyboardInterrupt:
        print("broken off", file=sys.stderr)
    return results


def measure_round(
    number: int,
    chosen: list[Contender],
    args: argparse.Namespace,
    record: Callable[[Sample], None],
) -> None:
    """The limits, then all servers; in every other round the other way around."""
    try:
        record(Sample(MACHINE, "limits", 0, number, measure_limits()))
    except LimitsError as error:
        record(Sample(MACHINE, "limits", 0, number, error=str(error)))
    for contender in chosen if number % 2 == 0 else reversed(chosen):
        scenarios = args.peer_scenarios if contender.is_peer else args.scenarios
        Session(contender, number, args.logs, record).run(scenarios)


def main(words: list[str]) -> None:
    args = parse_args(words)
    # Ended like Ctrl+C: the servers' processes have to go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.report is not None:
        try:
            results = load_results(args.report)
        except (OSError, ValueError) as error:
            sys.exit(f"cannot read {args.report}: {error}")
    else:
        raise_open_files()
        results = measure(args, words)
    print(f"{heading(results)}\n{tables(results)}", end="")
    if args.write and results.samples:
        for path in write_documents(results, ROOT):
            print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
