"""What the scripts here share: a server process, a small client, and how values follow from keys.

Only the standard library is used. A script prints one JSON object as its last line and ends with 0
(good), 1 (acknowledged writes lost, or another wrong answer), 3 (could not run) or 77 (skipped: the
reason is printed).
"""

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

GOOD, BAD, CANNOT, SKIPPED = 0, 1, 3, 77

READY_MAX_S = 60.0
SILENCE_MAX_S = 60.0


class CannotRun(Exception):
    """Something that says nothing about the server's promises."""


class ServerError:
    """An error reply."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return f"-{self.text}"


class Client:
    """One connection; commands are pipelined by sending several before reading."""

    def __init__(self, address, timeout=SILENCE_MAX_S):
        self.socket = socket.create_connection(address, timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.at = 0

    def close(self):
        self.socket.close()

    def send(self, commands):
        self.socket.sendall(b"".join(encode(command) for command in commands))

    def ask(self, *arguments):
        self.send([arguments])
        return self.reply()

    def ask_all(self, commands):
        self.send(commands)
        return [self.reply() for _ in commands]

    def reply(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return ServerError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self._exactly(length + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(max(int(rest), 0))]
        raise ConnectionError(f"not the Redis protocol: {line!r}")

    def _fill(self):
        if self.at:
            del self.buffer[: self.at]
            self.at = 0
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            raise ConnectionError("closed by the server")
        self.buffer += chunk

    def _line(self):
        while True:
            end = self.buffer.find(b"\r\n", self.at)
            if end >= 0:
                line = bytes(self.buffer[self.at : end])
                self.at = end + 2
                return line
            self._fill()

    def _exactly(self, length):
        while len(self.buffer) - self.at < length:
            self._fill()
        taken = bytes(self.buffer[self.at : self.at + length])
        self.at += length
        return taken


def encode(arguments):
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        if isinstance(argument, str):
            argument = argument.encode()
        elif isinstance(argument, int):
            argument = b"%d" % argument
        parts.append(b"$%d\r\n%s\r\n" % (len(argument), argument))
    return b"".join(parts)


class Server:
    """`strandline serve` on a directory. `prefix` is put before the command, as `strace` needs; `settings`
    go into its environment."""

    def __init__(self, binary, directory, port=None, flags=(), prefix=(), settings=None):
        self.binary = binary
        self.directory = directory
        self.port = port or free_port()
        self.flags = list(flags)
        self.prefix = list(prefix)
        self.settings = {f"STRANDLINE_{name.upper()}": value for name, value in (settings or {}).items()}
        self.process = None
        self.log = None
        self.logs = []  # of all its starts

    @property
    def address(self):
        return ("127.0.0.1", self.port)

    def start(self, ready_max=READY_MAX_S):
        """Starts it and waits for its line with `ready`. Returns the seconds that took."""
        started = time.monotonic()
        self.log = tempfile.TemporaryFile()
        self.logs.append(self.log)
        command = [*self.prefix, self.binary, "serve", "--dir", self.directory]
        command += ["--listen", f"127.0.0.1:{self.port}", *self.flags]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
            # The user's own settings are not meant for this server.
            env={name: value for name, value in os.environ.items()
                 if not name.startswith("STRANDLINE_")} | self.settings,
        )
        seen = b""
        while time.monotonic() - started < ready_max:
            readable, _, _ = select.select([self.process.stdout], [], [], 0.2)
            if readable:
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self.process.wait()
                    raise CannotRun(f"the server ended with {self.process.returncode}: {self.tail()}")
                seen += chunk
                if b"ready" in seen:
                    return time.monotonic() - started
        raise CannotRun(f"the server was not ready after {ready_max} s: {self.tail()}")

    def connect(self, timeout=SILENCE_MAX_S):
        return Client(self.address, timeout)

    def kill9(self):
        """SIGKILL to the server and whatever it runs under."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def stop(self, stopped_max=30):
        """SIGTERM, and waits until it has ended by itself."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(stopped_max)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not stop within {stopped_max} s: {self.tail()}") from None
        if code != 0:
            raise AssertionError(f"it stopped with {code}: {self.tail()}")
        self.process.stdout.close()
        self.process = None

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def read_log(self):
        """All that it wrote on standard error since its last start."""
        self.log.seek(0)
        return self.log.read()

    def tail(self):
        """The end of what it wrote on standard error."""
        if self.log is None:
            return ""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 4000))
        return self.log.read().decode(errors="replace").strip()[-1500:]


def free_port():
    """A port that nobody listens on, below those that the system gives to outgoing connections: a server
    that is killed must get its own port again."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def value_of(key, length=100):
    """The value of a key: nothing has to be remembered to check it, and nothing can compress it."""
    return hashlib.shake_128(key.encode()).digest(length)


def check_all(client, pairs, chunk=512):
    """Reads pairs of (key, expected value) back. Returns (right, lost, wrong, examples)."""
    right = lost = wrong = 0
    examples = []
    pending = []

    def settle():
        nonlocal right, lost, wrong
        replies = client.ask_all([("GET", key) for key, _ in pending])
        for (key, expected), found in zip(pending, replies):
            if isinstance(found, ServerError):
                raise CannotRun(f"GET {key}: {found}")
            if found == expected:
                right += 1
                continue
            if found is None:
                lost += 1
            else:
                wrong += 1
            if len(examples) < 5:
                examples.append(f"{key}: {'nothing' if found is None else found[:40]!r}")
        pending.clear()

    for pair in pairs:
        pending.append(pair)
        if len(pending) == chunk:
            settle()
    if pending:
        settle()
    return right, lost, wrong, examples


def arguments(description, **more):
    """The arguments that all scripts have: --binary, --seed, --dir."""
    parser = argparse.ArgumentParser(description=description)
    here = os.path.dirname(os.path.abspath(__file__))
    binary = os.path.normpath(os.path.join(here, "..", "..", "target", "release", "strandline"))
    parser.add_argument("--binary", default=binary)
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's random choices")
    parser.add_argument("--dir", default=None, help="where to make the temporary directory")
    for name, default in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parsed = parser.parse_args()
    if parsed.seed is None:
        parsed.seed = random.SystemRandom().randrange(1 << 32)
    return parsed


def main(work, parsed):
    """Runs `work(parsed, directory)`, which returns a summary with `good`, and ends the process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANNOT))
    if not os.access(parsed.binary, os.X_OK):
        print(f"cannot run: {parsed.binary} is missing: cargo build --release", file=sys.stderr)
        sys.exit(CANNOT)
    print(f"seed {parsed.seed}", file=sys.stderr)
    directory = tempfile.mkdtemp(prefix="strandline-", dir=parsed.dir)
    try:
        summary = work(parsed, directory)
    except CannotRun as reason:
        print(f"cannot run: {reason}", file=sys.stderr)
        sys.exit(CANNOT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps({"seed": parsed.seed, **summary}), flush=True)
    sys.exit(GOOD if summary["good"] else BAD)


def skip(reason):
    """Ends the process, loudly, without a result."""
    print(f"SKIPPED {os.path.basename(sys.argv[0])}: {reason}", file=sys.stderr)
    sys.exit(SKIPPED)
