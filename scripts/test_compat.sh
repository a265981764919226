#!/usr/bin/env bash
# scripts/test_compat.sh VERSION…: runs the plugin's tests against each of these LiteLLM versions, each in an
# environment of its own under .venvs (made once, made again when the dependencies change).
set -euo pipefail

cd "$(dirname "$0")/.."
# uv comes from the development environment; it alone can override what a package asks for.
make --no-print-directory .venv/.stamp-dev
uv=.venv/bin/uv
[[ -x $uv ]] || uv=$(command -v uv) || { echo "test-compat: needs uv (pip install uv)" >&2; exit 1; }

overrides=scripts/compat_overrides.txt
# `make test` has run the same tests against the development environment's own version.
own=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("litellm"))')
failed=()
for version in "$@"; do
    if [[ $version == "$own" ]]; then
        echo "== LiteLLM $version: that of the development environment, see make test"
        continue
    fi
    folder=.venvs/$version
    package='litellm[proxy]' compile='import litellm.proxy.proxy_server' marks='not proxy'
    tests=${COMPAT_TESTS:-tests/litellm_plugin tests/attack/test_table_router.py}
    pins=()
    minor=${version#*.}
    minor=${minor%%.*}
    if [[ $version != 1.* || $minor -ge 110 ]]; then
        # A core in Rust has its own adapter. Its extra for the proxy cannot be installed: what it needs is listed here,
        # and the real proxy is run as well, wrapped in each of the ways.
        wrapped=' tests/launch/test_proxy_wrapping.py tests/launch/test_proxy_mistakes.py tests/launch/test_proxy_unchanged.py'
        mkdir -p .venvs
        for list in in txt; do
            grep -v '^litellm==' "scripts/proxy_1.110.$list" >".venvs/proxy.$list"
        done
        package=litellm marks='' pins=(--requirement .venvs/proxy.in --constraint .venvs/proxy.txt)
        [[ -n ${COMPAT_TESTS:-} ]] || tests+=$wrapped
        tests=${COMPAT_TESTS_1_110:-$tests}
    fi
    stamp=$folder/.stamp
    if [[ ! -e $stamp || pyproject.toml -nt $stamp || $overrides -nt $stamp || scripts/proxy_1.110.txt -nt $stamp ]]; then
        echo "== LiteLLM $version: installing"
        [[ -x $folder/bin/python ]] || "$uv" venv --quiet --python .venv/bin/python "$folder"
        "$uv" pip install --quiet --python "$folder/bin/python" --override "$overrides" \
            --editable '.[cli,redis,celery]' "$package==$version" "${pins[@]}" \
            gunicorn hypothesis pytest pytest-asyncio pytest-rerunfailures pytest-timeout pytest-xdist
        # Compiled once, and not again by each of the many processes that the tests start.
        env -u PYTHONDONTWRITEBYTECODE "$folder/bin/python" -c "$compile" >/dev/null
        touch "$stamp"
    fi
    echo "== LiteLLM $version: the plugin's tests"
    # What another LiteLLM warns of is its own affair.
    # The real proxy is tested with the development environment's version and with 1.110; elsewhere it is the Router.
    # shellcheck disable=SC2086 - COMPAT_TESTS may name several
    "$folder/bin/python" -m pytest -p no:cacheprovider -p no:warnings -n logical --dist loadfile -m "$marks" $tests || failed+=("$version")
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "test-compat: failed on LiteLLM ${failed[*]}" >&2
    exit 1
fi
echo "test-compat: passed on LiteLLM $*"
