#!/usr/bin/env python3
"""Measures fmi beside Open MPI, MPICH and plain sockets, over TCP on this machine, in one run.

Needs Debian's `openmpi-bin libopenmpi-dev mpich libmpich-dev gcc`; a peer that is not there is left out.
Peers take turns within each round, so that what else the machine does meets all of them. A cell is the
median over rounds of the median over repetitions. Prints a table of ratios, fmi's time over that of the
fastest peer, and writes all of it as CSV.

    benches/peers/run.py                        # everything, about an hour
    benches/peers/run.py --ops allreduce --ranks 2,4 --bytes 8,65536 --rounds 3
"""
import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COLLECTIVES = "barrier,broadcast,reduce,allreduce,gather,scatter,allgather,alltoall,reduce_scatter,scan,exscan"
# Longest a peer may take for one row of cells; busy polling of many ranks on few cores may never end.
PATIENCE_S = 240
# Cells whose buffers would not fit a small machine are left out, as are those of peers that were too slow.
MEMORY_MAX = 6 << 30


def build(folder):
    """Compiles the peers; returns the commands that run them."""
    def cc(compiler, source, target):
        if shutil.which(compiler) is None:
            return None
        subprocess.run([compiler, "-O2", "-o", str(folder / target), str(HERE / source)], check=True)
        return str(folder / target)

    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "faas-fmi-cli"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    plain, openmpi, mpich = cc("gcc", "plain.c", "plain"), cc("mpicc.openmpi", "mpi_bench.c", "ompi"), cc("mpicc.mpich", "mpi_bench.c", "mpich")
    return str(target / "release" / "fmi"), plain, openmpi, mpich


def environment(**more):
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("FMI_", "OMPI_", "MPIR_"))}
    return keep | {name: str(value) for name, value in more.items()}


def peers(programs):
    """Each peer: a function from (ranks, ops, bytes, repetitions, time in us) to a command and its environment."""
    fmi, plain, openmpi, mpich = programs
    lengths = lambda sizes: ",".join(map(str, sizes))

    def ours(**variables):
        def command(ranks, ops, sizes, repetitions, time_us):
            given = ["--ops", ops, "--bytes", lengths(sizes), "--repetitions", str(repetitions), "--time", f"{time_us // 1000}ms"]
            return [fmi, "perf", "--ranks", str(ranks), "--csv", *given], environment(**variables)
        return command

    def mpi(program, launcher, variables):
        def command(ranks, ops, sizes, repetitions, time_us):
            return [*launcher, "-n", str(ranks), program, ops, lengths(sizes), str(repetitions), str(time_us)], environment(**variables)
        return command

    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    orte = ["mpirun.openmpi", *root, "--oversubscribe", "--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]
    known = {"fmi": ours(FMI_SECURITY="plaintext"), "fmi-encrypted": ours()}
    if openmpi:
        known["ompi"] = mpi(openmpi, [*orte, "--mca", "mpi_yield_when_idle", "0"], {})
        known["ompi-yield"] = mpi(openmpi, [*orte, "--mca", "mpi_yield_when_idle", "1"], {})
    if mpich:
        known["mpich"] = mpi(mpich, ["mpirun.mpich", "-iface", "lo"], {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"})
    return known


def run(command, variables):
    """The rows that a command prints, as far as it comes."""
    variables["FMI_PERF_START"] = str(time.time_ns())
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 15)
            time.sleep(1)
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            out, err = process.communicate()
            print(f"  gave up after {PATIENCE_S} s: {' '.join(command[:4])} ...", file=sys.stderr)
        if process.returncode and not out:
            print(f"  {' '.join(command)}: {err.strip()[-300:]}", file=sys.stderr)
    rows = [line.split(",") for line in out.splitlines() if line.count(",") == 4 and not line.startswith("op,")]
    return {(op, int(ranks), int(size)): float(median) for op, ranks, size, median, _ in rows}


def fits(op, ranks, size):
    blocks = {"alltoall": 2 * ranks, "gather": 3, "allgather": ranks + 1, "scatter": 3, "reduce_scatter": 2 * ranks}.get(op, 3)
    return blocks * ranks * size <= MEMORY_MAX


def table(cells, names, ours, rivals):
    """Ratios of `ours` to the fastest of `rivals`, losses in red."""
    red, plain = ("\033[31m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{'op':<15}{'ranks':>6}{'bytes':>10}" + "".join(f"{name:>15}" for name in names) + f"{'ratio':>8}  fastest peer")
    lost = compared = 0
    for (op, ranks, size), values in cells.items():
        best = min((values[name], name) for name in rivals if name in values) if any(name in values for name in rivals) else None
        line = f"{op:<15}{ranks:>6}{size:>10}" + "".join(f"{values[name]:>15.2f}" if name in values else f"{'-':>15}" for name in names)
        if best and ours in values:
            ratio = values[ours] / best[0]
            compared += 1
            lost += ratio >= 1
            colour = red if ratio >= 1 else ""
            line += f"{colour}{ratio:>8.2f}{plain if colour else ''}  {best[1]}"
        print(line)
    print(f"{compared - lost} of {compared} cells are faster than every peer, {lost} are not")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", default=COLLECTIVES)
    parser.add_argument("--ranks", default="2,4,8,16")
    parser.add_argument("--bytes", default="8,1024,65536,1048576,16777216")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=7, help="of each round; rounds x repetitions should be 20 or more")
    parser.add_argument("--time-us", type=int, default=10_000, help="of each repetition")
    parser.add_argument("--peers", default="", help="only these, besides fmi")
    parser.add_argument("--pairs", action="store_true", help="ping-pong, stream and start-up instead, beside plain sockets")
    parser.add_argument("--csv", type=Path, help="write all medians to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = build(Path(folder))
        known = peers(programs)
        if arguments.peers:
            known = {name: known[name] for name in ["fmi", *arguments.peers.split(",")] if name in known}
        elif not arguments.pairs:
            known.pop("fmi-encrypted")
        samples = pairs(arguments, known, programs) if arguments.pairs else collectives(arguments, known)
    cells = {}
    for (cell, name), values in samples.items():
        cells.setdefault(cell, {})[name] = statistics.median(values)
    names = list(dict.fromkeys(name for _, name in samples))
    if arguments.pairs:
        for kind in ("plain-yield", "plain-block"):
            print(f"\nfmi beside {kind}:")
            ours = {"plain-yield": "fmi", "plain-block": "fmi-parking"}[kind]
            table({cell: values for cell, values in cells.items() if kind in values}, names, ours, [kind])
        print("\nstart-up in us, memory in KiB:")
        table({cell: values for cell, values in cells.items() if cell[0] in ("startup", "memory_kib")}, names, "fmi", [name for name in names if not name.startswith("fmi")])
    else:
        table(cells, names, "fmi", [name for name in names if not name.startswith("fmi")])
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["op", "ranks", "bytes", *names])
            writer.writerows([*cell, *(values.get(name, "") for name in names)] for cell, values in cells.items())


def collectives(arguments, known):
    samples = {}
    hopeless = set()
    lengths = [int(size) for size in arguments.bytes.split(",")]
    for ranks in map(int, arguments.ranks.split(",")):
        for op in arguments.ops.split(","):
            print(f"{op}, {ranks} ranks", file=sys.stderr)
            sizes = [size for size in lengths if fits(op, ranks, size)] if op != "barrier" else [0]
            for _ in range(arguments.rounds):
                for name, command in known.items():
                    # Who polls without yielding needs milliseconds for each step once ranks outnumber cores.
                    is_slow = name in ("ompi", "mpich") and ranks > (os.cpu_count() or 1)
                    if (name, op, ranks) in hopeless:
                        continue
                    wanted = [size for size in sizes if not is_slow or size <= 65536]
                    found = run(*command(ranks, op, wanted, arguments.repetitions, arguments.time_us)) if wanted else {}
                    if len(found) < len(wanted):
                        hopeless.add((name, op, ranks))
                    for cell, value in found.items():
                        samples.setdefault((cell, name), []).append(value)
    return dict(sorted(samples.items(), key=lambda sample: sample[0][0]))


def pairs(arguments, known, programs):
    fmi, plain, *_ = programs
    samples = {}
    sizes = [int(size) for size in arguments.bytes.split(",")]
    shape = (2, "pingpong,stream", sizes, arguments.repetitions, arguments.time_us)
    parking = known["fmi"](*shape)
    runs = {name: command(*shape) for name, command in known.items()}
    runs["fmi-parking"] = (parking[0], parking[1] | {"FMI_SPIN": "0"})
    for kind in ("yield", "block"):
        runs[f"plain-{kind}"] = ([plain, kind, shape[1], ",".join(map(str, sizes)), str(arguments.repetitions), str(arguments.time_us)], environment())
    for number in range(arguments.rounds):
        print(f"pairs, round {number + 1}", file=sys.stderr)
        for name, (command, variables) in runs.items():
            for cell, value in run(command, variables).items():
                samples.setdefault((cell, name), []).append(value)
    for ranks in (2, 8, 32):
        print(f"start of {ranks}", file=sys.stderr)
        for _ in range(max(arguments.rounds, 5)):
            starts = {name: command(ranks, "startup", [8], 1, 1000) for name, command in known.items()}
            starts["plain"] = ([plain, "startup", str(ranks)], environment())
            for name, (command, variables) in starts.items():
                for cell, value in run(command, variables).items():
                    if cell[0] in ("startup", "memory_kib"):
                        samples.setdefault((cell, name), []).append(value)
    return dict(sorted(samples.items(), key=lambda sample: sample[0][0]))


if __name__ == "__main__":
    main()
