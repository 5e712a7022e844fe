package gk

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"strings"
)

// pageSize is how many elements are asked for at once: what the gateway gives at most.
const pageSize = "1000"

// page is one answer of a list.
type page struct {
	Items []json.RawMessage `json:"items"`
	Next  string            `json:"next"`
}

// items yields the elements of a list over all its pages. An error ends it.
func (t *tool) items(ctx context.Context, path string, query url.Values) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		q := maps.Clone(query)
		if q == nil {
			q = url.Values{}
		}
		q.Set("limit", pageSize)
		for {
			p, err := t.page(ctx, path, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range p.Items {
				if !yield(item, nil) {
					return
				}
			}
			if p.Next == "" {
				return
			}
			if p.Next == q.Get("after") { // or we would ask for ever
				yield(nil, fmt.Errorf("GET %s: the page after %q says that the next is after the same", path, p.Next))
				return
			}
			q.Set("after", p.Next)
		}
	}
}

func (t *tool) page(ctx context.Context, path string, query url.Values) (page, error) {
	a, err := t.man.get(ctx, path, query)
	if err != nil {
		return page{}, err
	}
	var p page
	return p, a.into(&p)
}

// list shows a list: its elements as they are, or a row for each. Rows are written as pages come, so that memory is bounded
// by a page. keep leaves elements out; nil keeps all.
func list[T any](t *tool, items iter.Seq2[json.RawMessage, error], columns string, keep func(T) bool, row func(T) []any) error {
	t.out.begin(strings.Fields(columns)...)
	for raw, err := range items {
		if err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("the answer is not what this version of gk knows: %w", err)
		}
		if keep != nil && !keep(v) {
			continue
		}
		if err := t.out.element(raw, row(v)); err != nil {
			return err
		}
	}
	return t.out.end()
}
