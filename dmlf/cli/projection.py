"""The verb that projects: what a model would reach on other hosts and networks."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmlf.benchmark.projection import (
    Request,
    Row,
    contestants,
    make_projection,
    project,
    sensitivities,
    write_projection,
)
from dmlf.benchmark.projection.model import (
    Tensor,
    even_tensors,
    make_workload,
    mlp_tensors,
    read_tensors,
)
from dmlf.benchmark.projection.profiles import (
    LOCAL,
    OVERHEAD_S,
    PROFILES,
    REDUCTION_BYTES_PER_S,
    calibrated,
)
from dmlf.benchmark.projection.rows import SCALINGS, contestant_label
from dmlf.cli.training import check_writable
from dmlf.config import REDUCTIONS, RunConfig
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.simulation.timed import Cluster, Link, Straggling, Workload

_WORLD_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16_384, 100_000]


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "project",
        help="project throughput and efficiency to other networks and to as many as 100,000 ranks",
        description="Drive the protocols in virtual time under a model of links, ports and "
        "computation, and print for each world size the throughput, the efficiency, the "
        "communication that is not hidden, and the resource that a step waits for. Up to "
        "--simulate-up-to ranks (at most 1024) the protocols themselves are simulated; beyond, "
        "closed forms that were checked against the simulator are used. docs/projection.md says "
        "what is modelled and what is not.",
    )
    _add_model(parser.add_argument_group("the model"))
    _add_machine(parser.add_argument_group("hosts and network"))
    _add_run(parser.add_argument_group("the run"))
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all of it as JSON")
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FOLDER",
        help="draw efficiency over world size, and its sensitivity to straggling and bucket size",
    )
    parser.set_defaults(run=_project)


def _add_model(group: Any) -> None:
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--parameters", type=int, metavar="N", help="number of parameters")
    source.add_argument(
        "--tensors",
        type=Path,
        metavar="FILE",
        help='JSON list of {"name", "numel" or "shape", "backward_s"}, in the order of forward',
    )
    source.add_argument("--model", choices=["mlp"], help="a multi-layer perceptron, by its sizes")
    group.add_argument(
        "--hidden-sizes", type=int, nargs="*", metavar="N", help="of the mlp (default: 512 512)"
    )
    group.add_argument("--input-size", type=int, metavar="N", help="of the mlp (default: 784)")
    group.add_argument("--num-classes", type=int, metavar="N", help="of the mlp (default: 10)")
    group.add_argument(
        "--compute-s",
        type=float,
        required=True,
        metavar="SECONDS",
        help="forward, backward and optimizer of one step on one rank",
    )
    group.add_argument(
        "--samples-per-rank", type=int, default=1, metavar="N", help="samples of that step"
    )


def _add_machine(group: Any) -> None:
    names = "; ".join(f"{name}: {profile.text}" for name, profile in PROFILES.items())
    group.add_argument(
        "--link", choices=list(PROFILES), default="ethernet-10g", help=f"between hosts. {names}"
    )
    for flag, text in (
        ("--latency-s", "of the link, instead of the profile's"),
        ("--bandwidth-bits-per-s", "of each host's port, each way, instead of the profile's"),
        ("--server-bandwidth-bits-per-s", "of a server's port (default: as any other)"),
        ("--local-latency-s", f"between two ranks of a host (default: {LOCAL.latency_s:g})"),
        (
            "--local-bandwidth-bits-per-s",
            f"between two ranks of a host (default: {LOCAL.bandwidth_bits_per_s:g})",
        ),
    ):
        group.add_argument(flag, type=float, metavar="X", help=text)
    for flag, value, text in (
        ("--overhead-s", OVERHEAD_S, "CPU time of a message, at each end"),
        ("--reduction-bytes-per-s", REDUCTION_BYTES_PER_S, "partial sums that a rank can add"),
    ):
        group.add_argument(flag, type=float, default=value, metavar="X", help=text)
    group.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="take links within hosts (from shm) and the link `loopback` (from tcp) from a record "
        "of `dmlf collective` made on this machine",
    )
    group.add_argument(
        "--ranks-per-host", type=int, default=1, metavar="N", help="which share the host's port"
    )
    group.add_argument(
        "--straggling-sigma",
        type=float,
        default=0.0,
        metavar="X",
        help="computation varies by a lognormal factor of this sigma, by rank and step",
    )
    group.add_argument(
        "--slow-ranks", type=int, default=0, metavar="N", help="ranks that are always slow"
    )
    group.add_argument(
        "--slow-factor", type=float, default=2.0, metavar="X", help="how slow these are"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the straggling")


def _add_run(group: Any) -> None:
    group.add_argument(
        "--algorithms",
        nargs="+",
        default=["ring", "parameter_server"],
        metavar="NAME",
        help=f"of {', '.join(registry())}",
    )
    group.add_argument(
        "--num-servers", type=int, nargs="+", default=[1, 8], metavar="N", help="one or several"
    )
    group.add_argument(
        "--world-sizes",
        type=int,
        nargs="+",
        default=_WORLD_SIZES,
        metavar="N",
        help="numbers of ranks",
    )
    group.add_argument(
        "--scaling",
        nargs="+",
        choices=SCALINGS,
        default=list(SCALINGS),
        help="weak: every rank computes --compute-s; strong: the ranks share it",
    )
    group.add_argument(
        "--bucket-cap-bytes",
        type=int,
        default=RunConfig().bucket_cap_bytes,
        metavar="N",
        help="gradients are synchronised in buckets of at most this many bytes",
    )
    group.add_argument(
        "--overlap",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="synchronise each bucket while backward still computes the next ones",
    )
    group.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        default="float32",
        help="how gradients are added, and so the bytes that travel",
    )
    group.add_argument(
        "--simulate-up-to",
        type=int,
        default=256,
        metavar="N",
        help="ranks up to which the protocol itself is simulated, at most 1024; closed forms "
        "beyond, and where a simulation would take minutes",
    )


def _project(parsed: argparse.Namespace) -> int:
    check_writable(parsed.output)
    for flag in ("--hidden-sizes", "--input-size", "--num-classes"):
        value = getattr(parsed, flag[2:].replace("-", "_"))
        if value is not None and parsed.model is None:
            raise ConfigError(flag, value, "--model mlp beside it")
    if parsed.bucket_cap_bytes < 4:
        raise ConfigError("bucket_cap_bytes", parsed.bucket_cap_bytes, "an integer of at least 4")
    request = Request(
        cluster=_cluster(parsed),
        workload=_workload(parsed, parsed.bucket_cap_bytes),
        contestants=contestants(parsed.algorithms, parsed.num_servers),
        world_sizes=tuple(parsed.world_sizes),
        straggling=Straggling(
            sigma=parsed.straggling_sigma,
            slow_ranks=parsed.slow_ranks,
            slow_factor=parsed.slow_factor,
            seed=parsed.seed,
        ),
        scalings=tuple(parsed.scaling),
        samples_per_rank=parsed.samples_per_rank,
        simulate_up_to=parsed.simulate_up_to,
    )
    _print_request(parsed, request)
    rows = []
    total = len(request.scalings) * len(request.contestants) * len(set(request.world_sizes))
    with tqdm(total=total, disable=not sys.stderr.isatty(), leave=False) as bar:
        for row in project(request):
            rows.append(row)
            bar.update()
    _print_rows(rows)
    if parsed.output is None and parsed.figures is None:
        return 0
    points = list(sensitivities(request, lambda cap: _workload(parsed, cap)))
    projection = make_projection(request, _link_name(parsed), rows, points)
    if parsed.output is not None:
        write_projection(parsed.output, projection)
    if parsed.figures is not None:
        from dmlf.benchmark.plots.projected import PROJECTION_FIGURES, draw_projection

        for name in PROJECTION_FIGURES:
            draw_projection(name, projection, parsed.figures / f"{name}.svg")
    return 0


def _workload(parsed: argparse.Namespace, cap_bytes: int) -> Workload:
    tensors: list[Tensor]
    if parsed.parameters is not None:
        tensors = even_tensors(parsed.parameters, cap_bytes)
    elif parsed.tensors is not None:
        tensors = read_tensors(parsed.tensors)
    else:
        tensors = mlp_tensors(_mlp_sizes(parsed))
    return make_workload(
        tensors,
        compute_s=parsed.compute_s,
        cap_bytes=cap_bytes,
        overlap=parsed.overlap,
        exact=parsed.reduction == "exact",
    )


def _mlp_sizes(parsed: argparse.Namespace) -> list[int]:
    inputs = 784 if parsed.input_size is None else parsed.input_size
    classes = 10 if parsed.num_classes is None else parsed.num_classes
    hidden = [512, 512] if parsed.hidden_sizes is None else parsed.hidden_sizes
    sizes = [inputs, *hidden, classes]
    for size in sizes:
        if size < 1:
            raise ConfigError("hidden_sizes", size, "sizes of at least 1")
    return sizes


def _cluster(parsed: argparse.Namespace) -> Cluster:
    link, local = PROFILES[parsed.link].link, LOCAL.link
    for key in (
        "bandwidth_bits_per_s", "server_bandwidth_bits_per_s", "local_bandwidth_bits_per_s",
        "reduction_bytes_per_s",
    ):  # fmt: skip
        value = getattr(parsed, key)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(key, value, "a finite number above 0")
    if parsed.calibrate is not None:
        local = calibrated(parsed.calibrate, "shm")
        if parsed.link == "loopback":
            link = calibrated(parsed.calibrate, "tcp")
    local_latency_s, local_bandwidth = parsed.local_latency_s, parsed.local_bandwidth_bits_per_s
    latency_s = link.latency_s if parsed.latency_s is None else parsed.latency_s
    bandwidth = parsed.bandwidth_bits_per_s
    bandwidth = link.bandwidth_bytes_per_s if bandwidth is None else bandwidth / 8
    server = parsed.server_bandwidth_bits_per_s
    return Cluster(
        port=Link(latency_s, bandwidth),
        local=Link(
            local.latency_s if local_latency_s is None else local_latency_s,
            local.bandwidth_bytes_per_s if local_bandwidth is None else local_bandwidth / 8,
        ),
        overhead_s=parsed.overhead_s,
        reduction_s_per_byte=1 / parsed.reduction_bytes_per_s,
        ranks_per_host=parsed.ranks_per_host,
        server_bandwidth=None if server is None else server / 8,
    )


def _link_name(parsed: argparse.Namespace) -> str:
    changed = parsed.latency_s is not None or parsed.bandwidth_bits_per_s is not None
    return f"{parsed.link}, changed" if changed else str(parsed.link)


def _print_request(parsed: argparse.Namespace, request: Request) -> None:
    workload, port = request.workload, request.cluster.port
    per_host = request.cluster.ranks_per_host
    count = len(workload.buckets)
    print(
        f"{workload.parameter_bytes // 4:,} parameters in {count} bucket{'s' * (count > 1)}, "
        f"{workload.compute_s:g} s of computation a step, overlap "
        f"{'on' if workload.overlap else 'off'}, {parsed.reduction} reduction"
    )
    print(
        f"{_link_name(parsed)}: {port.latency_s * 1e6:g} us, "
        f"{port.bandwidth_bytes_per_s * 8e-9:g} Gbit/s a port; "
        f"{per_host} rank{'s' * (per_host > 1)} per host"
    )


_HEADINGS = (
    "world size", "hosts", "step ms", "samples/s", "efficiency", "exposed ms", "waits for", "by",
)  # fmt: skip


def _print_rows(rows: list[Row]) -> None:
    shown: tuple[str, ...] = ()
    for row in rows:
        group = row.scaling, contestant_label(row.algorithm, row.num_servers)
        if group != shown:
            print(f"\n{group[1]}: {row.scaling} scaling")
            print("{:>10} {:>7} {:>11} {:>12} {:>10} {:>11}  {:<18} {}".format(*_HEADINGS))
            shown = group
        print(
            f"{row.world_size:>10,} {row.num_hosts:>7,} {row.step_s * 1e3:>11,.3f} "
            f"{row.throughput_samples_per_s:>12,.1f} {row.efficiency:>10.1%} "
            f"{row.exposed_communication_s * 1e3:>11,.3f}  {row.bottleneck:<18} {row.method}"
        )
