#!/usr/bin/env python3
"""Faults on a cluster of three real processes under load: what was acknowledged must be there afterwards.

Writers at every node write unique keys at full speed; one of them stays with its node whatever happens
(a primary and its client that are cut off together), the others go on to the next node when theirs
fails. A scenario does one fault and mends it; then every acknowledged write is read back, through each
node in turn. A write whose outcome was called unknown, or whose reply never came, counts neither way.

    cluster.py                                all scenarios
    cluster.py --only leader_killed --repeat 10
"""

import os
import signal
import sys
import threading
import time

from harness import CannotRun, Client, Server, ServerError, arguments, check_all, free_port, main, value_of
from proxy import Proxy

NODES = (1, 2, 3)
PIPELINE = 16
RESUME_MAX_S = 30.0
FAULT_S = 2.0


class Cluster:
    """Three nodes; each reaches each other one through a proxy of its own."""

    def __init__(self, binary, directory):
        self.ports = {node: free_port() for node in NODES}
        self.peer_ports = {node: free_port() for node in NODES}
        self.proxies = {}
        self.servers = {}
        for node in NODES:
            entries = []
            for other in NODES:
                peer_port = self.peer_ports[other]
                if other != node:
                    proxy = Proxy(("127.0.0.1", peer_port))
                    self.proxies[node, other] = proxy
                    peer_port = proxy.port
                entries.append(f"{other}=127.0.0.1:{self.ports[other]}@{peer_port}")
            flags = ["--node-id", str(node), "--cluster", ",".join(entries)]
            where = os.path.join(directory, f"node-{node}")
            self.servers[node] = Server(binary, where, self.ports[node], flags)

    def start(self, nodes=NODES):
        for node in nodes:
            self.servers[node].start()

    def stop(self):
        for server in self.servers.values():
            if server.is_running():
                os.killpg(server.process.pid, signal.SIGCONT)
            server.kill9()

    def leader(self, among=NODES):
        """The one node that says it leads and can prove it by a read."""
        deadline = time.monotonic() + RESUME_MAX_S
        while time.monotonic() < deadline:
            for node in among:
                try:
                    client = Client(("127.0.0.1", self.ports[node]), timeout=1)
                    text = client.ask("INFO", "replication")
                    if b"role:master" in text and client.ask("GET", "nothing") is None:
                        return node
                except OSError:
                    pass
            time.sleep(0.02)
        raise CannotRun("no leader")

    def wait_until_readable(self):
        for node in NODES:
            deadline = time.monotonic() + RESUME_MAX_S
            while True:
                try:
                    if Client(("127.0.0.1", self.ports[node]), timeout=2).ask("GET", "nothing") is None:
                        break
                except OSError:
                    pass
                if time.monotonic() > deadline:
                    raise CannotRun(f"node {node} answers no reads: {self.servers[node].tail()}")
                time.sleep(0.05)

    def isolate(self, node):
        for pair, proxy in self.proxies.items():
            if node in pair:
                proxy.cut()

    def heal(self):
        for proxy in self.proxies.values():
            if proxy.is_cut:
                proxy.heal()


class Writer(threading.Thread):
    """One connection at a time; its keys are its own."""

    def __init__(self, name, cluster, node, stays):
        super().__init__(daemon=True)
        self.name, self.cluster, self.node, self.stays = name, cluster, node, stays
        self.number = 0
        self.acknowledged = []
        self.unknown = self.refused = 0
        self.stopped = False
        self.times = []  # when writes were acknowledged, for the gaps

    def run(self):
        while not self.stopped:
            try:
                client = Client(("127.0.0.1", self.cluster.ports[self.node]), timeout=3)
                while not self.stopped:
                    if not self.batch(client):
                        break
            except OSError:
                time.sleep(0.01)
            if not self.stays:
                self.node = self.node % len(NODES) + 1

    def batch(self, client):
        keys = [f"{self.name}:{self.number + place}" for place in range(PIPELINE)]
        self.number += PIPELINE
        client.send([("SET", key, value_of(key)) for key in keys])
        refused = False
        for key in keys:
            reply = client.reply()
            if reply == "OK":
                self.acknowledged.append(key)
            elif isinstance(reply, ServerError) and reply.text.startswith("UNKNOWN"):
                self.unknown += 1
            else:
                self.refused += 1
                refused = True
        if not refused:
            self.times.append(time.monotonic())
        else:
            time.sleep(0.005)
        return not refused or self.stays


def leader_killed(cluster, leader):
    cluster.servers[leader].kill9()
    yield
    cluster.servers[leader].start()


def leader_stopped(cluster, leader):
    os.killpg(cluster.servers[leader].process.pid, signal.SIGSTOP)
    yield
    os.killpg(cluster.servers[leader].process.pid, signal.SIGCONT)


def leader_cut_off(cluster, leader):
    cluster.isolate(leader)
    yield
    cluster.heal()


def follower_cut_off(cluster, leader):
    cluster.isolate(leader % len(NODES) + 1)
    yield
    cluster.heal()


def all_killed(cluster, _):
    for node in NODES:
        cluster.servers[node].kill9()
    cluster.start()
    yield


def switchover(cluster, leader):
    client = Client(("127.0.0.1", cluster.ports[leader]), timeout=5)
    reply = client.ask("FAILOVER")
    if reply != "OK":
        raise CannotRun(f"FAILOVER: {reply}")
    yield


def majority_killed(cluster, leader):
    """What is left must acknowledge nothing and read nothing."""
    left = leader % len(NODES) + 1
    for node in NODES:
        if node != left:
            cluster.servers[node].kill9()
    time.sleep(0.5)
    client = Client(("127.0.0.1", cluster.ports[left]), timeout=10)
    for command in (("GET", "nothing"), ("SET", "minority", "1")):
        reply = client.ask(*command)
        if not isinstance(reply, ServerError):
            raise AssertionError(f"a minority answered {command[0]} with {reply!r}")
    for node in NODES:
        if node != left:
            cluster.servers[node].start()
    yield


SCENARIOS = {
    fault.__name__: fault
    for fault in (leader_killed, leader_stopped, leader_cut_off, follower_cut_off, all_killed,
                  switchover, majority_killed)
}


def run(binary, directory, fault):
    cluster = Cluster(binary, directory)
    writers = []
    try:
        cluster.start()
        leader = cluster.leader()
        for node in NODES:
            writers.append(Writer(f"w{node}", cluster, node, stays=False))
        writers.append(Writer("stays", cluster, leader, stays=True))
        for writer in writers:
            writer.start()
        time.sleep(1.0)
        began = time.monotonic()
        steps = fault(cluster, leader)
        next(steps)
        # The longest time in which nobody's write was acknowledged, while the fault lasts.
        time.sleep(FAULT_S)
        during = time.monotonic()
        for _ in steps:
            pass
        cluster.leader()
        time.sleep(1.0)
        for writer in writers:
            writer.stopped = True
        for writer in writers:
            writer.join(timeout=30)
        cluster.wait_until_readable()
        times = sorted(t for writer in writers for t in writer.times if began - 0.2 <= t <= during)
        gap = max((b - a for a, b in zip(times, times[1:])), default=during - began)
        lost = wrong = 0
        examples = []
        keys = [key for writer in writers for key in writer.acknowledged]
        for place, node in enumerate(NODES):
            client = Client(("127.0.0.1", cluster.ports[node]), timeout=30)
            pairs = ((key, value_of(key)) for key in keys[place::len(NODES)])
            _, now_lost, now_wrong, some = check_all(client, pairs)
            lost, wrong, examples = lost + now_lost, wrong + now_wrong, examples + some
        digests = {
            Client(("127.0.0.1", cluster.ports[node]), timeout=30).ask("DEBUG", "DIGEST")
            for node in NODES
        }
        return {
            "acknowledged": len(keys),
            "lost": lost,
            "wrong": wrong,
            "unknown": sum(writer.unknown for writer in writers),
            "refused": sum(writer.refused for writer in writers),
            "longest_gap_ms": round(gap * 1000),
            "digests_equal": len(digests) == 1,
            "examples": examples,
        }
    finally:
        for writer in writers:
            writer.stopped = True
        cluster.stop()


def work(parsed, directory):
    names = [parsed.only] if parsed.only else list(SCENARIOS)
    rows, good = {}, True
    for name in names:
        for attempt in range(parsed.repeat):
            row = run(parsed.binary, os.path.join(directory, f"{name}-{attempt}"), SCENARIOS[name])
            rows.setdefault(name, []).append(row)
            print(name, row, file=sys.stderr)
            right = row["lost"] == row["wrong"] == 0 and row["digests_equal"]
            good = good and right and row["acknowledged"] > 0
    return {"good": good, "scenarios": rows}


if __name__ == "__main__":
    main(work, arguments(__doc__, only="", repeat=1))
