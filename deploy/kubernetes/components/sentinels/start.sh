#!/bin/sh
# start.sh redis | sentinel: becomes the server of this pod, a replica of the primary or a Sentinel that watches it.
#
# environment:
#   POD_IP, POD_NAME   of this pod
#   SENTINELS          addresses behind which there are the Sentinels of pods that run
#   TRIES              how often to look for the primary, once a second (20: a failover takes less)
set -eu

secret=/run/secrets/redis/redis.conf
data=/data

# named: prints the address of the primary, if a Sentinel says one.
named() {
    for host in $SENTINELS; do
        timeout 2 redis-cli -h "$host" -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME records 2>/dev/null || true
    done | sed -n 's/^[0-9a-f]*[.:][0-9a-f.:]*$/&/p' | head -n 1
}

answers() {
    timeout 2 redis-cli -h "$1" -p 6379 PING >/dev/null 2>&1
}

tries=${TRIES:-20}
primary=$(named)
until [ -n "$primary" ] && answers "$primary"; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
        # No pod of before is left, or they wait for this very one.
        case $POD_NAME in *-0) primary=${primary:-$POD_IP} ;; esac
        [ -n "$primary" ] && break
        echo 'no Sentinel names a primary' >&2
        exit 1
    fi
    sleep 1
    primary=$(named)
done

config=$data/$1.conf
case $1 in
redis)
    # The replicas log in with the password that the primary asks for.
    { cat "$secret"; echo; sed -n 's/^requirepass/masterauth/p' "$secret"; echo; } >"$config"
    cat >>"$config" <<END
bind $POD_IP
dir $data
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
replica-announce-ip $POD_IP
repl-diskless-sync-delay 0
min-replicas-to-write 1
min-replicas-max-lag 10
END
    [ "$primary" = "$POD_IP" ] || echo "replicaof $primary 6379" >>"$config"
    exec redis-server "$config"
    ;;
sentinel)
    cat >"$config" <<END
bind $POD_IP
dir $data
sentinel myid $(printf '%s' "$POD_NAME" | sha1sum | cut -c 1-40)
sentinel announce-ip $POD_IP
sentinel monitor records $primary 6379 2
sentinel down-after-milliseconds records 5000
sentinel failover-timeout records 30000
sentinel parallel-syncs records 2
END
    sed -n 's/^requirepass/sentinel auth-pass records/p' "$secret" >>"$config"
    exec redis-server "$config" --sentinel
    ;;
esac
