"""Who uses a cluster while something happens to it: writers of unique keys, users of registers, and a client
that retries as stock clients do. Each remembers what it was told."""

import threading
import time

from harness import ServerError, value_of

PIPELINE = 16
# What stock clients try again, and what every client here takes as: nothing was done.
RETRIED = ("CLUSTERDOWN", "READONLY", "LOADING", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS", "THROTTLED", "MISCONF")


class Writer(threading.Thread):
    """One connection at a time; its keys are its own.

    `stays`: it stays with its node whatever happens (a primary and its client that are cut off together);
    the others go on to the next node when theirs fails. `waits`: a write counts when WAIT says that so
    many other nodes have it.
    """

    def __init__(self, name, cluster, node, stays=False, waits=0):
        super().__init__(daemon=True)
        self.name, self.cluster, self.node = name, cluster, node
        self.stays, self.waits = stays, waits
        self.number = 0
        self.acknowledged = []
        self.unknown = self.refused = 0
        self.stopped = False
        self.times = []  # when writes were acknowledged, how many, and when they were sent

    def run(self):
        while not self.stopped:
            try:
                client = self.cluster.client(self.node, timeout=3)
                while not self.stopped:
                    if not self.batch(client):
                        break
            except OSError:
                time.sleep(0.005)
            if not self.stays:
                nodes = self.cluster.nodes
                at = nodes.index(self.node) if self.node in nodes else 0
                self.node = nodes[(at + 1) % len(nodes)]

    def batch(self, client):
        keys = [f"{self.name}:{self.number + place}" for place in range(PIPELINE)]
        self.number += PIPELINE
        commands = [("SET", key, value_of(key)) for key in keys]
        if self.waits:
            commands.append(("WAIT", self.waits, 1000))
        sent = time.monotonic()
        client.send(commands)
        refused = False
        done = []
        for key in keys:
            reply = client.reply()
            if reply == "OK":
                done.append(key)
            elif isinstance(reply, ServerError) and reply.text.startswith("UNKNOWN"):
                self.unknown += 1
            else:
                self.refused += 1
                refused = True
        if self.waits:
            reply = client.reply()
            if not isinstance(reply, int) or reply < self.waits:
                done = []
        self.acknowledged += done
        if done:
            self.times.append((time.monotonic(), len(done), sent))
        if refused:
            time.sleep(0.005)
        return not refused or self.stays


class User(threading.Thread):
    """Reads and writes a few registers through one node, one operation at a time, and records them for the
    linearizability checker. A value is written once."""

    def __init__(self, name, cluster, node, registers=4):
        super().__init__(daemon=True)
        self.name, self.cluster, self.node = name, cluster, node
        self.registers = registers
        self.history = []  # (key, kind, value, called, answered)
        self.stopped = False

    def run(self):
        number = 0
        while not self.stopped:
            try:
                client = self.cluster.client(self.node, timeout=3)
                while not self.stopped:
                    number += 1
                    self.operate(client, number)
                    time.sleep(0.003)
            except OSError:
                time.sleep(0.02)

    def operate(self, client, number):
        key = f"register:{(number // 2) % self.registers}"
        called = time.monotonic()
        if number % 2:
            value = f"{self.name}:{number}"
            place = len(self.history)
            # Unknown until it is answered.
            self.history.append((key, "write", value, called, None))
            reply = client.ask("SET", key, value)
            answered = time.monotonic()
            if reply == "OK":
                self.history[place] = (key, "write", value, called, answered)
            elif not (isinstance(reply, ServerError) and reply.text.startswith("UNKNOWN")):
                # Refused: nothing was done, so whoever reads it has found a fault.
                del self.history[place]
        else:
            reply = client.ask("GET", key)
            if not isinstance(reply, ServerError):
                value = reply.decode() if reply is not None else None
                self.history.append((key, "read", value, called, time.monotonic()))


class Retrying(threading.Thread):
    """One command at a time, tried again as stock clients do: on a lost connection with the next node, on the
    error words that say that nothing was done. Only what is left after that is an error to its user."""

    ATTEMPTS = 20

    def __init__(self, name, cluster, first):
        super().__init__(daemon=True)
        self.name, self.cluster, self.at = name, cluster, first
        self.acknowledged, self.errors = [], []
        self.times, self.retries, self.longest_s = [], 0, 0.0
        self.stopped = False
        self.connection = None

    def run(self):
        number = 0
        while not self.stopped:
            number += 1
            key = f"{self.name}:{number}"
            began = time.monotonic()
            reply = self.set(key)
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - began)
            if reply == "OK":
                self.acknowledged.append(key)
                self.times.append((now, 1, began))
            else:
                self.errors.append(f"{key}: {reply!r}")

    def set(self, key):
        reply = None
        for attempt in range(self.ATTEMPTS):
            try:
                if self.connection is None:
                    self.connection = self.cluster.client(self.cluster.nodes[self.at], timeout=5)
                reply = self.connection.ask("SET", key, value_of(key))
                if not isinstance(reply, ServerError) or not reply.text.startswith(RETRIED):
                    return reply
            except OSError as error:
                reply = error
                self.connection = None
                self.at = (self.at + 1) % len(self.cluster.nodes)
            self.retries += 1
            time.sleep(min(0.05 * attempt, 2.0))
        return reply


class Numbered(threading.Thread):
    """Counts in a key of its own, with numbered requests of a session: whatever it does not know the outcome of
    it sends again, under the same number, through the next node. So each answer is known before it comes."""

    def __init__(self, name, cluster, first):
        super().__init__(daemon=True)
        self.name, self.cluster, self.at = name, cluster, first
        self.number = self.again = 0
        self.wrong = []
        self.stopped = False
        self.connection = None

    def run(self):
        session = self.insist("OPEN")
        while not self.stopped:
            self.number += 1
            reply = self.insist("DO", str(session), str(self.number), "INCR", f"counter:{self.name}")
            if reply != self.number:
                self.wrong.append(f"{self.name}: request {self.number} was answered {reply!r}")

    def insist(self, *words):
        while True:
            try:
                if self.connection is None:
                    self.connection = self.cluster.client(self.cluster.nodes[self.at], timeout=3)
                reply = self.connection.ask("STRANDLINE", "SESSION", *words)
                if not isinstance(reply, ServerError) or not reply.text.startswith(("UNKNOWN",) + RETRIED):
                    return reply
            except OSError:
                self.connection = None
                self.at = (self.at + 1) % len(self.cluster.nodes)
            self.again += 1
            time.sleep(0.01)


def longest_gap_ms(times, began, ended):
    """The longest time within the bounds in which nobody's write was acknowledged."""
    inside = sorted(t for t, _, _ in times if began <= t <= ended)
    points = [began, *inside, ended]
    return round(1000 * max(b - a for a, b in zip(points, points[1:])))
