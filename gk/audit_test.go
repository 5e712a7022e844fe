package gk

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/seal"
)

func TestAuditVerify(t *testing.T) {
	dir := t.TempDir()
	key := bytes.Repeat([]byte("k"), seal.KeySize)
	write := func(name string, b []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	chain := seal.New(key, nil)
	first := chain.Append(chain.Append(nil, []byte(`{"seq":1}`)), []byte(`{"seq":2}`))
	second := chain.Append(nil, []byte(`{"seq":3}`))
	keyFile, a, b := write("key", key), write("a.log", first), write("b.log", second)
	changed := write("changed.log", bytes.Replace(first, []byte(`"seq":2`), []byte(`"seq":7`), 1))
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--from-the-start", a, b}, exitOK, "3 lines"},
		{[]string{b}, exitOK, "1 lines"},
		{[]string{"--from-the-start", b}, exitFailed, "line 1"},
		{[]string{changed}, exitFailed, "line 2"},
		{[]string{a, filepath.Join(dir, "none")}, exitFailed, "none"},
	} {
		var out, errOut bytes.Buffer
		code := run(context.Background(), append([]string{"audit", "verify", "--key", keyFile}, tc.args...), nil, streams{strings.NewReader(""), &out, &errOut}, "test")
		if code != tc.code || !strings.Contains(out.String()+errOut.String(), tc.says) {
			t.Errorf("%v: %d, %s%s", tc.args, code, &out, &errOut)
		}
	}
}
