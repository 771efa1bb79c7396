#!/usr/bin/env python3
"""A million keys written by redis-benchmark survive kill -9, each with its value.

redis-benchmark draws keys and values at random and ends when all its requests have been answered. So
what is there then (asked by SCAN and GET) is what was acknowledged. It is noted, the server is killed
with -9 at once, started again, and every key is read and compared. Since draws may coincide,
redis-benchmark is run again for what is missing to the full number.
"""

import shutil
import subprocess
import time

from harness import CannotRun, Server, ServerError, arguments, check_all, main, skip

# The largest range that redis-benchmark draws from: coincidences are rare.
RANGE = 2**31 - 1


def write(server, count):
    command = ["redis-benchmark", "-p", str(server.port), "-n", str(count), "-r", str(RANGE)]
    command += ["-c", "64", "-P", "16", "-q", "SET", "key:__rand_int__", "value:__rand_int__"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    text = done.stdout + done.stderr
    if done.returncode != 0 or "rror" in text:
        raise CannotRun(f"redis-benchmark: {text.strip()[-500:]}")


def note(client):
    """Every key with its value, as the server has it now."""
    pairs = {}
    cursor = b"0"
    while True:
        reply = client.ask("SCAN", cursor, "COUNT", "1000")
        if isinstance(reply, ServerError):
            raise CannotRun(f"SCAN: {reply}")
        cursor, keys = reply
        fresh = [key for key in keys if key not in pairs]
        pairs.update(zip(fresh, client.ask_all([("GET", key) for key in fresh])))
        if cursor == b"0":
            return pairs


def work(parsed, directory):
    server = Server(parsed.binary, directory + "/data")
    server.start()
    try:
        started = time.monotonic()
        while True:
            client = server.connect()
            there = client.ask("DBSIZE")
            client.close()
            if there >= parsed.keys:
                break
            # A few more than are missing, or small numbers would take many runs.
            write(server, max(parsed.keys - there, 64))
        wrote_s = time.monotonic() - started
        client = server.connect()
        pairs = note(client)
        client.close()
        if len(pairs) < parsed.keys:
            raise CannotRun(f"SCAN gave {len(pairs)} of {there} keys")
        server.kill9()
        restart_s = server.start()
        client = server.connect()
        right, lost, wrong, examples = check_all(client, pairs.items())
        count = client.ask("DBSIZE")
    finally:
        server.kill9()
    for example in examples:
        print(f"BAD {example}")
    good = lost == 0 and wrong == 0 and right == len(pairs) and count == len(pairs)
    return {
        "acknowledged": len(pairs), "right": right, "lost": lost, "wrong": wrong,
        "dbsize": count, "wrote_s": round(wrote_s, 1),
        "restart_ms": round(restart_s * 1000), "good": good,
    }


if __name__ == "__main__":
    if shutil.which("redis-benchmark") is None:
        skip("redis-benchmark is not installed")
    main(work, arguments(__doc__, keys=1_000_000))
