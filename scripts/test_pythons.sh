#!/usr/bin/env bash
# scripts/test_pythons.sh [ends]: runs the engine's, the direct API's, Albert's and the plugin's tests on every Python
# from 3.10 on that this machine has (with `ends` on the oldest and the newest of them), each in an environment of its
# own under .venvs. PYTHONS="/path/to/python3.12 …" names others. The development environment's own is left out.
set -euo pipefail

cd "$(dirname "$0")/.."
make --no-print-directory .venv/.stamp-dev
uv=.venv/bin/uv
[[ -x $uv ]] || uv=$(command -v uv) || { echo "test-pythons: needs uv (pip install uv)" >&2; exit 1; }

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 10) else "")' 2>/dev/null || true
}

declare -A found=()
if [[ -n ${PYTHONS:-} ]]; then
    read -ra candidates <<<"$PYTHONS"
else
    candidates=()
    for folder in ${PATH//:/ } "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/*/bin; do
        candidates+=("$folder"/python3.[1-9][0-9])
    done
fi
for python in "${candidates[@]}"; do
    [[ -x $python ]] || continue
    version=$(version_of "$python")
    [[ -z $version || -n ${found[$version]:-} ]] || found[$version]=$python
done
own=$(version_of .venv/bin/python)
mapfile -t versions < <(printf '%s\n' "${!found[@]}" | sort -V)
if [[ ${1:-} == ends && ${#versions[@]} -gt 2 ]]; then
    versions=("${versions[0]}" "${versions[-1]}")
fi

tests=${PYTHONS_TESTS:-tests/engine tests/albert tests/litellm_plugin tests/test_router.py tests/test_explain.py}
failed=() passed=()
for version in "${versions[@]}"; do
    [[ -n $version ]] || continue
    if [[ $version == "$own" ]]; then
        echo "== Python $version: that of the development environment, see make test"
        continue
    fi
    folder=.venvs/python$version stamp=.venvs/python$version/.stamp
    if [[ ! -e $stamp || pyproject.toml -nt $stamp || scripts/constraints.txt -nt $stamp ]]; then
        echo "== Python $version: installing"
        [[ -x $folder/bin/python ]] || "$uv" venv --quiet --python "${found[$version]}" "$folder"
        "$uv" pip install --quiet --python "$folder/bin/python" --constraint scripts/constraints.txt \
            --editable '.[cli,redis,celery,kv-events]' 'litellm[proxy]' tokenizers \
            hypothesis pytest pytest-asyncio pytest-rerunfailures pytest-timeout pytest-xdist
        env -u PYTHONDONTWRITEBYTECODE "$folder/bin/python" -c 'import litellm' >/dev/null
        touch "$stamp"
    fi
    echo "== Python $version"
    # shellcheck disable=SC2086 - tests are several. What a Python deprecates is no affair of this run's.
    if "$folder/bin/python" -m pytest -p no:cacheprovider -p no:warnings -n logical --dist loadfile \
        -m "not proxy and not services and not slow" $tests; then
        passed+=("$version")
    else
        failed+=("$version")
    fi
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "test-pythons: failed on Python ${failed[*]}" >&2
    exit 1
fi
echo "test-pythons: passed on Python ${passed[*]:-none but $own}"
