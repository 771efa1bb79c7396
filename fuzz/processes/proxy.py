"""A TCP proxy between two nodes that can be cut and slowed down.

Cut, what passes is lost and connections stay open and silent, as when a cable is pulled. Healed, it closes
them, so that both sides begin anew. Slowed down, what passes comes later, in order, and no faster than so
many bytes a second.
"""

import collections
import select
import socket
import threading
import time

CHUNK = 1 << 16
# What may be on its way in a slow link; more waits in the sender's socket.
ON_ITS_WAY_MAX = 1 << 20


class Proxy(threading.Thread):
    """One direction of trust: whoever connects here is connected to `target`."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target = target
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.port = self.listener.getsockname()[1]
        self.is_cut = False
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.pairs = set()
        self.lock = threading.Lock()
        self.start()

    def run(self):
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(accepted,), daemon=True).start()

    def serve(self, accepted):
        if self.is_cut:
            # Silence: nobody answers, and nobody says so.
            with self.lock:
                self.pairs.add((accepted, accepted))
            return
        try:
            onward = socket.create_connection(self.target, timeout=1)
        except OSError:
            accepted.close()
            return
        for end in (accepted, onward):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (accepted, onward)
        with self.lock:
            self.pairs.add(pair)
        # For each direction: chunks with the time at which they arrive.
        waiting = {accepted: collections.deque(), onward: collections.deque()}
        free_at = {accepted: 0.0, onward: 0.0}
        try:
            while True:
                now = time.monotonic()
                if not self.delay_s and not self.bytes_per_s:
                    # What was on its way when the link became fast again arrives at once.
                    for end, queue in waiting.items():
                        waiting[end] = collections.deque((now, chunk) for _, chunk in queue)
                        free_at[end] = now
                due = [queue[0][0] for queue in waiting.values() if queue]
                timeout = max(0.0, min(due) - now) if due else 1
                ready = [end for end in pair
                         if sum(len(chunk) for _, chunk in waiting[end]) < ON_ITS_WAY_MAX]
                readable, _, _ = select.select(ready, [], [], min(timeout, 1))
                now = time.monotonic()
                for end in readable:
                    chunk = end.recv(CHUNK)
                    if not chunk:
                        return
                    if self.is_cut:
                        continue
                    begins = max(now, free_at[end])
                    free_at[end] = begins + (len(chunk) / self.bytes_per_s if self.bytes_per_s else 0)
                    waiting[end].append((free_at[end] + self.delay_s, chunk))
                for end, other in (pair, pair[::-1]):
                    while waiting[end] and waiting[end][0][0] <= now:
                        other.sendall(waiting[end].popleft()[1])
        except (OSError, ValueError):
            pass
        finally:
            self.close(pair)

    def close(self, pair):
        with self.lock:
            self.pairs.discard(pair)
        for end in pair:
            end.close()

    def cut(self):
        self.is_cut = True

    def slow(self, delay_s=0.0, bytes_per_s=0):
        self.delay_s, self.bytes_per_s = delay_s, bytes_per_s

    def heal(self):
        self.is_cut = False
        self.slow()
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.close(pair)
