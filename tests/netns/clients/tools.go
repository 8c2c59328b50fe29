//go:build tools

// Package tools names the clients that tests run against what a bundle unpacks to and serves.
package tools

import (
	_ "github.com/google/go-containerregistry/cmd/crane"
	_ "oras.land/oras/cmd/oras"
)
