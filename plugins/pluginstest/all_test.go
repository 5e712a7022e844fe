package pluginstest_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins/audit"
	"github.com/kateway/kateway/plugins/auth"
	"github.com/kateway/kateway/plugins/callout"
	"github.com/kateway/kateway/plugins/guard"
	"github.com/kateway/kateway/plugins/pluginstest"
	"github.com/kateway/kateway/plugins/quota"
	"github.com/kateway/kateway/plugins/schema"
	"github.com/kateway/kateway/plugins/transform"
	"github.com/kateway/kateway/store"
)

// TestPlugins holds kateway's own plugins against the contract.
func TestPlugins(t *testing.T) {
	message := store.Message{Key: []byte("k"), Value: []byte(`{"id":1,"card":"41111234","note":"x"}`), Headers: []store.Header{{Key: "a", Value: []byte("b")}}}
	keyID, secret, hash := meta.NewSecret()
	publish := func(header ...string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/v1/msgs/orders/v1", http.NoBody)
			r.RemoteAddr = "192.0.2.7:51234"
			for i := 0; i+1 < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			return r
		}
	}
	seed := func(more ...meta.Record) func(*testing.T, *meta.Directory) {
		return func(t *testing.T, d *meta.Directory) {
			t.Helper()
			for _, r := range append([]meta.Record{
				&meta.App{Name: "shop", Class: meta.ClassStandard, Keys: []meta.Key{{KeyID: keyID, Use: meta.UsePub, Hash: hash, Created: time.Now()}}},
				&meta.TopicRecord{App: "shop", Name: "orders", Ver: "v1", Partitions: 1, MaxAttempts: 1},
			}, more...) {
				if _, err := d.Put(t.Context(), r, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	ofOrder := &meta.Schema{App: "shop", Name: "orders", Ver: "v1", Version: 1, SchemaID: 1, Type: "json", Text: `{"required":["id"]}`, Compatibility: "none"}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // what callout asks
		q, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"allow":%t}`, !bytes.Contains(q, []byte("X-Refuse")))
	}))
	defer service.Close()
	for name, c := range map[string]pluginstest.Config{
		"audit": {Kind: audit.Kind()},
		"auth":  {Kind: auth.Kind(), Seed: seed(), Pass: publish("Appid", "shop", "Pubkey", secret), Refuse: publish("Appid", "shop", "Pubkey", "wrong")},
		"callout": {
			Kind: callout.Kind(), Options: "url: " + service.URL + "\nheaders: [X-Refuse]",
			Pass: publish("Appid", "shop"), Refuse: publish("Appid", "shop", "X-Refuse", "1"),
		},
		"guard":  {Kind: guard.Kind(guard.Sizes{Message: 1 << 20, Batch: 16 << 20})},
		"quota":  {Kind: quota.Kind()},
		"schema": {Kind: schema.Kind(), Seed: seed(ofOrder)},
		"transform": {Kind: transform.Kind(), Options: `rules:
  - {match: {direction: in}, do: [{mask: {path: /card}}, {rename: {path: /note, to: text}}, {set_header: {name: c, value: d}}, {rename_header: {from: a, to: b}}]}
  - {name: out, match: {direction: out}, do: [{redact: {path: /note}}, {remove: /card}, {remove_header: a}]}`},
	} {
		c.Message = message
		t.Run(name, func(t *testing.T) { pluginstest.Run(t, c) })
	}
}
