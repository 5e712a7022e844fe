package sub

import (
	"context"
	"fmt"
	"math"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// offsetJSON is one element of an offsets request: everything up to and including the offset is done.
type offsetJSON struct {
	Partition *int32 `json:"partition"`
	Offset    *int64 `json:"offset"`
}

// offsets is PUT /v1/offsets/:app/:topic/:ver/:group. It answers as settling does.
type offsets struct{ place }

func (o *offsets) read(r *http.Request) error {
	o.group = httpx.Param(r, "group")
	if err := meta.CheckGroup(o.group); err != nil {
		return err
	}
	q, err := httpx.ParseQuery(r, "q")
	if err != nil {
		return err
	}
	return o.setQueue(q)
}

func (o *offsets) do(h *Handler, w http.ResponseWriter, r *http.Request) error {
	list, err := readList[offsetJSON](w, r)
	if err != nil {
		return err
	}
	at, err := positions(list)
	if err != nil {
		return err
	}
	key, err := h.key(r.Context(), &o.place)
	if err != nil {
		return err
	}
	if len(at) == 0 {
		return answerEach(w, nil)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), settleTimeout)
	defer cancel()
	outcome := h.groups.Through(ctx, key, at...)
	h.forget(o.topic, outcome...)
	return answerEach(w, outcome)
}

// positions checks the elements: a partition comes once, so that the order does not matter.
func positions(list []offsetJSON) ([]store.Position, error) {
	at := make([]store.Position, len(list))
	seen := make(map[int32]bool, len(list))
	for i, o := range list {
		switch {
		case o.Partition == nil || o.Offset == nil:
			return nil, fmt.Errorf("element %d: needs partition and offset: %w", i, errs.InvalidBody)
		case *o.Partition < 0:
			return nil, fmt.Errorf("element %d: partition %d is below 0: %w", i, *o.Partition, errs.InvalidBody)
		case *o.Offset < 0 || *o.Offset == math.MaxInt64:
			return nil, fmt.Errorf("element %d: offset %d can't be: %w", i, *o.Offset, errs.InvalidBody)
		case seen[*o.Partition]:
			return nil, fmt.Errorf("element %d: partition %d is given twice: %w", i, *o.Partition, errs.InvalidBody)
		}
		seen[*o.Partition] = true
		at[i] = store.Position{Partition: *o.Partition, Next: *o.Offset + 1}
	}
	return at, nil
}
