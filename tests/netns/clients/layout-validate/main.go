// Command layout-validate does for an OCI layout what `crane validate` does for a registry: it
// reads every config and layer of one platform of an image and compares digests, sizes and diff IDs.
package main

import (
	"fmt"
	"log"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const refName = "org.opencontainers.image.ref.name"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: layout-validate FOLDER REFERENCE OS/ARCHITECTURE")
	}
	image, err := find(os.Args[1], os.Args[2], os.Args[3])
	if err == nil {
		err = validate.Image(image)
	}
	if err != nil {
		log.Fatalf("FAIL: %s: %v", os.Args[2], err)
	}
	fmt.Printf("PASS: %s\n", os.Args[2])
}

func find(folder, ref, platform string) (v1.Image, error) {
	top, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, err
	}
	wanted, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	entries, err := top.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, entry := range entries.Manifests {
		if entry.Annotations[refName] != ref {
			continue
		}
		if !entry.MediaType.IsIndex() {
			return top.Image(entry.Digest)
		}
		index, err := top.ImageIndex(entry.Digest)
		if err != nil {
			return nil, err
		}
		children, err := index.IndexManifest()
		if err != nil {
			return nil, err
		}
		for _, child := range children.Manifests {
			if child.Platform != nil && child.Platform.Satisfies(*wanted) {
				return index.Image(child.Digest)
			}
		}
	}
	return nil, fmt.Errorf("no such image for %s", platform)
}
