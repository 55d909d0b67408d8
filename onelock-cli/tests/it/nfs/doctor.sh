#!/bin/bash
# `onelock doctor` on real NFS: a fit mount, each kind of unfit mount, and two hosts that contend.
set -u
fail() { echo "$*"; exit 1; }
# says CODE TEXT...: the doctor on client A, with $options, exits with CODE and prints every TEXT.
options=
says() {
  local code=$1 got text; shift
  on_a onelock doctor --url efs:///efs/locks $options >/tmp/said 2>&1
  got=$?
  for text in "$@"; do grep -qE "$text" /tmp/said || { cat /tmp/said; fail "the doctor did not say \"$text\""; }; done
  [ $got = "$code" ] || { cat /tmp/said; fail "the doctor ended with $got, not $code"; }
}
says 0 '^good +file system: NFSv4.1 from 10.9.0.1:/ on /efs' '^good +mount options' '^good +lease: 10s' '^ +client identity: .*"nfs-rig-a/client-a"' \
  '^good +permissions: .* 700' '^good +space' '^good +writing' '^good +clock' '^fit for locks'

# A mount that hides the loss of a lock is refused before any probe, with all required changes.
efs=vers=4.1,hard,timeo=600,retrans=2,noresvport
remount_a vers=4.1,soft; says 73 'mounted with soft.* mount it with hard'
remount_a vers=4.1,softerr; says 73 'mounted with softerr.* mount it with hard'
for option in nolock local_lock=all local_lock=flock; do
  remount3_a $option; says 73 "mounted with $option.*mounted with vers=3.* mount it with vers=4.1"
done
remount_a $efs,ro; says 73 'read-only'
echo Y >/sys/module/nfs/parameters/recover_lost_locks
remount_a vers=4.1,soft; says 73 'soft.* recover_lost_locks=0'
echo N >/sys/module/nfs/parameters/recover_lost_locks
on_a umount /efs; says 73 'not on an NFS mount'; on_a mount --bind /mnt/a /efs

# Notes and warnings do not make a mount unfit.
remount_a vers=4.1,hard
on_a busybox sh -c 'chmod 777 /efs/locks; touch /efs/locks/other.lock; chown 1000 /efs/locks/other.lock'
says 0 '^ +mount options: without noresvport' '^warning +permissions: .*break any lock' '^ +files: 1 files belong to other users' '^fit for locks'
on_a busybox sh -c 'chmod 700 /efs/locks; rm /efs/locks/other.lock'
remount_a $efs

# Two hosts: first on one file system, then on two that look alike.
on_b onelock doctor --url efs:///efs/locks --peer --within 90s >/tmp/b.said 2>&1 & b=$!
options="--peer --within 90s"; says 0 '^good +two hosts: this host and client-b exclude each other'
wait $b || { cat /tmp/b.said; fail "the other side found something else"; }
grep -q 'this host and client-a exclude each other' /tmp/b.said || { cat /tmp/b.said; fail "the other side does not say so"; }
on_b onelock doctor --url 'efs:///tmp/locks?allow_local=true' --peer --within 10s >/tmp/b.said 2>&1 & b=$!
options="--peer --within 10s"; says 1 '^unfit +two hosts: no other host was met'
wait $b && fail "a host with a directory of its own found that in order"

# Two hosts with one NFS identity. Each ends the other's state at the server.
on_b busybox sh -c 'hostname client-a; echo nfs-rig-a >/sys/fs/nfs/net/nfs_client/identifier'
remount_b $efs
twin() { on_$1 onelock doctor --url efs:///efs/locks --peer --within 60s >/tmp/$1.said 2>&1 && fail "client $1 found its twin in order"; }
twin b & twin a; wait
grep -qE '^unfit +two hosts: this host and client-a have the same client identity' /tmp/a.said /tmp/b.said || { cat /tmp/?.said; fail "no doctor named the identity"; }
echo "FIGURE doctor: two clients found that they exclude each other"
