#!/usr/bin/env bash
# A million keys by redis-benchmark, kill -9, restart, every key compared: see million.py.
exec python3 "$(dirname "$0")/million.py" "$@"
