#!/usr/bin/env python3
"""Kills the server with -9 under load, again and again, and checks every acknowledged write.

Several connections write new keys, overwrite and delete old ones at full speed. At a random moment of
each round the server is killed and started again on the same directory. What was acknowledged is
remembered over all rounds: a sample of it is checked in each round, all of it at the end. A write
whose reply never came may have happened or not, so both its value and the one before are right for
its key, and which of them it is must not change afterwards.

    kill9.py --rounds 100 --seconds-per-round 1
"""

import itertools
import random
import sys
import threading
import time

from harness import CannotRun, Server, ServerError, arguments, check_all, main, value_of

SAMPLE = 2000


class Writer(threading.Thread):
    """One connection of one round. Owns its keys: nobody else writes them."""

    def __init__(self, number, known, server, seed, pipeline):
        super().__init__(daemon=True)
        self.number = number
        self.known = known  # key -> acknowledged version; 0 is deleted
        self.server = server
        self.random = random.Random(seed)
        self.pipeline = pipeline
        self.unknown = {}  # key -> versions that may be there as well
        self.keys = list(known)
        self.acknowledged = 0
        self.refused = 0
        self.failure = None

    def run(self):
        try:
            client = self.server.connect()
        except OSError:
            return
        try:
            while True:
                self.batch(client)
        except OSError:
            pass  # Killed: that is what we wait for.
        except Exception as error:  # Shown by the main thread.
            self.failure = error
        finally:
            client.close()

    def batch(self, client):
        asked, commands = [], []
        for _ in range(self.pipeline):
            key, version = self.choose(asked)
            asked.append((key, version))
            if version == 0:
                commands.append(("DEL", key))
            else:
                commands.append(("SET", key, value_of(f"{key}@{version}")))
        for key, version in asked:
            self.unknown.setdefault(key, []).append(version)
        client.send(commands)
        for key, version in asked:
            reply = client.reply()
            if isinstance(reply, ServerError):
                self.refused += 1
                self.unknown[key].remove(version)
            elif version == 0 or reply == "OK":
                # Replies come in order: what was asked of this key before is settled too.
                if key not in self.known:
                    self.keys.append(key)
                self.known[key] = version
                versions = self.unknown[key]
                del versions[: versions.index(version) + 1]
                self.acknowledged += 1
            else:
                raise AssertionError(f"{key}: {reply!r}")
            if not self.unknown[key]:
                del self.unknown[key]

    def choose(self, asked):
        """Mostly a new key; now and then one of the old ones, overwritten or deleted."""
        dice = self.random.random()
        if dice < 0.8 or not self.keys:
            return f"w{self.number}:{next(COUNTER)}", next(COUNTER)
        key = self.random.choice(self.keys)
        return key, (0 if dice < 0.85 else next(COUNTER))


COUNTER = itertools.count(1)


def expected(key, version):
    return None if version == 0 else value_of(f"{key}@{version}")


def settle_unknown(client, known, unknown):
    """Looks which of the possible versions of unanswered writes are there; they stay from now on.
    Returns how many keys have nothing, and how many something else."""
    lost = wrong = 0
    for key, versions in unknown.items():
        found = client.ask("GET", key)
        if isinstance(found, ServerError):
            raise CannotRun(f"GET {key}: {found}")
        possible = ([known[key]] if key in known else [0]) + versions
        for version in possible:
            if found == expected(key, version):
                known[key] = version
                break
        else:
            lost += found is None
            wrong += found is not None
            if lost + wrong <= 5:
                print(f"BAD {key}: {found!r} is none of versions {possible}", file=sys.stderr)
    return lost, wrong


def check(client, pairs):
    pairs = list(pairs)
    there = [(key, expected(key, version)) for key, version in pairs if version]
    _, lost, wrong, examples = check_all(client, there)
    gone = [(key, None) for key, version in pairs if not version]
    _, none, back, more = check_all(client, gone)
    for example in examples + more:
        print(f"BAD {example}", file=sys.stderr)
    return lost, wrong + none + back


def work(parsed, directory):
    rng = random.Random(parsed.seed)
    server = Server(parsed.binary, directory + "/data")
    known = [{} for _ in range(parsed.connections)]
    totals = {"rounds": 0, "acknowledged": 0, "refused": 0, "lost": 0, "wrong": 0}
    restart_max = 0.0
    server.start()
    try:
        for number in range(parsed.rounds):
            writers = [
                Writer(place, known[place], server, rng.random(), parsed.pipeline)
                for place in range(parsed.connections)
            ]
            for writer in writers:
                writer.start()
            time.sleep(rng.uniform(0.05, 2 * parsed.seconds_per_round))
            if not server.is_running():
                raise CannotRun(f"the server ended by itself in round {number}: {server.tail()}")
            server.kill9()
            for writer in writers:
                writer.join()
                if writer.failure:
                    raise writer.failure
                totals["acknowledged"] += writer.acknowledged
                totals["refused"] += writer.refused
            restart_max = max(restart_max, server.start())
            client = server.connect()
            for writer in writers:
                lost, wrong = settle_unknown(client, writer.known, writer.unknown)
                totals["lost"] += lost
                totals["wrong"] += wrong
            everything = [pair for part in known for pair in part.items()]
            sample = everything if number == parsed.rounds - 1 else rng.sample(
                everything, min(SAMPLE, len(everything)))
            lost, wrong = check(client, sample)
            totals["lost"] += lost
            totals["wrong"] += wrong
            client.close()
            totals["rounds"] += 1
            if totals["lost"] or totals["wrong"]:
                print(f"round {number} is bad; stopping", file=sys.stderr)
                break
    finally:
        server.kill9()
    good = not totals["lost"] and not totals["wrong"] and totals["acknowledged"] > 0
    keys = sum(len(part) for part in known)
    return {**totals, "keys": keys, "restart_max_ms": round(restart_max * 1000), "good": good}


if __name__ == "__main__":
    main(work, arguments(
        __doc__, rounds=100, seconds_per_round=1.0, connections=8, pipeline=16))
