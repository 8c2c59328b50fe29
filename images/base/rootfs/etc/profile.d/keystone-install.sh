# Load completions for keystone-install: the image does not have the package bash-completion, which
# would load them on demand. Other shells read this file too (dash(1)).
if [ -n "${BASH_VERSION-}" ] && [ -r /usr/share/bash-completion/completions/keystone-install ]; then
    . /usr/share/bash-completion/completions/keystone-install
fi
