#!/usr/bin/env python3
"""Faults on a cluster of three real processes under load: what was acknowledged must be there afterwards.

Writers at every node write unique keys at full speed; one of them stays with its node whatever happens
(a primary and its client that are cut off together). Users read and write a few registers, and their
history must be linearizable. A scenario does one fault and mends it; then every acknowledged write is read
back, through each node in turn. A write whose outcome was called unknown, or whose reply never came, counts
neither way. By the nodes' own logs at most one leads in a term; a minority acknowledges nothing.

    cluster.py                                all scenarios, and a table
    cluster.py --list
    cluster.py --only leader_killed,switchover --repeat 10
    cluster.py --witness 3                    node 3 votes and holds no data
    cluster.py --tls 1                        links over TLS
    cluster.py --leases 1                     leaders answer reads alone while they hold a lease
"""

import os
import shutil
import subprocess
import sys
import time

from cluster_faults import SCENARIOS, Skipped
from cluster_load import User, Writer, longest_gap_ms
from cluster_nodes import NODES, Cluster
from harness import CannotRun, arguments, check_all, main, value_of
from linearizable import check

FAULT_S = 2.0
# A machine that stands still for a while makes a scenario late, and then it is tried again. What was lost or
# answered wrongly is never tried again.
ATTEMPTS = 3


class Run:
    """One scenario: what it is done to, and what it notes."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.leader = None
        self.began = None
        self.fault_s = FAULT_S
        self.minority = self.cut_at = self.healed_at = None
        # What a scenario notes here is about being available: too slow, or not handed over.
        self.problems, self.figures, self.more_keys = [], {}, []
        self.after = None


def one(parsed, directory, fault):
    tls, witness = bool(parsed.tls), parsed.witness
    settings = getattr(fault, "settings", {}) | ({"leases": "yes"} if parsed.leases else {})
    cluster = Cluster(parsed.binary, directory, witness, tls, getattr(fault, "is_plain", False),
                      getattr(fault, "flags", ()), settings)
    run = Run(cluster)
    load = []
    try:
        if hasattr(fault, "prepare"):
            fault.prepare(cluster)
        cluster.start()
        run.leader = cluster.leader()
        waits = getattr(fault, "waits", 0)
        writers = [Writer(f"w{node}", cluster, node, waits=waits) for node in NODES]
        stays = Writer("stays", cluster, run.leader, stays=True, waits=waits)
        writers.append(stays)
        users = [User(f"u{node}", cluster, node) for node in cluster.data]
        load = writers + users
        for thread in load:
            thread.start()
        time.sleep(1.0)
        run.began = time.monotonic()
        steps = fault(run)
        next(steps)
        time.sleep(run.fault_s)
        ended = time.monotonic()
        for _ in steps:
            pass
        cluster.leader()
        time.sleep(1.0)
        for thread in load:
            thread.stopped = True
        for thread in load:
            thread.join(timeout=30)
        cluster.wait_until_readable()
        if run.after:
            run.after(run)
        if parsed.leases:
            run.figures["lease_reads"] = sum(int(cluster.info(node)["lease_reads"]) for node in cluster.data)
            if not run.figures["lease_reads"]:
                run.problems.append("no read was answered under a lease")
        return judge(run, writers, users, stays, ended)
    finally:
        for thread in load:
            thread.stopped = True
        cluster.stop()
        if hasattr(fault, "clean"):
            fault.clean(cluster)
        # Each leaves the better part of a gigabyte.
        shutil.rmtree(directory, ignore_errors=True)


def one_in_time(parsed, directory, name):
    """The scenario; again, and said so, if it was late."""
    for attempt in range(ATTEMPTS):
        try:
            row = one(parsed, f"{directory}-{attempt}", SCENARIOS[name])
        except (OSError, CannotRun, subprocess.TimeoutExpired) as error:
            row = unfinished(error) | {"is_late": True}
        except AssertionError as error:
            row = unfinished(error) | {"is_late": False}
        if row["good"] or not row["is_late"]:
            break
        print(f"{name}: late in attempt {attempt + 1} of {ATTEMPTS}: {row['problems']}", file=sys.stderr)
    return row


def unfinished(error):
    return {column: 0 for column in COLUMNS} | {"good": False, "problems": [repr(error)]}


def judge(run, writers, users, stays, ended):
    cluster, late, problems = run.cluster, run.problems, []
    lost = wrong = 0
    examples = []
    keys = [key for writer in writers for key in writer.acknowledged] + run.more_keys
    for place, node in enumerate(cluster.data):
        pairs = ((key, value_of(key)) for key in keys[place::len(cluster.data)])
        _, now_lost, now_wrong, some = check_all(cluster.client(node, 30), pairs)
        lost, wrong, examples = lost + now_lost, wrong + now_wrong, examples + some
    digests = {cluster.client(node, 60).ask("DEBUG", "DIGEST") for node in cluster.data}
    by_minority = 0
    if run.minority is not None:
        # What was sent before the cut may have reached the others.
        by_minority = sum(count for t, count, sent in stays.times if run.cut_at < sent and t < run.healed_at)
    led = cluster.leaders()
    crowded = {term: sorted(nodes) for term, nodes in led.items() if len(nodes) > 1}
    violations, inconclusive = check([operation for user in users for operation in user.history])
    times = [entry for writer in writers if writer is not stays for entry in writer.times]
    gap = longest_gap_ms(times, run.began, ended)
    if len(digests) != 1:
        problems.append(f"{len(digests)} digests")
    if by_minority:
        problems.append(f"a minority acknowledged {by_minority} writes")
    if crowded:
        problems.append(f"several leaders in one term: {crowded}")
    if violations:
        problems.append(f"not linearizable: {violations}")
    if not keys:
        late.append("nothing was acknowledged")
    return {
        "acknowledged": len(keys), "lost": lost, "wrong": wrong,
        "unknown": sum(writer.unknown for writer in writers),
        "refused": sum(writer.refused for writer in writers),
        "ms_to_next_write": gap,
        "acknowledged_by_minority": by_minority,
        "terms": len(led), "leaders_in_a_term_max": max((len(nodes) for nodes in led.values()), default=0),
        "operations_checked": sum(len(user.history) for user in users),
        "linearizable": not violations, "inconclusive": len(inconclusive),
        "digests_equal": len(digests) == 1,
        **run.figures, "problems": problems + late, "examples": examples,
        "good": not lost and not wrong and not problems and not late,
        "is_late": not lost and not wrong and not problems and bool(late),
    }


COLUMNS = ("acknowledged", "lost", "wrong", "unknown", "ms_to_next_write", "terms", "linearizable")


def table(rows):
    """One line for each scenario: sums, and the longest gap."""
    lines = ["{:<30}{:>13}{:>6}{:>7}{:>9}{:>18}{:>7}{:>14}".format("scenario", *COLUMNS)]
    for name, runs in rows.items():
        if "skipped" in runs[0]:
            lines.append(f"{name:<30}  skipped: {runs[0]['skipped']}")
            continue
        total = [sum(run[column] for run in runs) for column in COLUMNS[:4]]
        gap = "/".join(str(run["ms_to_next_write"]) for run in sorted(runs, key=lambda run: run["ms_to_next_write"])[-3:])
        terms = sum(run["terms"] for run in runs)
        yes = "yes" if all(run["linearizable"] for run in runs) else "NO"
        bad = "" if all(run["good"] for run in runs) else "  BAD"
        lines.append("{:<30}{:>13}{:>6}{:>7}{:>9}{:>18}{:>7}{:>14}{}".format(name, *total, gap, terms, yes, bad))
    return "\n".join(lines)


def work(parsed, directory):
    names = parsed.only.split(",") if parsed.only else list(SCENARIOS)
    rows = {}
    for name in names:
        for attempt in range(parsed.repeat):
            try:
                row = one_in_time(parsed, os.path.join(directory, f"{name}-{attempt}"), name)
            except Skipped as reason:
                rows[name] = [{"skipped": str(reason)}]
                print(f"skipped: {name}: {reason}", file=sys.stderr)
                break
            rows.setdefault(name, []).append(row)
            print(name, row, file=sys.stderr)
    print(table(rows), file=sys.stderr)
    good = all(row.get("good", True) for runs in rows.values() for row in runs)
    return {"good": good, "scenarios": rows}


if __name__ == "__main__":
    if "--list" in sys.argv:
        print("\n".join(SCENARIOS))
        sys.exit(0)
    main(work, arguments(__doc__, only="", repeat=1, witness=0, tls=0, leases=0))
