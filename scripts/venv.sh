#!/usr/bin/env bash
# scripts/venv.sh FOLDER EXTRA [CONSTRAINTS]: makes a virtual environment (if there is none) and installs this project into it,
# editable, with one extra, each package in the version of that file (constraints.txt): what PyPI releases tomorrow changes
# nothing here. An environment that is there is added to, never rebuilt.
set -euo pipefail

folder=$1
extra=$2
constraints=${3:-scripts/constraints.txt}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

fail() {
    echo "venv: $1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "there is no $python; install Python 3.10 or newer, or set PYTHON=/path/to/it"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || fail "$python is $("$python" -V 2>&1); fast_router needs 3.10 or newer (set PYTHON=/path/to/it)"

if [[ ! -x $folder/bin/python ]]; then
    echo "venv: creating $folder"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian and Ubuntu ship Python without it.
        package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
        as_root=()
        if [[ $(id -u) -ne 0 ]]; then
            as_root=(sudo -n)
        fi
        echo "venv: installing $package"
        { "${as_root[@]}" apt-get -o Acquire::Retries=3 update \
            && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
                install -y --no-install-recommends "$package"; } >/dev/null 2>&1 \
            || fail "$python cannot make environments; install the package $package (as root) and try again"
    fi
    "$python" -m venv "$folder"
fi

# uv resolves LiteLLM's dependencies in seconds where pip takes a minute and a half; pip is the way out.
uv=$folder/bin/uv
if [[ ! -x $uv ]]; then
    "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$folder/bin/python" -m ensurepip >/dev/null
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check uv \
        || echo "venv: uv could not be installed; using pip, which is slower" >&2
fi

echo "venv: installing fast-router[$extra]"
if [[ -x $uv ]]; then
    "$uv" pip install --quiet --python "$folder/bin/python" --constraint "$constraints" --editable ".[$extra]"
else
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" \
        --editable ".[$extra]"
fi

# LiteLLM is large: compiled once here, and not again by each of the many processes that will import it.
echo "venv: compiling litellm"
modules="litellm"
[[ $extra == dev ]] && modules="litellm.proxy.proxy_server"
env -u PYTHONDONTWRITEBYTECODE LITELLM_LOCAL_MODEL_COST_MAP=True "$folder/bin/python" -c "import $modules" >/dev/null
