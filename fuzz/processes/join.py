#!/usr/bin/env python3
"""A node joins a cluster that is full of data and under load, and is killed twice on the way.

Three nodes are filled. A fourth is started with `--join` and added by `cluster add`; its log has to begin
after a snapshot, because the others keep less log than they hold data. When a third and when two thirds
of the snapshot have come, the new node is killed with -9 and started again: what it had must still be
there. In the end it has the same state as the others, and every write that was acknowledged meanwhile.
The latency of a client that writes one key after the other is measured before and meanwhile.

    join.py                 0.2 GiB, for every day
    join.py --gib 10        needs five times as much room on the disk, and some minutes
"""

import os
import subprocess
import sys
import threading
import time

from harness import CannotRun, Client, Server, arguments, check_all, free_port, main, value_of

VALUE_LEN = 16 << 10
PIPELINE = 64
BEFORE_S = 8.0
JOIN_MAX_S = 1800.0
# What a kill may cost: files that grow are noted every 4 MiB.
SLACK = 16 << 20


class Nodes:
    """Four nodes; the last is not a member yet."""

    def __init__(self, binary, directory, retention, rate):
        self.binary = binary
        self.entries = {node: f"{node}=127.0.0.1:{free_port()}@{free_port()}" for node in (1, 2, 3, 4)}
        settings = os.path.join(directory, "settings")
        with open(settings, "w") as file:
            file.write(f"retention-bytes-max {retention}\nsnapshot-rate {rate}\n")
        self.servers = {}
        for node, entry in self.entries.items():
            known = entry if node == 4 else ",".join(self.entries[other] for other in (1, 2, 3))
            flags = ["--config", settings, "--node-id", str(node), "--cluster", known]
            flags += ["--join"] if node == 4 else []
            port = int(entry.split("@")[0].split(":")[1])
            where = os.path.join(directory, f"node-{node}")
            self.servers[node] = Server(binary, where, port, flags)

    def client(self, node, timeout=60):
        return Client(self.servers[node].address, timeout)

    def leader(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for node in (1, 2, 3):
                try:
                    client = self.client(node, 2)
                    if b"role:master" in client.ask("INFO", "replication") and client.ask("GET", "x") is None:
                        return node
                except OSError:
                    pass
            time.sleep(0.05)
        raise CannotRun("no leader")

    def stop(self):
        for server in self.servers.values():
            server.kill9()


def fill(client, gib, block):
    """Writes values that nothing can compress."""
    count = int(gib * (1 << 30) / VALUE_LEN)
    for first in range(0, count, PIPELINE):
        commands = []
        for number in range(first, min(first + PIPELINE, count)):
            at = number * 4093 % VALUE_LEN
            value = b"%016d" % number + block[at : at + VALUE_LEN - 16]
            commands.append(("SET", f"data:{number}", value))
        pending = commands
        while pending:
            replies = client.ask_all(pending)
            pending = [command for command, reply in zip(pending, replies) if reply != "OK"]
            if pending:
                time.sleep(0.01)
    return count


class Probe(threading.Thread):
    """Writes one key after the other, and remembers how long each took."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.times, self.acknowledged, self.stopped = client, [], [], False

    def run(self):
        number = 0
        while not self.stopped:
            key = f"probe:{number}"
            began = time.monotonic()
            reply = self.client.ask("SET", key, value_of(key))
            self.times.append((began, time.monotonic() - began))
            if reply == "OK":
                self.acknowledged.append(key)
            number += 1
            time.sleep(0.002)


class Load(threading.Thread):
    """Writes small values, sixteen at a time, about a thousand times a second."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.acknowledged, self.stopped = client, [], False

    def run(self):
        number = 0
        while not self.stopped:
            keys = [f"load:{number + place}" for place in range(16)]
            number += 16
            replies = self.client.ask_all([("SET", key, value_of(key)) for key in keys])
            self.acknowledged += [key for key, reply in zip(keys, replies) if reply == "OK"]
            time.sleep(0.016)


def percentile(times, share):
    times = sorted(times)
    return round(times[min(int(len(times) * share), len(times) - 1)] * 1000, 2) if times else None


def latencies(probe, start, end):
    times = [took for began, took in probe.times if start <= began < end]
    return {"writes": len(times), "p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99),
            "p999_ms": percentile(times, 0.999), "max_ms": percentile(times, 1)}


def size_of(directory):
    total = 0
    try:
        for entry in os.scandir(directory):
            if entry.name.endswith((".table", ".part")):
                total += entry.stat().st_size
    except OSError:
        pass
    return total


def work(parsed, directory):
    block = os.urandom(2 * VALUE_LEN)
    retention = min(int(parsed.gib * (1 << 30) / 3), 1 << 30)
    rate = int(parsed.rate_mib * (1 << 20))
    nodes = Nodes(parsed.binary, directory, retention, rate)
    threads = []
    try:
        for node in (1, 2, 3):
            nodes.servers[node].start()
        leader = nodes.leader()
        began = time.monotonic()
        fill(nodes.client(leader), parsed.gib, block)
        filled = time.monotonic() - began
        print(f"filled in {filled:.0f} s", file=sys.stderr)
        state = os.path.join(nodes.servers[leader].directory, "groups", "1", "state")
        last, deadline = -1, time.monotonic() + 600
        while size_of(state) != last and time.monotonic() < deadline:
            last = size_of(state)
            time.sleep(2)
        threads = [Probe(nodes.client(leader)), Load(nodes.client(leader))]
        for thread in threads:
            thread.start()
        time.sleep(BEFORE_S)
        new = nodes.servers[4]
        new.start()
        joining = time.monotonic()
        add = subprocess.Popen(
            [parsed.binary, "cluster", "add", nodes.entries[4],
             "--node", nodes.entries[leader].split("=")[1].split("@")[0]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        incoming = os.path.join(new.directory, "groups", "1", "state.incoming")
        total, kills = size_of(state), []
        while add.poll() is None and time.monotonic() - joining < JOIN_MAX_S:
            here = size_of(incoming)
            if len(kills) < 2 and here > total * (len(kills) + 1) / 3:
                new.kill9()
                before = size_of(incoming)
                new.start()
                # The first thing that it does with an offer is to throw away what it cannot use.
                time.sleep(1.5)
                kills.append({"had": before, "kept": size_of(incoming)})
                print(f"killed with {before} bytes, goes on with {kills[-1]['kept']}", file=sys.stderr)
            time.sleep(0.05)
        joined = time.monotonic()
        if add.poll() is None:
            add.kill()
        said = add.communicate()[0].decode(errors="replace").strip()
        time.sleep(1)
        for thread in threads:
            thread.stopped = True
        for thread in threads:
            thread.join(timeout=60)
        keys = [key for thread in threads for key in thread.acknowledged]
        _, lost, wrong, examples = check_all(nodes.client(4), ((key, value_of(key)) for key in keys))
        digests = {nodes.client(node, 600).ask("DEBUG", "DIGEST") for node in (1, 4)}
        resumed = all(kill["kept"] >= kill["had"] - SLACK for kill in kills)
        return {
            "good": add.returncode == 0 and len(kills) == 2 and resumed and lost == wrong == 0
                    and len(digests) == 1,
            "gib": parsed.gib, "state_bytes": total, "fill_s": round(filled, 1),
            "join_s": round(joined - joining, 1), "kills": kills, "resumed": resumed,
            "added": add.returncode, "said": said[-300:],
            "acknowledged": len(keys), "lost": lost, "wrong": wrong, "examples": examples,
            "digests_equal": len(digests) == 1,
            "before": latencies(threads[0], joining - BEFORE_S + 1, joining),
            "meanwhile": latencies(threads[0], joining, joined),
        }
    finally:
        for thread in threads:
            thread.stopped = True
        nodes.stop()


if __name__ == "__main__":
    main(work, arguments(__doc__, gib=0.2, rate_mib=50.0))
