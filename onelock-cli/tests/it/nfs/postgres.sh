#!/bin/bash
# `onelock run` starts a PostgreSQL database on the share, on the client that holds the lock. That client
# dies in three ways, and the other takes over. There are never two postmasters, and no confirmed row is lost.
set -u
fail() { echo "$*"; for c in a b; do echo "--- $c"; cat "/tmp/$c.log"; done; ps axo pid,ppid,stat,args | grep postgres; exit 1; }
as_user="setpriv --reuid 1000 --regid 1000 --clear-groups"
mkdir -m 700 /srv/nfs/pg; chown 1000:1000 /srv/nfs/pg
$as_user initdb -D /srv/nfs/pg -A trust -U app --no-locale -E UTF8 --no-sync --no-instructions >/tmp/initdb.log 2>&1 ||
  { cat /tmp/initdb.log; exit 1; }

# Under the lock a postmaster.pid is outdated, and its process id may belong to any process here.
start() { # CLIENT: waits for the lock, then runs the server
  "on_$1" onelock run --url efs:///efs/locks --grace 2s pg -c \
    "rm -f /efs/pg/postmaster.pid; exec $as_user postgres -D /efs/pg -k /tmp -c listen_addresses= -c recovery_init_sync_method=syncfs" >>"/tmp/$1.log" 2>&1 &
  eval "job_$1=$!"
}
sql() { local c=$1; shift; "on_$c" psql -h /tmp -U app -d postgres -v ON_ERROR_STOP=1 -qtA "$@"; }
up() { # CLIENT: waits until its server answers
  for i in {1..150}; do sql "$1" -c 'select 1' >/dev/null 2>&1 && return; sleep 0.3; done; fail "the server on $1 does not come up"
}
rows=0
write_on() { # CLIENT: commits rows there, one by one, until its server is gone; notes those that were confirmed
  rows=$((rows + 1000000))
  seq $((rows + 1)) $((rows + 100000)) | sed 's/.*/insert into rows values (&) returning n;/' | sql "$1" >>/tmp/confirmed 2>/dev/null &
}
grown() { # waits for 20 more confirmed rows
  local want=$(($(wc -l </tmp/confirmed) + 20))
  for i in {1..300}; do [ "$(wc -l </tmp/confirmed)" -ge "$want" ] && return; sleep 0.1; done; fail "no rows are written"
}
complete_on() { # CLIENT
  # The last line may be incomplete, because its writer was killed.
  grep -E '^[0-9]{7}$' /tmp/confirmed | sort >/tmp/expected
  sql "$1" -c 'select n from rows' | sort >/tmp/found
  local lost; lost=$(comm -23 /tmp/expected /tmp/found)
  [ -z "$lost" ] || fail "confirmed rows are not there: $lost"
}

# Prints each change of the number of postmasters, whose parents are no servers. Dying processes do
# not count, nor do the children of a killed postmaster, which live for a moment longer. The command
# line of a child is a title.
cat >/tmp/watch.py <<'X'
import os, time
def stat(pid):
    with open(f"/proc/{pid}/stat") as f:
        name, rest = f.read().rsplit(")", 1)
    rest = rest.split()
    return name.split("(", 1)[1], rest[0], rest[1], int(rest[6])
def killed(pid):
    with open(f"/proc/{pid}/status") as f:
        return any(line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) & 0x100 for line in f)
def is_child(pid):
    with open(f"/proc/{pid}/cmdline") as f:
        return f.read().startswith("postgres: ")
def postmasters():
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, state, parent, flags = stat(pid)
            exiting = state in "ZX" or flags & 4
            if name != "postgres" or exiting or is_child(pid):
                continue
            if stat(parent)[0] != "postgres" and not killed(pid):
                found += 1
        except OSError:
            pass
    return found
before = None
while True:
    now = postmasters()
    if now != before:
        print(f"{time.clock_gettime(time.CLOCK_MONOTONIC):.2f} {now}", flush=True)
    before = now
    time.sleep(0.02)
X
python3 /tmp/watch.py >/tmp/postmasters & watcher=$!
takeover() { echo "FIGURE postgres: $1: rows again $2 s later, $(wc -l </tmp/confirmed) confirmed rows so far, none missing"; }

: >/tmp/confirmed
start a; up a
sql a -c 'create table rows (n int primary key)'
start b; write_on a; grown
kill -9 $job_a; began=$SECONDS
up b; complete_on b; write_on b; grown
takeover "SIGKILL of onelock" $((SECONDS - began))

start a; kill_b; began=$SECONDS
up a; complete_on a; write_on a; grown
takeover "power loss" $((SECONDS - began))

boot_b; start b; grown; cut_a; began=$SECONDS
up b; complete_on b; write_on b; grown; complete_on b
takeover "network cut" $((SECONDS - began))

kill $watcher
cat /tmp/postmasters
awk '$2 > 1 { two = 1 } $2 == 1 { ones++ } END { exit two || ones != 4 }' /tmp/postmasters || fail "not four postmasters one after the other"
