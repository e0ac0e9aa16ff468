# Of a script for what a machine may lack; `what` is its name in messages.

# Ends the script, which has not failed.
skip() {
    echo "${GITHUB_ACTIONS:+::warning::}$what skipped: $1" # what is skipped there is to be seen
    exit 0
}

# Whether a command is there, or can be installed by the name of its package.
have() {
    command -v "$1" >/dev/null && return
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    apt-get update -qq >/dev/null && apt-get install -y -qq "$2" >/dev/null
}

# What nets and their pages are tried with in a browser, of npm.
web=onnxruntime-web@1.30.0
driver=playwright-core@1.65.1
