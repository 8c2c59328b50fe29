// Package udp stands in for flannel's udp backend, the only part of it that is C: it refuses, with
// the words that upstream has for every processor but amd64.
package udp

import (
	"errors"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/subnet"
)

func init() {
	backend.Register("udp", New)
}

// New always fails.
func New(subnet.Manager, *backend.ExternalInterface) (backend.Backend, error) {
	return nil, errors.New("the lab's flannel has no udp backend: take vxlan, host-gw or wireguard")
}
