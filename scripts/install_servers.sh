#!/usr/bin/env bash
# Puts redis-server, rabbitmq-server, prometheus and chromium on this machine for the test suite. Does nothing if they are here, or if
# FAST_ROUTER_TEST_REDIS_URL and FAST_ROUTER_TEST_AMQP_URL name servers to use instead. Starts no daemon: the
# suite runs private servers of its own. Without the right to install it says so in one line, and fails only in
# CI (environment variable CI), where a suite that silently skips would lie.
set -euo pipefail

packages=()
if [[ -z "${FAST_ROUTER_TEST_REDIS_URL:-}" ]] && ! command -v redis-server >/dev/null; then
    packages+=(redis-server)
fi
if [[ -z "${FAST_ROUTER_TEST_AMQP_URL:-}" ]] && [[ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]]; then
    packages+=(rabbitmq-server)
fi
if ! command -v promtool >/dev/null; then
    packages+=(prometheus)
fi
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    packages+=(chromium chromium-driver)
fi
if [[ ${#packages[@]} -eq 0 ]]; then
    exit 0
fi

give_up() {
    echo "install_servers: $1; the tests that need ${packages[*]} cannot run." \
        "Install by hand, or set FAST_ROUTER_TEST_REDIS_URL and FAST_ROUTER_TEST_AMQP_URL." >&2
    if [[ -n "${CI:-}" ]]; then
        exit 1
    fi
    exit 0
}

command -v apt-get >/dev/null || give_up "there is no apt-get here"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
        give_up "installing needs root, and this is user $(id -un)"
    fi
    as_root=(sudo -n)
fi

# policy-rc.d answering 101 keeps the packages from starting daemons on the well-known ports.
policy=/usr/sbin/policy-rc.d
made_policy=
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made_policy=1
fi
clean_up() {
    if [[ -n "$made_policy" ]]; then
        "${as_root[@]}" rm -f "$policy"
    fi
}
trap clean_up EXIT

echo "install_servers: installing ${packages[*]}"
log=$(mktemp)
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1
}
"${as_root[@]}" apt-get -o Acquire::Retries=3 update >>"$log" 2>&1 || true
if ! install; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    give_up "apt-get could not install ${packages[*]} (its last lines are above)"
fi
rm -f "$log"
