package links

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"unicode/utf8"
)

// Credentials are a user's name and password, of one line of a file: user:password. The password may have colons. No error
// and no line of the log has any of it.
type Credentials struct {
	file string
	log  *slog.Logger

	mu             sync.Mutex
	seen           []byte
	failed         string // the complaint that was told last
	user, password string
}

// LoadCredentials reads the file. One that everybody on the machine may read is told of in the log.
func LoadCredentials(file string, log *slog.Logger) (*Credentials, error) {
	c := &Credentials{file: file, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o004 != 0 {
		log.Warn("everybody on this machine may read these credentials; chmod 600 would keep them to the gateway", "file", file)
	}
	return c, nil
}

// Current is what the file says now.
func (c *Credentials) Current() (user, password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.read()
	switch {
	case err == nil:
		c.failed = ""
	case c.failed != err.Error():
		c.failed = err.Error()
		c.log.Error("changed credentials can't be used; those read before stay", "error", err)
	}
	return c.user, c.password
}

func (c *Credentials) read() error {
	b, err := readFile(c.file)
	if err != nil {
		return err
	}
	if c.seen != nil && bytes.Equal(b, c.seen) {
		return nil
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	user, password, found := strings.Cut(line, ":")
	if !found || user == "" || password == "" || strings.ContainsAny(line, "\x00\r\n") || !utf8.ValidString(line) {
		return fmt.Errorf("%s is not one line user:password", c.file)
	}
	if c.seen != nil {
		c.log.Info("credentials read anew", "file", c.file)
	}
	c.seen, c.user, c.password = b, user, password
	return nil
}
