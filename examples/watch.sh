#!/bin/sh
# Watch an execution until it has ended, with curl.
#
#   AOS_TOKEN=... ./watch.sh STACK ACTION [URL]
#
# Exit codes: 0 Succeeded or deleted, 1 anything else, 2 wrong usage, 3 Failed, 4 Cancelled or ForceCancelled.
set -eu

if [ $# -lt 2 ] || [ -z "${AOS_TOKEN:-}" ]; then
    echo "usage: AOS_TOKEN=... $0 STACK ACTION [URL]" >&2
    exit 2
fi
url=${3:-http://127.0.0.1:8080}/v2/stacks/$1/actions/$2
shortest=2
longest=10
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

# The first request is plain; the next ones wait until the record changes.
etag='' known='' gone='' pause=$shortest

header() {
    printf '%s\n' "$1" | sed 's/["\\]/\\&/g; s/.*/header = "&"/'
}

# curl reads the token from standard input: other users of this machine can see its options.
ask() {
    {
        header "X-Auth-Token: $AOS_TOKEN"
        [ -z "$known" ] || header 'Prefer: wait=50'
        [ -z "$etag" ] || header "If-None-Match: $etag"
    } | curl --silent --max-time 80 --max-filesize 16777216 --config - \
        --dump-header "$folder/head" --output "$folder/body" --write-out '%{http_code}' "$url"
}

# The last value of a response field, without its line end.
field() {
    tr -d '\r' < "$folder/head" | grep -i "^$1:" | tail -n 1 | sed 's/^[^:]*: *//'
}

# The phase among the members of objectStatus, whatever the texts of the others hold.
phase_of_all='"objectStatus" *: *\{(([^"}]|"([^"\\]|\\.)*")*[ ,])?"phase" *: *"([A-Za-z]*)"'

while :; do
    began=$(date +%s)
    : > "$folder/head"
    : > "$folder/body"
    status=$(ask) || status=000
    case $status in
    200)
        phase=$(tr -d '\n' < "$folder/body" | sed -nE "s/.*$phase_of_all.*/\\4/p")
        body=$(cksum < "$folder/body")
        [ "$body" = "$known" ] || { echo "$(date +%T) ${phase:-no status yet}"; pause=$shortest; }
        known=$body etag=$(field etag)
        ! grep -q '"actionName" *: *"delete"' "$folder/body" || gone=404
        case $phase in
        Succeeded) exit 0 ;;
        Failed) exit 3 ;;
        Cancelled | ForceCancelled) exit 4 ;;
        esac
        ;;
    304) ;;
    "$gone")
        echo "$(date +%T) deleted"
        exit 0
        ;;
    000 | 429 | 5??) echo "$(date +%T) no record ($status), retrying" >&2 ;;
    *)
        echo "unexpected status $status" >&2
        exit 1
        ;;
    esac
    # After a response that waited, the next request is due at once; otherwise poll, more slowly while nothing changes.
    retry=$(field retry-after)
    case $status,$(field preference-applied) in
    [23]??,wait=[1-9]*) next=1 ;;
    *) next=$pause pause=$((pause + pause / 2)) ;;
    esac
    [ "$pause" -le $longest ] || pause=$longest
    case $retry in
    '' | *[!0-9]* | ?????*) ;;
    *) [ "$retry" -le "$next" ] || next=$retry ;;
    esac
    left=$((began + next - $(date +%s)))
    [ "$left" -le 0 ] || sleep "$left"
done
