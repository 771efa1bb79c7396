#!/usr/bin/env python3
"""A full disk refuses writes with an error, keeps serving reads, and resumes by itself.

The server runs on a small tmpfs, beside a filler file. Writes go on until the first is refused. Reads
must still be answered, and what was acknowledged must be there. Then the filler is removed: writes must
be taken again without a restart. After kill -9 and a restart everything acknowledged is still there.
"""

import os
import subprocess
import sys
import time

from harness import CannotRun, Server, ServerError, arguments, check_all, main, skip, value_of

VALUE_LEN = 32 << 10
PIPELINE = 16
RESUME_MAX_S = 30


def mount(path, megabytes):
    os.makedirs(path)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        os.rmdir(path)
        skip(f"mount is not allowed: {done.stderr.strip()}")


def write_until_refused(client, first, count_max):
    """Returns (keys acknowledged, the refusal or none)."""
    keys = []
    for start in range(first, first + count_max, PIPELINE):
        batch = [f"full:{number}" for number in range(start, start + PIPELINE)]
        refusal = None
        replies = client.ask_all([("SET", key, value_of(key, VALUE_LEN)) for key in batch])
        for key, reply in zip(batch, replies):
            if isinstance(reply, ServerError):
                refusal = refusal or reply
            elif reply != "OK":
                raise CannotRun(f"SET {key}: {reply!r}")
            else:
                keys.append(key)
        if refusal:
            return keys, refusal
    return keys, None


def pairs(keys):
    return [(key, value_of(key, VALUE_LEN)) for key in keys]


def work(parsed, directory):
    disk = directory + "/disk"
    mount(disk, parsed.megabytes)
    problems = []
    server = Server(parsed.binary, disk + "/data")
    try:
        filler = disk + "/filler"
        with open(filler, "wb") as file:
            file.write(b"x" * (parsed.filler_megabytes << 20))
        server.start()
        client = server.connect()
        enough = (parsed.megabytes << 20) // VALUE_LEN * 2
        keys, refusal = write_until_refused(client, 0, enough)
        print(f"{len(keys)} acknowledged, then {refusal!r}", file=sys.stderr)
        if refusal is None:
            problems.append("twice the disk's size was written and nothing refused")
        right, lost, wrong, _ = check_all(client, pairs(keys), chunk=16)
        if right != len(keys):
            problems.append(f"while full: {lost} lost, {wrong} wrong")
        if not server.is_running():
            problems.append("the server ended on a full disk")

        os.remove(filler)
        started = time.monotonic()
        resumed_after = None
        while time.monotonic() - started < RESUME_MAX_S:
            reply = client.ask("SET", "resumed", "yes")
            if reply == "OK":
                resumed_after = time.monotonic() - started
                break
            time.sleep(0.05)
        if resumed_after is None:
            problems.append(f"no write was taken within {RESUME_MAX_S} s of there being room: {reply!r}")
        more, _ = write_until_refused(client, 2 * enough, 64)
        keys += more
        client.close()
        server.kill9()
        server.start()
        client = server.connect()
        _, lost, wrong, examples = check_all(client, pairs(keys), chunk=16)
        for example in examples:
            print(f"BAD {example}", file=sys.stderr)
        if resumed_after is not None and client.ask("GET", "resumed") != b"yes":
            lost += 1
    finally:
        server.kill9()
        subprocess.run(["umount", "-l", disk], check=False)
    good = not lost and not wrong and not problems
    return {
        "acknowledged": len(keys), "lost": lost, "wrong": wrong, "problems": problems,
        "resumed_after_ms": None if resumed_after is None else round(resumed_after * 1000),
        "good": good,
    }


if __name__ == "__main__":
    # Room for the log's segments (one in use, spares, one in reserve), the tables, and the filler.
    main(work, arguments(__doc__, megabytes=640, filler_megabytes=160))
