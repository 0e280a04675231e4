#!/bin/sh
# Installs what the tests start and pip does not bring: system programs (as root by apt, otherwise says what to install
# and stops) and, from the public registry of npm, the OpenID Provider of tests/oidc_provider.
set -eu
cd "$(dirname "$0")"

missing=""
need() { # need PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH="$PATH:/usr/sbin:/sbin"
need redis-server redis-server
need nginx nginx
# The snippets that run inside Kong are tried in a real nginx with the module that Kong runs them with.
ls /usr/lib/nginx/modules/ngx_http_lua_module.so >/dev/null 2>&1 || missing="$missing libnginx-mod-http-lua"
need caddy caddy
need wrk wrk
need node nodejs
need npm npm
command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || need chromium chromium

if [ -n "$missing" ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing:$missing"
        export DEBIAN_FRONTEND=noninteractive
        # The tests start their own instances; the packages' services are not wanted.
        apt-get update -qq
        # shellcheck disable=SC2086
        RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "The tests start these programs and cannot find them:$missing" >&2
        echo "Install them and run make test again, on Debian or Ubuntu:" >&2
        echo "    sudo apt-get install$missing" >&2
        exit 1
    fi
fi

# npm writes this file at the end of an installation.
installed=oidc_provider/node_modules/.package-lock.json
if [ ! -f "$installed" ] || [ oidc_provider/package-lock.json -nt "$installed" ]; then
    if ! node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 12) ? 0 : 1)'; then
        echo "The tests start an OpenID Provider that needs Node.js 20.12 or newer; this is $(node --version)." >&2
        echo "Debian 13 and Ubuntu 25.04 have it; on older ones take it from nodejs.org. Then run make test again." >&2
        exit 1
    fi
    echo "installing: tests/oidc_provider"
    if ! (cd oidc_provider && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null); then
        echo "npm could not install tests/oidc_provider: it needs the network once. Then run make test again." >&2
        exit 1
    fi
fi
