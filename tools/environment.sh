# Sourced by ./cars and tools/test-environment: a virtual environment that is made once, whole or not at all.

say() { printf 'cars: %s\n' "$*" >&2; }

# Prints the path of a Python that can make the environment.
find_python() {
    local name candidate without_venv=""
    for name in python3.12 python3.11 python3.13 python3; do
        while IFS= read -r candidate; do
            # pyenv puts shims on PATH for versions that are not active; they fail when run, so each is tried.
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1 || continue
            if "$candidate" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; then
                printf '%s\n' "$candidate"
                return
            fi
            without_venv=$candidate
        done < <(type -aP "$name")
    done
    if [ -n "$without_venv" ]; then
        say "$without_venv has no venv module; install it (on Debian and Ubuntu the package python3-venv) and try again"
    else
        say "no Python 3.11 or newer on PATH; install one and try again"
    fi
    return 1
}

# make_environment FOLDER RECIPE PIP_ARGUMENT...
# RECIPE is what FOLDER must have been made from; its first line is kept apart: where that one differs (the checkout was
# moved or copied), or where the marker is missing (the last try was cut short), the folder is made anew.
make_environment() {
    local folder=$1 recipe=$2 marker=$1/.complete log=$1/install.log python
    shift 2
    is_complete() { [ -x "$folder/bin/python" ] && [ "$(cat "$marker" 2>/dev/null)" = "$recipe" ]; }
    is_complete && return
    python=$(find_python) || return 1
    if ! { mkdir -p "$(dirname "$folder")" && exec 9>"$folder.lock"; } 2>/dev/null; then
        say "cannot write beside $folder: make it writable, or install with: pip install 'car-classifier[cpu,tables]'"
        return 1
    fi
    # Python locks the file because not every system has flock(1); the lock stays with descriptor 9 of this shell.
    if ! "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
        say "another process is making $folder; waiting for it"
        "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' || return 1
    fi
    if ! is_complete; then
        say "making $folder, which happens once and can take some minutes"
        if [ ! -x "$folder/bin/python" ] || [ "$(head -n 1 "$marker" 2>/dev/null)" != "$(head -n 1 <<<"$recipe")" ]; then
            rm -rf "$folder"
            "$python" -m venv "$folder" </dev/null >&2 || { say "$python could not make $folder"; return 1; }
        fi
        rm -f "$marker"
        if ! PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install --progress-bar off "$@" \
            </dev/null >"$log" 2>&1; then
            { grep -v '^WARNING' "$log" || true; } | tail -n 15 >&2
            say "the packages could not be installed (all of pip's words: $log); is the network there? Run it again to retry"
            return 1
        fi
        if grep 'does not provide the extra' "$log" >&2; then
            say "CARS_EXTRAS names an extra that pyproject.toml does not have"
            return 1
        fi
        printf '%s\n' "$recipe" >"$marker"
        say "$folder is ready"
    fi
    exec 9>&-
}
