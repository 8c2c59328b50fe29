"""Machines on an isolated network: containers and QEMU behind one interface, network, disks."""
