package gk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

type top struct {
	Every time.Duration `default:"1s" help:"How often to look; at least 100ms."`
	Rows  int           `default:"20" placeholder:"N" help:"How many clients to show, the busiest first."`
	Once  bool          `help:"Show one frame and end."`
}

// Help is the second paragraph of its --help.
func (top) Help() string {
	return "The first line is of the gateway that is asked; what a gateway publishes is what it says of itself. With -o json there is one object per line."
}

// clearScreen moves to the first line and clears what is below.
const clearScreen = "\x1b[H\x1b[2J"

func (c *top) Run(ctx context.Context, t *tool) error {
	if c.Every < 100*time.Millisecond || c.Rows < 1 {
		return usagef("--every %v --rows %d: must be at least 100ms and 1", c.Every, c.Rows)
	}
	before, err := t.sample(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := t.sample(ctx)
		switch {
		case err == nil:
			err = c.draw(t.out, between(before, now, c.Rows))
			before = now
		case errors.As(err, new(*unreachableError)) && !c.Once && ctx.Err() == nil:
			fmt.Fprintln(t.err, "gk:", err) // it may be starting anew
			continue
		}
		if err != nil || c.Once {
			return ended(ctx, err)
		}
	}
}

// draw shows a frame with one write, so that it does not flicker.
func (c *top) draw(to *output, f frame) error {
	var b bytes.Buffer
	switch {
	case to.json:
		line, err := f.lineOf()
		if err != nil {
			return err
		}
		b.Write(line)
	default:
		fresh := !c.Once && isTerminal(to.w)
		if fresh {
			b.WriteString(clearScreen)
		}
		if err := f.show(newOutput(&b, false)); err != nil {
			return err
		}
		if !fresh && !c.Once {
			b.WriteByte('\n')
		}
	}
	to.write("%s", b.Bytes())
	return to.err
}
