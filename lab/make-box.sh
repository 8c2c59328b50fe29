#!/bin/sh
# Pack the lab's base image as a Vagrant box for libvirt: lab/make-box.sh keystone-base.box
# KEYSTONE: the command of Keystone, by default "keystone-install".
set -eu
target=${1:?usage: lab/make-box.sh FILE.box}
disk=$(${KEYSTONE:-keystone-install} lab base)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
size=$(qemu-img info -U --output=json "$disk" | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p' | tail -n 1)
qemu-img convert -O qcow2 "$disk" "$folder/box.img"
printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %d}\n' \
    "$((size / 1024 / 1024 / 1024))" >"$folder/metadata.json"
echo 'Vagrant.configure("2") { |config| config.vm.guest = :debian }' >"$folder/Vagrantfile"
tar -C "$folder" -cf "$target.partial" metadata.json Vagrantfile box.img
mv "$target.partial" "$target"
