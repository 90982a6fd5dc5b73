#!/usr/bin/env bash
# Three hosts on one machine, for as long as a command runs in their midst: a real `ray up` needs no more.
#
#   deploy/three_hosts.sh                    the whole check: ray up, serve, cut a host's link, mend it, ray down
#   deploy/three_hosts.sh COMMAND...         anything else, e.g. `bash` to look around (`ssh 10.77.0.11`, `cut 12`, `mend 12`)
#
# Each host is a set of namespaces: its own network with one address and a link to a bridge, its own processes (`ray
# stop` ends only that host's), /tmp, /dev/shm, home and host name, and an sshd. COMMAND runs on a fourth, the
# operator's, with a key for the others. It needs root, and iproute2, openssh-server and rsync.
#
# Everything, the bridge included, is inside one process namespace. When its first process ends, however it ends, the
# kernel ends all others and the namespaces are gone: there is nothing to clean up, and two runs do not meet.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$here")
python=${PYTHON:-$(command -v python3 || true)}
[ -x "$repo/.venv/bin/python" ] && python=${PYTHON:-$repo/.venv/bin/python}
net=10.77.0
hosts=(11 12 13)          # the last byte of each address; the operator is .1
keep=/mnt/keep            # what hosts share: the checkout, Python, models; all that a private /tmp or home would hide

missing() {
    echo "three_hosts: $1" >&2
    exit 77   # the usual status for "cannot be tried here"
}

check() {
    [ "$(uname -s)" = Linux ] || missing "needs Linux"
    [ "$(id -u)" = 0 ] || missing "needs root, for network namespaces"
    local tool
    for tool in ip unshare setpriv rsync ssh ssh-keygen /usr/sbin/sshd; do
        command -v "$tool" >/dev/null || missing "$tool is missing (Debian: iproute2 util-linux rsync openssh-client openssh-server)"
    done
    [ -x "$python" ] || missing "no Python; name one with paceline installed: PYTHON=.../bin/python"
    # Each is what comes first in a container that lacks a capability, or on a kernel that lacks a module.
    unshare --net true 2>/dev/null || missing "no network namespaces here (unshare --net; CAP_SYS_ADMIN)"
    unshare --mount --pid --uts --ipc --fork --mount-proc true 2>/dev/null ||
        missing "no namespaces of mounts and processes here (unshare --mount --pid --mount-proc; CAP_SYS_ADMIN)"
    unshare --net ip link add bridge type bridge 2>/dev/null || missing "no bridge can be made here (CAP_NET_ADMIN, module bridge)"
    unshare --net ip link add one type veth peer name other 2>/dev/null ||
        missing "no link between namespaces can be made here (CAP_NET_ADMIN, module veth)"
}

say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }

# --- first: a machine of our own -------------------------------------------------------------------------------------
outside() {
    check
    # In the background, so that SIGTERM is heard: `unshare` itself blocks it. Ctrl-C is for the command inside.
    env --default-signal=INT setpriv --pdeathsig KILL \
        unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc -- \
        "$here/three_hosts.sh" --operator "$@" <&0 &
    local unshared=$! status=0
    trap 'kill -KILL $unshared; exit 143' TERM
    trap : INT
    while kill -0 $unshared 2>/dev/null; do wait $unshared && status=0 || status=$?; done
    exit $status
}

# --- the operator's place: bridge, links, hosts, then the command ------------------------------------------------------
operator() {
    trap 'exit 130' INT TERM   # the first process of a namespace has no defaults
    hostname operator
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /mnt
    mkdir -p /run/sshd /run/netns "$keep"
    save_shared
    no_names
    ssh-keygen -q -t ed25519 -N '' -f /run/key
    ssh-keygen -q -t ed25519 -N '' -f /run/hostkey
    ip link set lo up
    ip link add bridge type bridge
    ip addr add $net.1/24 dev bridge
    ip link set bridge up
    own_folders   # before there are hosts, which begin with what is here
    for host in "${hosts[@]}"; do
        ip netns add "$host"
        ip link add "to$host" type veth peer name eth0 netns "$host"
        ip link set "to$host" master bridge up
        ip -n "$host" link set lo up
        ip -n "$host" addr add "$net.$host/24" dev eth0
        ip -n "$host" link set eth0 up
        ip -n "$host" route add default via $net.1   # leads nowhere, but tells Ray which address is its own
        ip -n "$host" route add unreachable 169.254.0.0/16   # where Ray looks for clouds' services: none, said at once
        ip netns exec "$host" unshare --mount --pid --uts --ipc --fork --kill-child --mount-proc -- \
            "$here/three_hosts.sh" --host "$host" &
    done
    mkdir -p ~/.ssh
    cp /run/key ~/.ssh/id_ed25519
    printf 'Host %s.*\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n' $net > ~/.ssh/config
    for host in "${hosts[@]}"; do
        wait_for_ssh "$net.$host"
    done
    say "three hosts are up: $(for host in "${hosts[@]}"; do printf '%s.%s ' $net "$host"; done)"
    export -f cut mend
    PATH=$(dirname "$python"):$PATH
    export RAY_USAGE_STATS_ENABLED=0   # `ray up` hands it on
    export PYTHONSAFEPATH=1 PATH THREE_HOSTS="${hosts[*]/#/$net.}"
    local status=0
    if [ $# = 0 ] || [ "${1#--}" != "$1" ]; then
        PYTHONSAFEPATH='' "$python" "$repo/benchmarks/check_three_hosts.py" "$@" || status=$?
    else
        "$@" || status=$?
    fi
    exit "$status"   # and with this process everything else in here
}

cut() { ip link set "to$1" down; }
mend() { ip link set "to$1" up; }

wait_for_ssh() {
    local _
    for _ in $(seq 100); do
        ssh -n -o ConnectTimeout=2 "$1" true 2>/dev/null && return
        sleep 0.1
    done
    echo "three_hosts: no sshd at $1" >&2
    exit 1
}

# --- one host -----------------------------------------------------------------------------------------------------------
host() {
    hostname "host-$1"
    own_folders
    mount -t tmpfs tmpfs /dev/shm
    # What a login on a real host finds there after `pip install`; `ray up` brings the checkout to ~/paceline.
    {
        echo "export PATH=$(dirname "$python"):\$PATH PYTHONSAFEPATH=1 PYTHONPATH=\$HOME RAY_USAGE_STATS_ENABLED=0"
        echo "export PACELINE_CACHE=${PACELINE_CACHE:-$keep/cache}"
    } > ~/.bashrc
    exec /usr/sbin/sshd -D -e -f /dev/null -o "ListenAddress=$net.$1" -o HostKey=/run/hostkey -o PidFile=none \
        -o AuthorizedKeysFile=/run/key.pub -o StrictModes=no -o UsePAM=no -o UseDNS=no -o PermitRootLogin=prohibit-password \
        -o PasswordAuthentication=no -o Subsystem="sftp internal-sftp" 2>/dev/null
}

# A private /tmp and home, with what is shared laid in again where they hide it.
own_folders() {
    mount -t tmpfs tmpfs /tmp
    mount -t tmpfs tmpfs ~
    local saved path
    for saved in "$keep"/*.path; do
        path=$(cat "$saved")
        [ -e "$path" ] && continue
        mkdir -p "$path"
        mount --bind "${saved%.path}" "$path"
    done
    cd /
}

# The machine's own server of names cannot be reached from in here, and whoever asks would wait for it: `ray start` asks
# which cloud it is in. Where nobody listens, the answer comes at once.
no_names() {
    local file host
    echo 'nameserver 127.0.0.1' > /run/names-resolv.conf
    { echo '127.0.0.1 localhost'; for host in "${hosts[@]}"; do echo "$net.$host host-$host"; done; } > /run/names-hosts
    for file in resolv.conf hosts; do
        local real
        real=$(realpath -m "/etc/$file")   # it may be a link into the /run that was here before
        [ -e "$real" ] || { mkdir -p "$(dirname "$real")"; touch "$real"; }
        mount --bind "/run/names-$file" "$real"
    done
}

save_shared() {
    local number=0 path
    while read -r path; do
        [ -d "$path" ] || continue
        number=$((number + 1))
        mkdir "$keep/$number"
        mount --bind "$path" "$keep/$number"
        echo "$path" > "$keep/$number.path"
    done < <(printf '%s\n' "$repo"; "$python" -c 'import sys; print(sys.prefix); print(sys.base_prefix)'; tr : '\n' <<< "${PYTHONPATH:-}")
    local cache=${PACELINE_CACHE:-$HOME/.cache/paceline}
    mkdir -p "$cache" "$keep/cache"
    mount --bind "$cache" "$keep/cache"
    export PACELINE_CACHE=$keep/cache
}

case "${1:-}" in
    --operator) shift; operator "$@" ;;
    --host) host "$2" ;;
    *) outside "$@" ;;
esac
