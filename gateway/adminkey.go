package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// minAdminKey is the shortest key that an operator may bring: 16 random bytes in hexadecimal.
const minAdminKey = 32

// givenAdminKey is the hash of the management API's key that the operator brings, in a file or in the environment; ""
// where he brings none.
func givenAdminKey(file, environment string) (hash string, err error) {
	key, from := []byte(environment), "KATEWAY_ADMIN_KEY"
	if file != "" {
		from = file
		if key, err = os.ReadFile(file); err != nil {
			return "", fmt.Errorf("admin key: %w", err)
		}
	}
	key = bytes.TrimSpace(key)
	switch {
	case len(key) == 0 && file == "":
		return "", nil
	case len(key) < minAdminKey:
		return "", fmt.Errorf("the admin key of %s has %d characters, at least %d are needed; make one by: openssl rand -hex 32", from, len(key), minAdminKey)
	}
	return meta.HashSecret(string(key)), nil
}

// firstAdminKey is the id of the admin key that the first gateway makes. It is always the same, so that of several
// gateways that start at once one alone can keep its own.
const firstAdminKey = "first"

// makeAdminKey makes the first admin key, unless meta has one: in a file that only its owner can read, and as a hash in
// meta. The file gets its name last: one that is still pending belongs to a gateway that died in between, or lost the race.
func makeAdminKey(ctx context.Context, d *meta.Directory, dir string, log *slog.Logger) error {
	file := filepath.Join(dir, "admin-key")
	pending := file + ".pending"
	if d.Snapshot().Len(meta.KindAdminKey) > 0 {
		return settleAdminKey(d.Snapshot().AdminKey(firstAdminKey), pending, file, log)
	}
	secret, err := adminKeyIn(pending)
	if err != nil {
		return fmt.Errorf("making the admin key: %w", err)
	}
	first := &meta.AdminKey{KeyID: firstAdminKey, Name: "made by the first start", Role: meta.RoleAdmin, Hash: meta.HashSecret(string(secret)), Created: time.Now().UTC().Truncate(time.Second)}
	if _, err := d.Put(ctx, first, meta.Absent); err != nil && !errors.Is(err, errs.Conflict) {
		return fmt.Errorf("making the admin key: %w", err)
	}
	return settleAdminKey(d.Snapshot().AdminKey(firstAdminKey), pending, file, log)
}

// settleAdminKey gives the pending file its name if its key is the one that meta has, and removes it otherwise.
func settleAdminKey(first *meta.AdminKey, pending, file string, log *slog.Logger) error {
	b, err := os.ReadFile(pending)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	if first == nil || first.Hash != meta.HashSecret(string(bytes.TrimSpace(b))) {
		return os.Remove(pending)
	}
	if err := os.Rename(pending, file); err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	log.Info("the key of the management API is in a file", "file", file)
	return nil
}

// adminKeyIn reads the file, or makes it.
func adminKeyIn(file string) (secret []byte, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		if secret = bytes.TrimSpace(b); meta.SecretID(string(secret)) != firstAdminKey {
			return nil, fmt.Errorf("%s holds something else; remove it, and a new one is made", file)
		}
		return secret, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, whole, _ := meta.NewSecret()
	secret = []byte(firstAdminKey + strings.TrimPrefix(whole, id))
	return secret, writeFile(file, append(bytes.Clone(secret), '\n'))
}
