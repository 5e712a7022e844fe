package gateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kateway/kateway/internal/atomicfile"
)

const secretSize = 32

// loadSecret reads the gateway's own secret, by which it knows its receipts again after a restart. The first start makes
// it: whole and on disk, or not at all.
func loadSecret(dir string) ([]byte, error) {
	name := filepath.Join(dir, "secret")
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeSecret(name)
	case err != nil:
		return nil, fmt.Errorf("reading the secret: %w", err)
	case len(b) != secretSize:
		return nil, fmt.Errorf("%s holds %d bytes instead of %d; restore it, or remove it: receipts given out before are then void", name, len(b), secretSize)
	}
	return b, nil
}

func makeSecret(name string) (secret []byte, err error) {
	secret = make([]byte, secretSize)
	_, _ = rand.Read(secret) // never fails
	if err := writeFile(name, secret); err != nil {
		return nil, fmt.Errorf("making the secret: %w", err)
	}
	return secret, nil
}

// writeFile makes a file that only its owner can read: whole and on disk, or not at all.
func writeFile(name string, content []byte) error {
	return atomicfile.Write(name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}
