"""What happens to a cluster. A scenario is a generator: it does the fault, yields while the fault lasts, and mends it
when it is resumed. It is given the run (its cluster, its leader, where to note figures)."""

import os
import shutil
import signal
import subprocess
import time

from cluster_nodes import NODES
from cluster_load import Numbered, Retrying
from harness import CannotRun, ServerError, check_all, value_of


class Skipped(Exception):
    """This machine cannot do it."""


def others(node):
    return [other for other in NODES if other != node]


def leader_killed(run):
    run.cluster.servers[run.leader].kill9()
    yield
    run.cluster.servers[run.leader].start()


def leader_restarted_at_once(run):
    """Killed and restarted by a supervisor before the others miss it."""
    server = run.cluster.servers[run.leader]
    server.kill9()
    server.start()
    yield


def sessions(run):
    """Leaders are killed again and again under clients that number their writes and insist on an answer: each
    is executed once, and its answer is the first one, however often it was asked for."""
    clients = [Numbered(f"n{place}", run.cluster, place % len(run.cluster.data)) for place in range(6)]
    for client in clients:
        client.start()
    for _ in range(3):
        time.sleep(0.5)
        killed = run.cluster.leader()
        run.cluster.servers[killed].kill9()
        time.sleep(1.0)
        run.cluster.servers[killed].start()
    yield
    for client in clients:
        client.stopped = True
    for client in clients:
        client.join(timeout=30)
        if client.is_alive():
            run.problems.append(f"{client.name} has no answer after 30 s")
    connection = run.cluster.client(run.cluster.leader(), timeout=30)
    for client in clients:
        found = int(connection.ask("GET", f"counter:{client.name}") or 0)
        # One whose last request is under way may be one ahead.
        expected = (client.number, client.number - 1) if client.is_alive() else (client.number,)
        assert found in expected, f"{client.name} counted {found}, and sent {client.number}"
        assert not client.wrong, client.wrong[:3]
    run.figures["requests"] = sum(client.number for client in clients)
    run.figures["sent_again"] = sum(client.again for client in clients)


def leader_stopped(run):
    """Stopped for longer than an election takes; it wakes up in the belief that it leads."""
    os.killpg(run.cluster.servers[run.leader].process.pid, signal.SIGSTOP)
    yield
    os.killpg(run.cluster.servers[run.leader].process.pid, signal.SIGCONT)


def leader_cut_off(run):
    """The leader and its clients are cut off from the rest: the row that loses 86 % with Redis."""
    run.minority = run.leader
    run.cluster.isolate(run.leader)
    run.cut_at = time.monotonic()
    yield
    run.healed_at = time.monotonic()
    run.cluster.heal()


def leader_cut_off_wait_1(run):
    """The same with WAIT 1 after the writes."""
    yield from leader_cut_off(run)


leader_cut_off_wait_1.waits = 1


def leader_killed_follower_lags(run):
    """The leader dies while a follower is far behind by a slow link: the other one must take over."""
    run.cluster.slow(bytes_per_s=64 << 10, to=others(run.leader)[:1])
    time.sleep(1.5)
    run.figures["lag_bytes"] = max(
        int(part.split("lag_bytes=")[1].split(",")[0])
        for name, part in run.cluster.info(run.leader).items() if name.startswith("slave"))
    run.began = time.monotonic()
    run.cluster.servers[run.leader].kill9()
    run.cluster.slow()
    yield
    run.cluster.servers[run.leader].start()


def follower_cut_off(run):
    run.cluster.isolate(others(run.leader)[0])
    yield
    run.cluster.heal()


def one_way_cut(run):
    """The leader hears nobody, and is heard."""
    for (source, target), proxy in run.cluster.proxies.items():
        if target == run.leader and source != run.leader:
            proxy.cut()
    yield
    run.cluster.heal()


def slow_links(run):
    """50 ms later and 5 MB/s at the most, all of them."""
    run.cluster.slow(delay_s=0.05, bytes_per_s=5 << 20)
    yield
    run.cluster.heal()


def all_killed(run):
    for node in run.cluster.nodes:
        run.cluster.servers[node].kill9()
    run.cluster.start()
    yield


def majority_killed(run):
    """What is left must acknowledge nothing and read nothing."""
    left = others(run.leader)[0]
    for node in others(left):
        run.cluster.servers[node].kill9()
    time.sleep(0.5)
    client = run.cluster.client(left, timeout=10)
    for command in (("GET", "nothing"), ("SET", "minority", "1")):
        reply = client.ask(*command)
        if not isinstance(reply, ServerError):
            raise AssertionError(f"a minority answered {command[0]} with {reply!r}")
    for node in others(left):
        run.cluster.servers[node].start()
    yield


def switchover(run):
    """Planned, no fault at all: the row that loses 76 % with Redis and Sentinel."""
    reply = run.cluster.client(run.leader).ask("FAILOVER")
    if reply != "OK":
        raise CannotRun(f"FAILOVER: {reply}")
    yield


def disk_wiped(run):
    """The leader comes back with nothing, under its old number: it must not become a source of truth."""
    server = run.cluster.servers[run.leader]
    server.kill9()
    shutil.rmtree(server.directory)
    server.start()
    yield


def table_damaged(run):
    """A follower comes back with a table that has lost a bit: it never answers from it, keeps its log and its vote,
    and gets the leader's state."""
    cluster, leader = run.cluster, run.leader
    client = cluster.client(leader, 30)
    # So much that every node has tables, and that the log does not go back to the first entry.
    for number in range(160):
        client.ask("SET", f"large:{number}", os.urandom(1 << 20))
    node = others(leader)[0]
    server = cluster.servers[node]
    state = os.path.join(server.directory, "groups", "1", "state")
    deadline = time.monotonic() + 30
    while not (tables := sorted(name for name in os.listdir(state) if name.endswith(".table"))):
        if time.monotonic() > deadline:
            raise CannotRun("there is no table to damage")
        time.sleep(0.1)
    server.kill9()
    with open(os.path.join(state, tables[0]), "r+b") as file:
        file.seek(os.path.getsize(file.name) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    server.start()
    yield
    deadline = time.monotonic() + 60
    while (fields := cluster.info(node))["states_replaced"] == "0" or fields["state_damage"] != "none":
        if time.monotonic() > deadline:
            run.problems.append(f"the state of node {node} is not replaced: {fields['state_damage']}")
            break
        time.sleep(0.1)
    run.figures["states_replaced"] = int(fields["states_replaced"])
    cluster.wait_until_level()


table_damaged.settings = {"retention_bytes_max": "16mb", "scrub_rate": "1gb"}


def follower_away(run):
    """C6: one of three away: committed moves on, everywhere stands still; back, it catches up."""
    cluster, leader = run.cluster, run.leader
    away = others(leader)[0]
    cluster.servers[away].kill9()
    time.sleep(0.3)

    def marks():
        fields = cluster.info(cluster.leader())
        return int(fields["committed"]), int(fields["everywhere"])

    committed, everywhere = marks()
    yield
    later_committed, later_everywhere = marks()
    run.figures["committed_moved_by"] = later_committed - committed
    if later_committed <= committed or later_everywhere != everywhere or everywhere >= later_committed:
        run.problems.append(f"marks {committed}, {everywhere} became {later_committed}, {later_everywhere}")
    client = cluster.client(cluster.leader())
    replies = client.ask_all([("SET", "waited", "1"), ("WAIT", 1, 1000), ("WAIT", 2, 200)])
    if replies != ["OK", 1, 1]:
        run.problems.append(f"WAIT 1 and WAIT 2 with one away: {replies}")
    cluster.servers[away].start()
    run.after = caught_up


def caught_up(run):
    """After the load: everywhere reaches committed again, and WAIT for all is answered."""
    if not run.cluster.wait_until_level():
        run.problems.append("everywhere does not reach the last entry again")
    client = run.cluster.client(run.cluster.leader())
    replies = client.ask_all([("SET", "waited", "2"), ("WAIT", 2, 5000)])
    if replies != ["OK", 2]:
        run.problems.append(f"WAIT 2 with all back: {replies}")


def rolling_restart(run):
    """All nodes, one after the other, under load; a client that retries sees no error."""
    clients = [Retrying(f"retries{at}", run.cluster, at) for at in range(3)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    for node in run.cluster.nodes:
        run.cluster.servers[node].stop()
        run.cluster.servers[node].start()
        run.cluster.wait_for(node)
    yield
    for client in clients:
        client.stopped = True
    for client in clients:
        client.join(timeout=30)
    errors = [error for client in clients for error in client.errors]
    run.problems += errors[:5]
    run.more_keys += [key for client in clients for key in client.acknowledged]
    run.figures["errors"] = len(errors)
    run.figures["retries"] = sum(client.retries for client in clients)
    run.figures["slowest_ms"] = round(1000 * max(client.longest_s for client in clients))


def members_change(run):
    """Two nodes are added and two removed under load, the leader among them."""
    cluster = run.cluster
    for node in (4, 5):
        cluster.join(node)
        began = time.monotonic()
        cluster.steer("add", cluster.entry(node), through=run.leader)
        run.figures[f"node_{node}_added_ms"] = round(1000 * (time.monotonic() - began))
        cluster.nodes.append(node)
    for node in (cluster.leader(), None):
        node = node or next(node for node in cluster.nodes if node <= 3)
        # Who is removed is told so by the others, not by itself.
        through = next(other for other in cluster.nodes if other != node)
        cluster.steer("remove", str(node), through=through)
        cluster.nodes.remove(node)
        cluster.servers[node].kill9()
    yield


members_change.is_plain = True


def members_change_all_killed(run):
    """The same, and then all are killed at once: what was changed must not be forgotten."""
    yield from members_change(run)
    for node in run.cluster.nodes:
        run.cluster.servers[node].kill9()
    run.cluster.start()


members_change_all_killed.is_plain = True


class Traced:
    """strace at work on a running server."""

    def __init__(self, server, *expressions):
        # The server runs in a group of its own; the trace must end before it.
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(server.process.pid)]
        for expression in expressions:
            command += ["-e", expression]
        try:
            self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        except OSError as error:
            raise Skipped(f"strace: {error}") from None
        time.sleep(0.3)
        if self.process.poll() is not None:
            raise Skipped(f"strace may not trace here: {self.process.stderr.read().decode().strip()}")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()


def disk_stalls(run):
    """Each durable write of the leader takes three seconds: it hands over by itself."""
    traced = Traced(run.cluster.servers[run.leader], "trace=pwritev2,fdatasync",
                    "inject=pwritev2,fdatasync:delay_enter=3000000")
    run.fault_s = 4.0
    yield
    run.figures["handed_over"] = run.cluster.leader(others(run.leader)) != run.leader
    if not run.figures["handed_over"]:
        run.problems.append("the leader whose disk stalls still leads")
    traced.end()


disk_stalls.flags = ["--rung", "pwritev2"]


def disk_fails(run):
    """Every durable write of the leader fails: it stops, and another one leads."""
    traced = Traced(run.cluster.servers[run.leader], "trace=pwritev2,fdatasync,fsync",
                    "inject=pwritev2,fdatasync,fsync:error=EIO")
    yield
    traced.end()
    run.cluster.servers[run.leader].kill9()
    run.cluster.servers[run.leader].start()


disk_fails.flags = ["--rung", "pwritev2"]


def disk_full(run):
    """The leader's disk has no room left: it hands over by itself, and catches up when there is room."""
    run.leader = 1
    run.cluster.lead(1)
    run.began = time.monotonic()
    filler = os.path.join(run.cluster.servers[1].directory, "filler")
    with open(filler, "wb") as file:
        try:
            while True:
                file.write(b"x" * (1 << 20))
                file.flush()
        except OSError:
            pass
    # The log has spare segments: they are filled before the disk is missed.
    client = run.cluster.client(2, timeout=30)
    done, deadline = [], time.monotonic() + 60
    while b"its disk is full" not in run.cluster.servers[1].read_log() and time.monotonic() < deadline:
        batch = [f"large:{len(done)}:{place}" for place in range(16)]
        replies = client.ask_all([("SET", key, value_of(key, 32 << 10)) for key in batch])
        done += [key for key, reply in zip(batch, replies) if reply == "OK"]
    run.fault_s = 1.0
    yield
    _, lost, wrong, examples = check_all(client, [(key, value_of(key, 32 << 10)) for key in done], chunk=16)
    if lost or wrong:
        run.problems.append(f"large values: {lost} lost, {wrong} wrong: {examples}")
    run.figures["large_values"] = len(done)
    run.figures["handed_over"] = b"its disk is full" in run.cluster.servers[1].read_log()
    if not run.figures["handed_over"]:
        run.problems.append("the leader whose disk is full still leads")
    os.remove(filler)


def small_disk(cluster):
    """Node 1 gets a small disk of its own."""
    path = cluster.servers[1].directory
    os.makedirs(path)
    command = ["mount", "-t", "tmpfs", "-o", "size=512m,mode=700", "tmpfs", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped(f"mount is not allowed: {done.stderr.strip()}")


disk_full.prepare = small_disk
disk_full.clean = lambda cluster: subprocess.run(
    ["umount", "-l", cluster.servers[1].directory], check=False, capture_output=True)


def memory_runs_out(run):
    """The system has less memory left than the nodes want: whoever leads hands over, and pauses before it does
    so again."""
    yield
    logs = [server.read_log() for server in run.cluster.servers.values()]
    run.figures["handed_over"] = sum(log.count(b"little memory") for log in logs)
    if not run.figures["handed_over"]:
        run.problems.append("no leader handed over for lack of memory")


def want_much(cluster):
    path = os.path.join(cluster.directory, "settings.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write('memory-left-min = "1000gb"\n')
    for server in cluster.servers.values():
        server.flags += ["--config", path]


memory_runs_out.prepare = want_much


# In the order of the table in the design, then the rest.
SCENARIOS = {
    fault.__name__: fault
    for fault in (leader_cut_off, leader_cut_off_wait_1, switchover, leader_killed, sessions,
                  leader_killed_follower_lags,
                  leader_restarted_at_once, all_killed, leader_stopped, majority_killed, follower_cut_off,
                  one_way_cut, slow_links, disk_wiped, table_damaged, follower_away, rolling_restart, members_change,
                  members_change_all_killed, disk_stalls, disk_fails, disk_full, memory_runs_out)
}
