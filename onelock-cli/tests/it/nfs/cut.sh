#!/bin/bash
# A job on each client writes the time with every step. Client A is cut off for longer than the lease.
job() { echo "on_$1 onelock run --url efs:///efs/locks etl -c 'while :; do read up rest </proc/uptime; echo \$up; sleep 0.1; done'"; }
eval "$(job a)" >/tmp/a.out 2>/tmp/a.err &
until [ -s /tmp/a.out ]; do sleep 0.1; done
eval "$(job b)" >/tmp/b.out 2>/tmp/b.err &
sleep 3
[ -s /tmp/b.out ] && { echo "both run"; exit 1; }
cut_a
for i in {1..300}; do [ -s /tmp/b.out ] && break; sleep 0.1; done
sleep 1
last=$(tail -n 1 /tmp/a.out) first=$(head -n 1 /tmp/b.out)
echo "FIGURE onelock run: the job of the client that was cut off stopped at $last s, the other's began at $first s"
cat /tmp/a.err /tmp/b.err >&2
awk -v last="$last" -v first="$first" 'BEGIN { exit !(first > 0 && last < first) }' || { echo "they overlapped"; exit 1; }
