package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// Option is a setting that changes while gateways run.
type Option struct {
	Name, Description string
	// Default is what the configuration says now; it holds where nobody has set the option.
	Default func() json.RawMessage
	// Apply makes the value hold on this gateway, or answers, without any effect, what is wrong with it. try: only look.
	Apply func(value json.RawMessage, try bool) error
}

// LogLevel is the option of which lines the log has. configured is the level that the configuration names.
func LogLevel(level *slog.LevelVar, configured func() string) Option {
	return Option{
		Name: "log_level", Description: "From which level on lines are logged: debug, info, warn or error.",
		Default: func() json.RawMessage {
			b, _ := json.Marshal(configured()) // a string can be encoded
			return b
		},
		Apply: func(value json.RawMessage, try bool) error {
			var name string
			var l slog.Level
			if err := json.Unmarshal(value, &name); err != nil || !slices.Contains([]string{"debug", "info", "warn", "error"}, name) {
				return fmt.Errorf(`log_level must be "debug", "info", "warn" or "error": %w`, errs.InvalidBody)
			}
			if err := l.UnmarshalText([]byte(name)); err != nil || try {
				return err
			}
			level.Set(l)
			return nil
		},
	}
}

// Options are the hot settings that a gateway knows. Their values are objects of meta, so that every gateway has them, and
// has them again after a restart.
type Options struct {
	known []Option // sorted by name
	log   *slog.Logger
}

// NewOptions knows these.
func NewOptions(log *slog.Logger, known ...Option) *Options {
	slices.SortFunc(known, func(a, b Option) int { return strings.Compare(a.Name, b.Name) })
	return &Options{known: known, log: log}
}

// Follow applies what meta says of the options, at once and whenever it changes, until ctx ends.
func (o *Options) Follow(ctx context.Context, d *meta.Directory) {
	applied := make(map[string]json.RawMessage, len(o.known))
	for ctx.Err() == nil {
		changed := d.Changed()
		s := d.Snapshot()
		for i := range o.known {
			o.apply(&o.known[i], s, applied)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (o *Options) apply(opt *Option, s *meta.Snapshot, applied map[string]json.RawMessage) {
	was, before := applied[opt.Name]
	if !before && s.Option(opt.Name) == nil {
		return // the configuration holds, as it has from the start
	}
	value := opt.value(s)
	if before && bytes.Equal(was, value) {
		return
	}
	applied[opt.Name] = value
	if s.Option(opt.Name) == nil {
		delete(applied, opt.Name) // the configuration's again, from now on
	}
	if err := opt.Apply(value, false); err != nil {
		o.log.Error("an option has a value that this version can't use", "option", opt.Name, "error", err)
		return
	}
	o.log.Info("an option was set", "option", opt.Name, "value", string(value))
}

// value is what holds by the snapshot.
func (opt *Option) value(s *meta.Snapshot) json.RawMessage {
	if r := s.Option(opt.Name); r != nil {
		return r.Value
	}
	return opt.Default()
}

func (o *Options) find(name string) (*Option, error) {
	for i := range o.known {
		if o.known[i].Name == name {
			return &o.known[i], nil
		}
	}
	return nil, fmt.Errorf("there is no option %.64q: %w", name, errs.NotFound)
}

// optionView is an option as it is answered.
type optionView struct {
	Name        string          `json:"name"`
	Value       json.RawMessage `json:"value"`
	Default     json.RawMessage `json:"default"`
	Set         bool            `json:"set"`      // somebody set it; else the default holds
	Persists    bool            `json:"persists"` // over a restart
	Description string          `json:"description"`
}

func (opt *Option) view(s *meta.Snapshot) optionView {
	return optionView{opt.Name, opt.value(s), opt.Default(), s.Option(opt.Name) != nil, true, opt.Description}
}

func (h *Handler) listOptions(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s := h.cfg.Meta.Snapshot()
	some := within(p, h.cfg.Options.known, func(o Option) string { return o.Name })
	return c.answer(http.StatusOK, each(some, func(o Option) optionView { return o.view(s) }))
}

func (h *Handler) getOption(c *call) error {
	opt, err := h.cfg.Options.find(c.param("name"))
	if err != nil {
		return err
	}
	return h.answerOption(c, opt)
}

// answerOption answers without an ETag where nobody has set the option.
func (h *Handler) answerOption(c *call, opt *Option) error {
	s := h.cfg.Meta.Snapshot()
	if r, etag := s.Record(opt.id()); r != nil {
		return c.object(http.StatusOK, etag, opt.view(s))
	}
	return c.answer(http.StatusOK, opt.view(s))
}

func (opt *Option) id() meta.ID { return meta.ID{Kind: meta.KindOption, Name: opt.Name} }

// putOption sets the option on all gateways. null lets the default hold again.
func (h *Handler) putOption(c *call) error {
	opt, err := h.cfg.Options.find(c.param("name"))
	if err != nil {
		return err
	}
	var body struct {
		Value json.RawMessage `json:"value"`
	}
	if err := c.body(&body, "name", "default", "set", "persists", "description"); err != nil {
		return err
	}
	if body.Value == nil {
		return fmt.Errorf(`"value" is missing: %w`, errs.InvalidBody)
	}
	unset := string(body.Value) == "null"
	if !unset {
		if err := opt.Apply(body.Value, true); err != nil {
			return err
		}
	}
	err = h.edit(c, opt.id(), func(meta.Record) (meta.Record, error) {
		if unset {
			return nil, nil
		}
		return &meta.Option{Name: opt.Name, Value: body.Value}, nil
	})
	if err != nil {
		return err
	}
	return h.answerOption(c, opt)
}
