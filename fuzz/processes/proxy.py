"""A TCP proxy between two nodes that can be cut: what passes when the cut begins is lost, connections
stay open and silent, as when a cable is pulled. Healed, it closes them, so that both sides begin anew.
"""

import select
import socket
import threading


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
        try:
            while True:
                readable, _, _ = select.select(pair, [], [], 1)
                for end in readable:
                    chunk = end.recv(1 << 16)
                    if not chunk:
                        return
                    if not self.is_cut:
                        (onward if end is accepted else accepted).sendall(chunk)
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

    def heal(self):
        self.is_cut = False
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.close(pair)
