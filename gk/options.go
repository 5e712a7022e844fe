package gk

import (
	"context"
	"encoding/json"
	"net/http"
)

const optionsPath = "/v1/options"

// optionInfo is what gk shows of an element of GET /v1/options.
type optionInfo struct {
	Name        string          `json:"name"`
	Value       json.RawMessage `json:"value"`
	Default     json.RawMessage `json:"default"`
	Persists    bool            `json:"persists"` // over a restart
	Description string          `json:"description"`
}

type optionsLs struct{}

func (*optionsLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, optionsPath, nil), "OPTION VALUE DEFAULT PERSISTS DESCRIPTION", nil, func(o optionInfo) []any {
		return []any{o.Name, plain(o.Value), plain(o.Default), o.Persists, o.Description}
	})
}

type optionArg struct {
	Name string `arg:"" help:"The option's name."`
}

func (a optionArg) path() string { return at(optionsPath, a.Name) }

type optionsGet struct{ optionArg }

func (c *optionsGet) Run(ctx context.Context, t *tool) error { return t.show(ctx, c.path()) }

type optionsSet struct {
	optionArg
	Value string `arg:"" help:"The value: JSON, or a bare word for a string."`
	match
}

func (c *optionsSet) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, change(http.MethodPut, c.path(), body{"value": value(c.Value)}, c.match), "option "+c.Name+" is set")
}
