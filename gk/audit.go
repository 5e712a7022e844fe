package gk

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kateway/kateway/internal/seal"
)

// auditVerify looks for changes in audit logs. It asks no gateway.
type auditVerify struct {
	Key   string   `required:"" placeholder:"FILE" help:"The key that they are sealed with: plugins/audit/key in the gateway's data directory."`
	Files []string `arg:"" help:"The files of one gateway, the oldest first; those that were put aside and compressed too."`
	From  bool     `name:"from-the-start" help:"The first file is the very first: its first line is checked as well."`
}

func (c *auditVerify) Run(t *tool) error {
	key, err := os.ReadFile(c.Key)
	if err != nil {
		return err
	}
	if len(key) != seal.KeySize {
		return usagef("%s is no key of an audit log: it has %d bytes, not %d", c.Key, len(key), seal.KeySize)
	}
	chain, total := seal.New(key, nil), 0
	for i, name := range c.Files {
		n, err := verifyFile(chain, name, i == 0 && !c.From)
		if total += n; err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return t.out.made(map[string]int{"lines": total}, fmt.Sprintf("%d lines, none changed, removed or inserted", total))
}

func verifyFile(chain *seal.Chain, name string, middle bool) (n int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var in io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return 0, err
		}
	}
	return chain.Verify(in, middle)
}
