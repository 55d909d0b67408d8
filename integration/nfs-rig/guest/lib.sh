# Helpers of the guest, for busybox sh. A function marked "# cmd" is also a command on PATH. A
# function marked "# client", such as _cut, is a command for each client: cut_a, cut_b ... The lease
# is the shortest that nfsd allows; the mount options are those that EFS recommends.
LEASE=10 GRACE=10
MOPTS=vers=4.1,hard,timeo=600,retrans=2,rsize=1048576,wsize=1048576,noresvport
SRV=10.9.0.1
ip=/usr/sbin/ip tc=/usr/sbin/tc
now() { local a b; read -r a b </proc/uptime; echo "$a"; }
fail() { echo "$*" | tee /run/rig/err >&2; return 1; }

rig_setup() {
  /usr/sbin/modprobe loop; mkdir -p /run/disk; mount -t tmpfs -o size=600m disk /run/disk; truncate -s 512M /run/disk/ext4
  /usr/sbin/modprobe quota_v2
  /usr/sbin/mkfs.ext4 -q -F -O quota -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 /run/disk/ext4 &&
    mount -t ext4 -o loop,usrquota /run/disk/ext4 /srv/nfs || fail "mkfs or mount" || return 1
  rmdir /srv/nfs/lost+found
  chmod 1777 /srv/nfs
  hostname server
  $ip link set lo up
  /usr/sbin/modprobe -a bridge veth sch_netem nfsd
  /usr/sbin/modprobe nfs recover_lost_locks=0; /usr/sbin/modprobe nfsv4
  # Disables IPv6 before an interface exists, because address detection delays and sends packets.
  echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
  # Disables delegations: EFS has neither delegations nor callbacks.
  echo 0 >/proc/sys/fs/leases-enable
  $ip link add br0 address 02:00:00:09:00:01 type bridge && $ip addr add $SRV/24 dev br0 && $ip link set br0 up || fail bridge || return 1
  mount -t rpc_pipefs sunrpc /run/rpc_pipefs && mount -o bind /run/rpc_pipefs /var/lib/nfs/rpc_pipefs
  mount -t nfsd nfsd /proc/fs/nfsd || fail nfsd || return 1
  cat >/etc/nfs.conf <<X
[nfsd]
vers3=y
vers4=y
vers4.0=y
vers4.1=y
vers4.2=n
X
  touch /etc/exports /var/lib/nfs/etab /var/lib/nfs/rmtab
  # For NFSv3, which tests mount to check that it is refused.
  mkdir -p /run/rpcbind; chown 103 /run/rpcbind; /usr/sbin/rpcbind -w || fail rpcbind || return 1
  /usr/sbin/nfsdcld; /usr/sbin/rpc.mountd -N 2 -p 20048
  /usr/sbin/exportfs -o rw,sync,no_root_squash,no_subtree_check,insecure,fsid=0 '*:/srv/nfs' || fail exportfs || return 1
  # nfsdcld must open its pipe before nfsd starts, because otherwise nfsd uses another tracker.
  local i=0; while [ $i -lt 100 ] && ! [ -e /run/rpc_pipefs/nfsd/cld ]; do sleep 0.05; i=$((i+1)); done
  start_server || return 1
  # Ends the first grace period, because there is nothing to reclaim.
  i=0; while [ $i -lt 400 ] && [ "$(cat /proc/fs/nfsd/v4_end_grace)" != Y ]; do echo Y >/proc/fs/nfsd/v4_end_grace; sleep 0.05; i=$((i+1)); done
  _boot a && _boot b
}
start_server() { # cmd
  /usr/sbin/rpc.nfsd -L $LEASE -G $GRACE 8 || fail rpc.nfsd || return 1
}
stop_server() { # cmd
  /usr/sbin/rpc.nfsd 0
}
# restart_server [SECONDS DOWN]
restart_server() { # cmd
  stop_server; sleep "${1:-0}"; start_server
}
lease_seconds() { # cmd
  cat /proc/fs/nfsd/nfsv4leasetime
}
grace_seconds() { # cmd
  cat /proc/fs/nfsd/nfsv4gracetime
}
# Prints the state of the server, one line a client; server_locks adds opens and locks.
server_clients() { # cmd
  local d; for d in /proc/fs/nfsd/clients/*/; do [ -d "$d" ] || continue
    echo "client $(basename $d): $(tr '\n' ';' <$d/info | tr -d '"' | sed -E 's/clientid: //;s/address: /addr=/;s/Implementation [^;]*;//g;s/callback address[^;]*;//;s/minor version/mv/')"; done
}
server_locks() { # cmd
  local d; for d in /proc/fs/nfsd/clients/*/; do [ -d "$d" ] || continue
    echo "client $(basename $d) ($(sed -n 's/^name: //p' $d/info), $(sed -n 's/^status: //p' $d/info)):"; sed 's/^/   /' $d/states; done
}
_no() { local all=abcdefg; all=${all%%$1*}; echo $((11 + ${#all})); }
# Starts a client with separate net, mount, uts, pid and ipc namespaces, host name, boot id and
# machine id. After _kill this is the next boot of the same machine: it has the same name and NFS
# identity, a new boot id and a new mount.
_boot() { # client
  local c=$1 n p k i; n=$(_no $c); k=
  rm -f /run/rig/$c.ready /run/rig/$c.pid
  cat /proc/sys/kernel/random/uuid >/run/rig/$c.bootid
  [ -f /run/rig/$c.machine ] || tr -d - </proc/sys/kernel/random/uuid >/run/rig/$c.machine
  setsid /usr/bin/unshare --fork --pid --mount --uts --ipc --net --propagation private /usr/bin/busybox sh -c '
    c=$1; hostname client-$c
    mount -t proc proc /proc; mount -t sysfs sys /sys
    mount -o bind /run/rig/$c.bootid /proc/sys/kernel/random/boot_id
    : >>/etc/machine-id; mount -o bind /run/rig/$c.machine /etc/machine-id
    mount -t tmpfs tmp /tmp; chmod 1777 /tmp
    mount -t tmpfs shm /dev/shm; chmod 1777 /dev/shm
    /usr/sbin/ip link set lo up
    : >/run/rig/$c.ready; exec inns --init' - $c </dev/null >/dev/console 2>&1 &
  p=$!; i=0
  while [ $i -lt 400 ]; do
    if [ -e /run/rig/$c.ready ]; then k=$(cat /proc/$p/task/$p/children 2>/dev/null); [ -z "$k" ] || break; fi
    sleep 0.05; i=$((i+1)); done
  k=${k% }; [ -n "$k" ] || fail "client $c did not start" || return 1
  $ip link add to_$c type veth peer name eth0 address 02:00:00:09:00:$n netns $k || fail veth || return 1
  printf 'link set to_%s master br0 up\nneigh replace 10.9.0.%s lladdr 02:00:00:09:00:%s dev br0 nud permanent\n' $c $n $n | $ip -batch - || fail ip
  echo $k >/run/rig/$c.pid
  rm -f /run/rig/$c.cut
  printf 'addr add 10.9.0.%s/24 dev eth0\nlink set eth0 up\nneigh replace %s lladdr 02:00:00:09:00:01 dev eth0 nud permanent\n' $n $SRV | inns $c -- $ip -batch - || fail ip
  inns $c -- busybox sh -c "echo nfs-rig-$c >/sys/fs/nfs/net/nfs_client/identifier" || fail identifier
  [ ! -s /run/rig/delay ] || _netem $c
  _mount $c
}
_mount() { # a|b [OPTIONS]
  inns $1 -- /usr/sbin/mount.nfs4 $SRV:/ /mnt/$1 -o "${2:-$MOPTS}" || fail "mount $1" || return 1
  inns $1 -- busybox mount -o bind /mnt/$1 /efs
}
_umount() { inns $1 -- busybox umount /efs; inns $1 -- /usr/bin/umount /mnt/$1; }
# Sets up the link of a client at both ends. If it is cut, it drops every packet; otherwise it has
# the chosen delay.
_netem() {
  local c=$1 q; if [ -e /run/rig/$c.cut ]; then q='netem loss 100%'; elif [ -s /run/rig/delay ]; then q="netem delay $(cat /run/rig/delay)"; else q=; fi
  if [ "$q" ]; then $tc qdisc replace dev to_$c root $q; inns $c -- $tc qdisc replace dev eth0 root $q
  else $tc qdisc del dev to_$c root 2>/dev/null; inns $c -- $tc qdisc del dev eth0 root 2>/dev/null; fi; return 0
}
_cut() { # client
  : >/run/rig/$1.cut; _netem $1
}
_heal() { # client
  rm -f /run/rig/$1.cut; _netem $1
}
# latency 1ms: sets the one-way delay of every link, so that each RPC takes 2 ms longer. latency 0
# removes the delay.
latency() { # cmd
  local c
  if [ "${1:-0}" = 0 ]; then rm -f /run/rig/delay; else echo "$1" >/run/rig/delay; fi
  for c in a b c d e f g; do [ ! -e /run/rig/$c.pid ] || _netem $c; done
}
# expire CLIENT: makes the server forget a client and all its locks, as if its lease had ended.
expire() { # cmd
  local d; for d in /proc/fs/nfsd/clients/*/; do
    if grep -q "10.9.0.$(_no $1):" $d/info; then echo expire >$d/ctl; fi
  done
}
# Simulates a power loss of a client: cuts its link, then kills every process. Nothing reaches the
# server.
_kill() { # client
  _cut $1; $ip link del to_$1; kill -9 "$(cat /run/rig/$1.pid)"; rm -f /run/rig/$1.pid
}
# remount_a [OPTIONS]: unmounts and mounts client A with other options. Its identity at the server
# stays the same.
_remount() { # client
  _umount $1 && _mount "$@"
}
# remount3_a OPTIONS: mounts client A as NFSv3. There is no statd, so the options must keep locks on
# the client.
_remount3() { # client
  _umount $1 &&
    inns $1 -- /usr/sbin/mount.nfs $SRV:/srv/nfs /mnt/$1 -o "vers=3,hard,proto=tcp,port=2049,mountport=20048,mountproto=tcp,$2" &&
    inns $1 -- busybox mount -o bind /mnt/$1 /efs
}
# rpcs_a: prints the RPC counts of a client's mount from mountstats, "OP COUNT" a line.
_rpcs() { # client
  inns $1 -- busybox awk '/ mounted on .* with fstype /{on=($5=="/mnt/'$1'")} on&&/^\t *[A-Z_0-9]+: /{gsub(":","",$1); if ($2>0) print $1,$2}' /proc/self/mountstats
}
