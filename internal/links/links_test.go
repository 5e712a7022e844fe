package links

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sasl")
	var lines bytes.Buffer
	log := slog.New(slog.NewTextHandler(&lines, nil))
	for _, text := range []string{"", "\n", "hidden", "hidden:", ":hidden", "a:hidden\nb:hidden", "a:hid\x00den", "a:\xff", strings.Repeat("hidden", maxFile)} {
		write(t, file, text)
		if _, err := LoadCredentials(file, log); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if _, err := LoadCredentials(filepath.Join(file, "absent"), log); err == nil {
		t.Error("a file that is not there is taken")
	}
	write(t, file, "me:hidden:1\r\n")
	c, err := LoadCredentials(file, log)
	if err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		if user, password := c.Current(); user+" "+password != want {
			t.Errorf("they are %q, %q; want %q", user, password, want)
		}
	}
	is("me hidden:1")
	write(t, file, "you:hidden2")
	is("you hidden2")
	for _, bad := range []string{"", "hidden3"} { // half written, say
		write(t, file, bad)
		is("you hidden2")
		is("you hidden2")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	is("you hidden2")
	write(t, file, "me:hidden4\n")
	is("me hidden4")
	if text := lines.String(); strings.Contains(text, "hidden") || strings.Count(text, "can't be used") != 2 {
		t.Errorf("the log has a secret, or not one line for each fault:\n%s", text)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredentials(file, log); err != nil || !strings.Contains(lines.String(), "chmod 600") {
		t.Errorf("a file for everybody: %v\n%s", err, lines.String())
	}
}

// shown is the name in the certificate that a connection made now would show.
func shown(t *testing.T, l *TLS) string {
	t.Helper()
	pair, err := l.Config().GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Subject.CommonName
}

func TestTLSFollowsItsFiles(t *testing.T) {
	a, b := testkit.NewAuthority(t), testkit.NewAuthority(t)
	certFile, keyFile := a.For("one", time.Time{})
	l, err := LoadTLS(Files{CA: a.File, Cert: certFile, Key: keyFile}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	before := l.Config()
	if shown(t, l) != "one" || l.Config() != before || before.InsecureSkipVerify || before.ClientSessionCache != nil {
		t.Error("not what the files say")
	}
	old, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	a.Replace(certFile, keyFile, "two", time.Time{})
	now, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, keyFile, string(old))
	if name := shown(t, l); name != "one" {
		t.Errorf("while one file of two is replaced %q is shown", name)
	}
	write(t, keyFile, string(now))
	if name := shown(t, l); name != "two" {
		t.Errorf("after both were replaced %q is shown", name)
	}
	pool := l.Config().RootCAs
	other, err := os.ReadFile(b.File)
	if err != nil {
		t.Fatal(err)
	}
	write(t, a.File, string(other))
	want := x509.NewCertPool()
	want.AppendCertsFromPEM(other)
	if got := l.Config().RootCAs; got.Equal(pool) || !got.Equal(want) {
		t.Error("the authority is not the one in its file now")
	}
	write(t, a.File, "nonsense")
	if !l.Config().RootCAs.Equal(want) {
		t.Error("an authority that can't be read has taken the last one's place")
	}
	for _, f := range []Files{{CA: a.File}, {CA: "/absent"}, {Cert: certFile, Key: a.File}, {Cert: certFile, Key: "/absent"}, {CA: t.TempDir()}} {
		if _, err := LoadTLS(f, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v is taken", f)
		}
	}
	if l, err := LoadTLS(Files{}, nil); err != nil || l.Config().RootCAs != nil || l.Config().GetClientCertificate != nil {
		t.Errorf("without files: %v", err)
	}
}
