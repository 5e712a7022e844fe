package gateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*.part") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if all went well
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

// syncDir makes a rename in the directory outlive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
