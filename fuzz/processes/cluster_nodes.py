"""The processes of a cluster, and what is asked of all of them: who leads, who is behind, who led when."""

import os
import re
import signal
import subprocess
import time

from harness import CannotRun, Client, Server, free_port
from proxy import Proxy

NODES = (1, 2, 3)
RESUME_MAX_S = 30.0
LEADS = re.compile(rb"new role.*role(?:\x1b\[[0-9;]*m)*=(?:\x1b\[[0-9;]*m)*Leader.*term(?:\x1b\[[0-9;]*m)*=(?:\x1b\[[0-9;]*m)*(\d+)")


class Cluster:
    """Three nodes; each reaches each other one through a proxy of its own.

    Without proxies (`is_plain`) more nodes can join: `join` starts one that waits to be added.
    """

    def __init__(self, binary, directory, witness=0, tls=False, is_plain=False, flags=(), settings=None):
        self.binary, self.directory, self.settings = binary, directory, settings
        os.makedirs(directory)
        self.witness, self.is_plain, self.more_flags = witness, is_plain, list(flags)
        self.nodes = list(NODES)
        self.ports = {node: free_port() for node in range(1, 6)}
        self.peer_ports = {node: free_port() for node in range(1, 6)}
        self.proxies = {}
        self.servers = {}
        self.certificates = None
        if tls:
            self.certificates = os.path.join(directory, "certificates")
            command = [binary, "cluster", "certificates", "--dir", self.certificates, "--nodes", "1,2,3,4,5"]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                raise CannotRun(f"cluster certificates: {made.stderr.strip()}")
        for node in NODES:
            entries = [self.entry(other, node) for other in NODES]
            self.servers[node] = self.server(node, ["--cluster", ",".join(entries)])

    @property
    def data(self):
        return tuple(node for node in self.nodes if node != self.witness)

    def entry(self, other, seen_from=None):
        peer_port = self.peer_ports[other]
        if seen_from is not None and other != seen_from and not self.is_plain:
            proxy = Proxy(("127.0.0.1", peer_port))
            self.proxies[seen_from, other] = proxy
            peer_port = proxy.port
        role = "+witness" if other == self.witness else ""
        return f"{other}=127.0.0.1:{self.ports[other]}@{peer_port}{role}"

    def server(self, node, flags):
        flags = ["--node-id", str(node), *flags, *self.more_flags]
        if self.certificates:
            for flag, name in (("cert", f"node-{node}.pem"), ("key", f"node-{node}.key"), ("ca", "authority.pem")):
                flags += [f"--cluster-tls-{flag}", os.path.join(self.certificates, name)]
        where = os.path.join(self.directory, f"node-{node}")
        return Server(self.binary, where, self.ports[node], flags, settings=self.settings)

    def join(self, node):
        """Starts a node that is to be added."""
        self.servers[node] = self.server(node, ["--cluster", self.entry(node), "--join"])
        self.servers[node].start()

    def steer(self, *words, through):
        """`strandline cluster ...`, asked of one node; returns its exit code."""
        command = [self.binary, "cluster", *words, "--node", f"127.0.0.1:{self.ports[through]}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command[1:])}: {done.returncode} {done.stdout} {done.stderr}")
        return done.stdout

    def start(self, nodes=None):
        for node in nodes or self.nodes:
            self.servers[node].start()

    def stop(self):
        for server in self.servers.values():
            if server.is_running():
                os.killpg(server.process.pid, signal.SIGCONT)
            server.kill9()

    def client(self, node, timeout=5):
        return Client(("127.0.0.1", self.ports[node]), timeout=timeout)

    def info(self, node, timeout=5):
        """The fields of INFO replication."""
        text = self.client(node, timeout).ask("INFO", "replication").decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def leader(self, among=None):
        """The one node that says it leads and can prove it by a read."""
        deadline = time.monotonic() + RESUME_MAX_S
        while time.monotonic() < deadline:
            for node in among or self.nodes:
                try:
                    if self.info(node, 1).get("role") == "master" and self.client(node, 1).ask("GET", "nothing") is None:
                        return node
                except OSError:
                    pass
            time.sleep(0.02)
        raise CannotRun("no leader: " + " | ".join(server.tail()[-300:] for server in self.servers.values()))

    def lead(self, node):
        """Has this node lead."""
        deadline = time.monotonic() + RESUME_MAX_S
        while time.monotonic() < deadline:
            leader = self.leader()
            if leader == node:
                return
            self.client(leader).ask("FAILOVER", "TO", "127.0.0.1", self.ports[node])
            time.sleep(0.2)
        raise CannotRun(f"node {node} does not take the lead")

    def wait_until_readable(self):
        for node in self.data:
            self.wait_for(node)

    def wait_for(self, node):
        deadline = time.monotonic() + RESUME_MAX_S
        while True:
            try:
                if self.client(node, 2).ask("GET", "nothing") is None:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise CannotRun(f"node {node} answers no reads: {self.servers[node].tail()}")
            time.sleep(0.05)

    def wait_until_level(self):
        """Until no node lacks anything that the leader has: true if that comes to pass."""
        deadline = time.monotonic() + RESUME_MAX_S
        while time.monotonic() < deadline:
            fields = self.info(self.leader())
            if fields["everywhere"] == fields["last"]:
                return True
            time.sleep(0.05)
        return False

    def isolate(self, node):
        for pair, proxy in self.proxies.items():
            if node in pair:
                proxy.cut()

    def slow(self, delay_s=0.0, bytes_per_s=0, to=None):
        """Slows links down: all, or those to some nodes."""
        for (_, target), proxy in self.proxies.items():
            if to is None or target in to:
                proxy.slow(delay_s, bytes_per_s)

    def heal(self):
        for proxy in self.proxies.values():
            if proxy.is_cut or proxy.delay_s or proxy.bytes_per_s:
                proxy.heal()

    def leaders(self):
        """Who led in which term, by the nodes' own logs."""
        led = {}
        for node, server in self.servers.items():
            for log in server.logs:
                log.seek(0)
                for term in LEADS.findall(log.read()):
                    led.setdefault(int(term), set()).add(node)
        return led
