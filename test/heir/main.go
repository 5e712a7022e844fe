// Command heir is started in the place of kateway's next version, and does not do what that would. The tests build it.
package main

import (
	"context"
	"os"
	"strings"

	"github.com/kateway/kateway/internal/handover"
)

// mode is set by the linker: where it goes wrong.
var mode string //nolint:gochecknoglobals // what -ldflags=-X needs

func main() {
	value := os.Getenv(handover.Variable)
	if mode == "forges" { // a token that it was not told
		fd, _, _ := strings.Cut(value, ":")
		value = fd + ":AAAAAAAAAAAAAAAAAAAAAAAAAA"
	}
	p, err := handover.Inherit(value)
	if err != nil {
		os.Exit(3)
	}
	if err := p.Prepared(); err != nil {
		os.Exit(4)
	}
	err = p.Await(context.Background(), "store")
	if err != nil || mode == "dies" {
		os.Exit(5)
	}
	<-make(chan struct{}) // never serves
}
