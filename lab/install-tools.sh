#!/bin/sh
# Install the packages that the lab, the packager and the tests need, on Debian 12 or 13, from the
# archive that this machine uses. Quick if all are installed. Run it as root.
set -eu

packages="apt-utils ca-certificates cryptsetup-bin curl dnsmasq-base dosfstools dpkg-dev e2fsprogs fdisk fuse3 gcc git gnupg
iproute2 iputils-ping libc6-dev libseccomp-dev make mmdebstrap mtools netcat-openbsd nftables openssh-client ovmf
pkg-config procps python3 python3-venv skopeo swtpm uidmap xz-utils zstd"
emulator="qemu-system-x86 qemu-utils"

. /etc/os-release
case "${VERSION_CODENAME:-}" in
bookworm | trixie) ;;
*)
    echo "install-tools: ${PRETTY_NAME:-this system}: only Debian 12 and 13 are supported" >&2
    exit 6
    ;;
esac

installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

missing=""
for package in $packages; do
    installed "$package" || missing="$missing $package"
done
# Go may be installed without a package; the module proxy has the toolchain that go.mod requires.
command -v go >/dev/null || missing="$missing golang-go"

# QEMU 7.2 (bookworm) crashes emulated guests with two processors; the backports have 10.0.
emulator_missing=""
if command -v qemu-system-x86_64 >/dev/null; then
    major=$(qemu-system-x86_64 --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
    [ "${major:-0}" -ge 10 ] || emulator_missing="$emulator"
else
    emulator_missing="$emulator"
fi
command -v qemu-img >/dev/null || emulator_missing="$emulator"

if [ -z "$missing$emulator_missing" ]; then
    echo "install-tools: everything is installed"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "install-tools: run this as root to install:$missing $emulator_missing" >&2
    exit 2
fi

# Print the address of the suite's archive, from the machine's own sources in either format.
archive() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        awk -v suite="$VERSION_CODENAME" '
            /^[[:space:]]*$/ { uri = "" }
            /^URIs:/ { uri = $2 }
            /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == suite && uri != "") { print uri; exit } }
        ' "$file"
    done
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed 's/\[[^]]*\]//' |
        awk -v suite="$VERSION_CODENAME" '$1 == "deb" && $3 == suite { print $2; exit }'
}

if [ "$VERSION_CODENAME" = bookworm ] && [ -n "$emulator_missing" ] &&
    ! grep -rqs bookworm-backports /etc/apt/sources.list /etc/apt/sources.list.d; then
    address=$(archive | head -n 1)
    if [ -z "$address" ]; then
        echo "install-tools: /etc/apt has no source of $VERSION_CODENAME to derive backports from" >&2
        exit 6
    fi
    cat >/etc/apt/sources.list.d/keystone-lab-backports.sources <<EOF
Types: deb
URIs: $address
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
install="apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words
    $install $missing
fi
if [ -n "$emulator_missing" ]; then
    if [ "$VERSION_CODENAME" = bookworm ]; then
        install="$install -t bookworm-backports"
    fi
    # shellcheck disable=SC2086
    $install $emulator_missing
fi
echo "install-tools: installed:$missing $emulator_missing"
