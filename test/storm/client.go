package storm

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"
)

// Patience is how long a test waits for what should happen soon: long, since a rebalance on a busy machine takes seconds.
const Patience = 30 * time.Second

// Placed is the answer to a publish.
type Placed struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

// Reply is a whole HTTP answer.
type Reply struct {
	*http.Response
	Bytes []byte
}

func (r Reply) String() string { return r.Status + ": " + string(r.Bytes) }

// Client speaks for one app to one gateway.
type Client struct {
	HTTP *http.Client
	Base string // URL
	App  string
}

// Open sends a request and leaves the body of its answer to the caller. The header is names and values in turn.
func (c *Client) Open(ctx context.Context, method, path string, body io.Reader, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Appid", c.App)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.HTTP.Do(req)
}

// Exchange sends a request and reads its answer to the end; with an error the answer has what was read.
func (c *Client) Exchange(ctx context.Context, method, path string, body io.Reader, header ...string) (Reply, error) {
	resp, err := c.Open(ctx, method, path, body, header...)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return Reply{resp, b}, err
}

// WaitFor looks until the condition holds.
func WaitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", Patience, what)
		}
	}
}
