#!/usr/bin/env python3
"""A durable write that fails is never acknowledged, and the server says that it failed.

The server runs under strace, which makes the k-th call (of each thread) that makes data durable fail
with EIO, in one run for a single time and in another from then on. Writes are sent one by one. Whatever the server
answers, what it acknowledged must be there after kill -9 and a start without strace; and if the disk
goes on failing, writes must be answered with an error while reads go on, or the server must have
ended and said why.

`--rungs io_uring,pwritev2,direct-fdatasync,buffered-fdatasync,fsync --each 30` fails the first thirty calls
of every rung, one after the other.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time

from harness import CannotRun, Server, ServerError, arguments, check_all, main, skip, value_of

CALLS = "pwritev2,fdatasync,fsync,io_uring_enter"
# Enough for some thread to come to its k-th call.
WRITES_MAX = 4000
# A single failure may be mended by writing elsewhere; this many in a row may not.
INJECTED_MAX = 8
# An attached tracer that cannot inject says so at once.
STRACE_MAX_S = 10


def inject_works():
    probe = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO:when=1", "true"]
    try:
        return subprocess.run(probe, capture_output=True, timeout=STRACE_MAX_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def injections(trace):
    """How many calls strace has made fail."""
    with open(trace, encoding="utf-8", errors="replace") as lines:
        return sum("(INJECTED)" in line for line in lines)


def rungs(parsed):
    """The rungs that work here: of those asked for, or all that can be forced."""
    working = []
    for rung in parsed.rungs.split(","):
        with tempfile.TemporaryDirectory(dir=parsed.dir) as directory:
            server = Server(parsed.binary, directory, flags=["--rung", rung])
            try:
                server.start()
                working.append(rung)
            except CannotRun as reason:
                print(f"skipped: rung {rung} does not work here: {reason}", file=sys.stderr)
            finally:
                server.kill9()
    return working


def one_run(parsed, directory, when, is_lasting, rung):
    """Returns (acknowledged, refused, lost, wrong, problem)."""
    error = f"inject={CALLS}:error=EIO:when={when}{'+' if is_lasting else ''}"
    trace = directory + ".strace"
    prefix = ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={CALLS}", "-e", error]
    server = Server(parsed.binary, directory, flags=["--rung", rung], prefix=prefix)
    acknowledged, refused, first_error = [], 0, None
    problem, injected = None, 0
    try:
        try:
            server.start(ready_max=30)
        except CannotRun as reason:
            # The failure hit the opening: ending with a reason is right.
            if not server.tail():
                problem = f"it ended without saying why ({reason})"
            return 0, 0, 0, 0, problem
        client = server.connect(timeout=20)
        try:
            for number in range(WRITES_MAX if is_lasting else WRITES_MAX // 4):
                key = f"k{number}"
                reply = client.ask("SET", key, value_of(key))
                if reply == "OK":
                    acknowledged.append(key)
                else:
                    refused += 1
                    first_error = first_error or repr(reply)
                    if refused >= 20:
                        break
            if refused and acknowledged:
                reply = client.ask("GET", acknowledged[0])
                if isinstance(reply, ServerError) or reply != value_of(acknowledged[0]):
                    problem = f"a read after the failure: {reply!r}"
        except OSError as error:
            # An end is allowed if it was announced.
            time.sleep(0.5)
            if server.is_running():
                problem = f"the connection was dropped, the server runs: {error}"
            elif not server.tail():
                problem = "it ended without saying why"
        injected = injections(trace)
        if is_lasting and not refused and not problem and injected > INJECTED_MAX:
            problem = f"{injected} durable writes failed, and none was refused"
    finally:
        server.kill9()
    print(f"{rung}, when={when}{'+' if is_lasting else ''}: {injected} calls failed, {len(acknowledged)} "
          f"acknowledged, {refused} refused {first_error or ''}", file=sys.stderr)
    calm = Server(parsed.binary, directory)
    try:
        calm.start()
        client = calm.connect()
        _, lost, wrong, examples = check_all(client, [(key, value_of(key)) for key in acknowledged])
        for example in examples:
            print(f"BAD {example}", file=sys.stderr)
        if client.ask("SET", "afterwards", "x") != "OK":
            problem = problem or "a write after the restart was refused"
    finally:
        calm.kill9()
    return len(acknowledged), refused, lost, wrong, problem


def work(parsed, directory):
    rng = random.Random(parsed.seed)
    totals = [0, 0, 0, 0]
    problems = []
    runs = 0
    working = rungs(parsed)
    # From the first call on, one after the other: the first belong to the opening, the later ones to
    # writes. The others are drawn.
    whens = list(range(1, parsed.each + 1))
    whens += [rng.randrange(1, 20) if number == 0 else rng.randrange(20, 120) for number in range(parsed.runs)]
    cases = [(rung, number, when) for rung in working for number, when in enumerate(whens)]
    for rung, number, when in cases:
        is_lasting = number % 2 == 1
        *counts, problem = one_run(parsed, f"{directory}/{rung}-{number}", when, is_lasting, rung)
        totals = [total + count for total, count in zip(totals, counts)]
        runs += 1
        if problem:
            problems.append(f"{rung}, when={when}: {problem}")
            print(f"BAD {problems[-1]}", file=sys.stderr)
    acknowledged, refused, lost, wrong = totals
    good = not lost and not wrong and not problems and acknowledged > 0
    return {"runs": runs, "rungs": working, "acknowledged": acknowledged, "refused": refused, "lost": lost,
            "wrong": wrong, "problems": problems, "good": good}


if __name__ == "__main__":
    if shutil.which("strace") is None:
        skip("strace is not installed")
    if not inject_works():
        skip("strace may not trace here (ptrace is forbidden?)")
    main(work, arguments(__doc__, runs=4, each=0, rungs="auto"))
