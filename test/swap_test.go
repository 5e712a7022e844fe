package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// swaps is how often the process is replaced, under how many requests at least; KATEWAY_TEST_SWAPS=20 is the long run, of
// 500,000 requests, KATEWAY_TEST_SWAPS=20/10000 one of 10,000.
func swaps() (n int, requests int64) {
	swaps, rest, _ := strings.Cut(os.Getenv("KATEWAY_TEST_SWAPS"), "/")
	n, err := strconv.Atoi(swaps)
	if err != nil || n <= 0 {
		return 3, 0
	}
	if requests, err = strconv.ParseInt(rest, 10, 64); err != nil {
		requests = 500_000
	}
	return n, requests
}

// Processes take over from each other under clients of every kind that never send anything twice: no request fails, no
// connection is refused, what was answered 201 comes to every group once, and streams are told to come again.
func TestSwapFailsNoRequest(t *testing.T) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		swapUnderLoad(t, nil, "--data", t.TempDir())
	})
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		cert, key, pool := certificateOf(t)
		swapUnderLoad(t, &tls.Config{RootCAs: pool}, "--data", t.TempDir(), "--tls-cert", cert, "--tls-key", key)
	})
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		swapUnderLoad(t, nil, "--data", t.TempDir(), "--kafka", strings.Join(newFake(t), ","))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		swapUnderLoad(t, nil, "--data", t.TempDir(), "--kafka", brokers(t))
	})
	t.Run("consumer protocol", func(t *testing.T) {
		if _, requests := swaps(); requests == 0 {
			t.Skip("in long runs only")
		}
		t.Parallel()
		swapUnderLoad(t, nil, "--data", t.TempDir(), "--kafka", brokers(t), "--kafka-group-protocol", "consumer")
	})
}

// medians are those of what lines of the log say of each step, and the largest.
func medians(lines []map[string]any, steps ...string) string {
	var out []string
	for _, step := range steps {
		var list []time.Duration
		for _, m := range lines {
			s, _ := m[step].(string)
			if d, err := time.ParseDuration(s); err == nil {
				list = append(list, d.Round(time.Millisecond/10))
			}
		}
		if len(list) > 0 {
			slices.Sort(list)
			out = append(out, fmt.Sprintf("%s %v (at most %v)", step, list[len(list)/2], list[len(list)-1]))
		}
	}
	return strings.Join(out, ", ")
}

// maxStall is how long publishes may wait in a swap, as the median of many, where they take less between swaps: a few of
// them share the machine with who knows what.
const maxStall = 300 * time.Millisecond

func swapUnderLoad(t *testing.T, secure *tls.Config, flags ...string) {
	n, requests := swaps()
	l := launchLine(t, append(flags, "--id", "gw1", "--log-level", "info")...)
	c := &patrons{t: t, base: l.pub, addr: strings.TrimPrefix(l.pub, "http://"), app: appOf(t), tls: secure, stored: map[string]bool{}}
	if secure != nil {
		c.base = "https://" + c.addr
	}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var publishers, subscribers sync.WaitGroup
	c.publishing(ctx, &publishers, requests > 0)
	reading, enough := context.WithCancel(t.Context())
	defer enough()
	for name, read := range map[string]func(context.Context, *audience){"events": c.events, "poll": c.poll, "socket": c.socket} {
		g := c.group(name)
		subscribers.Go(func() { read(reading, g) })
	}
	waitFor(t, "load", func() bool { return c.served.Load() > 200 })
	var stalls []time.Duration
	var between time.Duration
	for i := range n {
		old, before := l.pid(), c.served.Load()
		between = max(between, c.restall())
		l.swap(t)
		waitFor(t, "publishes after it", func() bool { return c.served.Load() > before+100 })
		stalls = append(stalls, c.restall())
		target := requests * int64(i+1) / int64(n)
		waitAgain(t, "load", func() bool { return c.served.Load() > target })
		waitFor(t, "load", func() bool { return c.served.Load() > before+500 })
		gone(t, old)
	}
	end()
	publishers.Wait()
	c.verify(enough)
	subscribers.Wait()
	slices.Sort(c.breaks)
	slices.Sort(stalls)
	t.Logf("%d requests over %d swaps, %d failed; the longest publish of a swap took %v (median; 90 %%: %v, all: %v), and between swaps %v; streams were back after %v (median, %v at most)",
		c.served.Load(), n, c.failed.Load(), stalls[n/2], stalls[n*9/10], stalls[n-1], between, c.breaks[len(c.breaks)/2], c.breaks[len(c.breaks)-1])
	if n >= 20 && stalls[n/2] > maxStall && between < maxStall {
		t.Errorf("the median of the longest publishes is over %v: %v", maxStall, stalls)
	}
	for msg, steps := range map[string][]string{"handed over": {"took", "ended", "closed", "opened", "groups"}, "took over": {"took", "store", "spool", "plugins", "listed"}} {
		t.Logf("%s: %s", msg, medians(l.said(msg), steps...))
	}
	l.signal(syscall.SIGTERM)
	gone(t, l.pid())
}

// waitAgain is waitFor for what takes its time.
func waitAgain(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := 3 * patience
	if _, requests := swaps(); requests > 0 {
		limit = 20 * patience
	}
	for deadline := time.Now().Add(limit); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// publishing starts publishers of every kind.
func (c *patrons) publishing(ctx context.Context, wg *sync.WaitGroup, many bool) {
	times := 1
	if many {
		times = 4
	}
	for range times {
		wg.Go(func() { c.raw(ctx, "keep-alive", false, 1, c.plain) })
		wg.Go(func() { c.raw(ctx, "new connection", true, 1, c.plain) })
		wg.Go(func() { c.raw(ctx, "pipelined", false, 4, c.plain) })
		wg.Go(func() { c.raw(ctx, "chunked", false, 1, c.chunked) })
		wg.Go(func() { c.raw(ctx, "long upload", false, 1, c.long(ctx)) })
		wg.Go(func() { c.http(ctx, false) })
		wg.Go(func() { c.http(ctx, true) })
		wg.Go(func() { c.publisher(ctx) })
	}
}

// verify compares what came with what was stored, once all of it has come.
func (c *patrons) verify(enough func()) {
	for _, g := range c.groups {
		waitAgain(c.t, "group "+g.name+" to have everything", func() bool { return g.count() >= len(c.stored) })
	}
	enough()
	for _, g := range c.groups {
		missing, twice := 0, 0
		for v := range c.stored {
			if g.seen[v] == 0 {
				missing++
			}
		}
		for v, n := range g.seen {
			if n > 1 {
				twice++
				if twice < 5 {
					c.t.Logf("%s came %d times to %s", v, n, g.name)
				}
			}
		}
		if missing > 0 || twice > 0 {
			c.t.Errorf("group %s: of %d messages %d are missing and %d came more than once", g.name, len(c.stored), missing, twice)
		}
	}
}

// certificateOf is one for loopback, and who trusts it.
func certificateOf(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gw"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, b := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certPEM) {
		t.Fatal(fmt.Errorf("no certificate"))
	}
	return certFile, keyFile, pool
}
