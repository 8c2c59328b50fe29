# Tab completes the verbs and options of keystone-install: the package bash-completion, which would
# load this when it is needed, is not in the image. Read by other shells too (profile(5) of dash).
if [ -n "${BASH_VERSION-}" ] && [ -r /usr/share/bash-completion/completions/keystone-install ]; then
    . /usr/share/bash-completion/completions/keystone-install
fi
