#!/bin/sh
# Installs the system programs that the tests start: as root by apt, otherwise says what to install and stops.
set -eu

missing=""
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/sbin:/sbin"
need redis-server redis-server
need nginx nginx
need caddy caddy
need wrk wrk
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # The tests start their own instances; the packages' services are not wanted.
    apt-get update -qq
    # shellcheck disable=SC2086
    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "The tests start these programs and cannot find them:$missing" >&2
echo "Install them and run make test again, on Debian or Ubuntu:" >&2
echo "    sudo apt-get install$missing" >&2
exit 1
