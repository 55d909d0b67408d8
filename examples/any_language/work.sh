#!/usr/bin/env bash
# Holds a lock over many commands. The script ends by itself if the lock is lost: onelock ends it
# and its children with SIGTERM, and with SIGKILL when the lock ends.
trap 'echo "lost"; exit 75' TERM

# `exec` matters: without it onelock would serve a subshell, and refuses to.
coproc LOCK { exec onelock hold -n "$@" nightly-etl; }
# Without the lock the output ends, and `wait` has the exit code: 1 if another client holds the lock.
hold=$!
read -r -u "${LOCK[0]}" held 2>/dev/null || { wait "$hold"; code=$?; echo "skipped: $code"; exit "$code"; }
echo "$held"

while read -r step; do
  echo "step $step"
done

# Or just end: the lock is released when the script ends, in whatever way.
exec {LOCK[1]}>&-
wait "$hold"
echo "released"
