"""Whether a recorded history of single registers is linearizable (Wing and Gong, with Lowe's memory).

A history is a list of operations, each a tuple (key, kind, value, called, answered): kind "write" or
"read", value what was written or found (None: nothing), and two times; `answered` is None if the outcome
was never known. Values are written once, so a write whose outcome is unknown and that nobody has read may
be left out: a history that has an order with it has one without it. Every key is judged alone, which is
enough (Herlihy and Wing: linearizability is local).

    python3 linearizable.py            tries itself out
"""

import math
import sys

STEPS_MAX = 2_000_000


def check(history):
    """Returns (violations, inconclusive): keys for which there is no order, and those given up."""
    by_key = {}
    for key, *operation in history:
        by_key.setdefault(key, []).append(operation)
    violations, inconclusive = [], []
    for key, operations in by_key.items():
        answer = check_register(operations)
        if answer is None:
            inconclusive.append(key)
        elif not answer:
            violations.append(key)
    return violations, inconclusive


def check_register(operations):
    """True if there is an order, False if there is none, None if it was given up."""
    found = {value for kind, value, _, _ in operations if kind == "read"}
    kept = []
    for kind, value, called, answered in operations:
        if answered is None:
            if kind == "read" or value not in found:
                continue
            answered = math.inf
        kept.append((called, answered, kind, value))
    kept.sort()
    written = {value for _, _, kind, value in kept if kind == "write"}
    if any(kind == "read" and value is not None and value not in written for _, _, kind, value in kept):
        return False
    # Depth first over which operation takes effect next; `done` has a bit for each that has.
    count = len(kept)
    everything = (1 << count) - 1
    stack = [(0, 0, None)]
    seen = set()
    steps = 0
    while stack:
        done, first, state = stack.pop()
        while first < count and done >> first & 1:
            first += 1
        if done == everything:
            return True
        # Sets of done operations begin with a long run of ones: only the rest tells them apart.
        place = (first, done >> first, state)
        if place in seen:
            continue
        seen.add(place)
        steps += 1
        if steps > STEPS_MAX:
            return None
        # Whatever was called before the earliest open answer may be next.
        limit = math.inf
        at = first
        candidates = []
        while at < count and kept[at][0] <= limit:
            if not done >> at & 1:
                limit = min(limit, kept[at][1])
                candidates.append(at)
            at += 1
        for at in candidates:
            called, _, kind, value = kept[at]
            if called > limit:
                continue
            if kind == "write":
                stack.append((done | 1 << at, first, value))
            elif value == state:
                stack.append((done | 1 << at, first, state))
    return False


def self_test():
    write, read = "write", "read"
    good = [
        [(write, 1, 0, 1), (read, 1, 2, 3)],
        [(write, 1, 0, 5), (read, None, 1, 2), (read, 1, 3, 4)],
        [(write, 1, 0, 1), (write, 2, 2, None), (read, 1, 3, 4), (read, 2, 5, 6)],
        [(write, 1, 0, 1), (write, 2, 2, None), (read, 1, 300, 400)],
        [(write, 1, 0, 9), (write, 2, 0, 9), (read, 2, 1, 3), (read, 1, 4, 8)],
    ]
    bad = [
        [(write, 1, 0, 1), (read, None, 2, 3)],
        [(write, 1, 0, 1), (write, 2, 2, 3), (read, 1, 4, 5)],
        [(write, 1, 0, 5), (read, 1, 1, 2), (read, None, 3, 4)],
        [(read, 7, 0, 1)],
        [(write, 1, 0, 1), (write, 2, 2, None), (read, 2, 3, 4), (read, 1, 5, 6)],
    ]
    for history in good:
        assert check_register(history) is True, history
    for history in bad:
        assert check_register(history) is False, history
    # A long one, with much at the same time.
    long = []
    for turn in range(2000):
        for client in range(4):
            long.append((write, (turn, client), turn * 10, turn * 10 + 9))
        long.append((read, (turn, 2), turn * 10 + 9.5, turn * 10 + 9.7))
    assert check_register(long) is True
    long.append((read, (3, 1), 30_000, 30_001))
    assert check_register(long) is False
    assert check([("a", *operation) for operation in good[0]] + [("b", *bad[0][0]), ("b", *bad[0][1])]) == (["b"], [])


if __name__ == "__main__":
    self_test()
    print("right")
    sys.exit(0)
