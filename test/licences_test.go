package test

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// free are licences under which a program of another licence may be given on with what is under them, by words of theirs.
var free = map[string]string{
	"Apache-2.0": "Apache License Version 2.0",
	"BSD":        "Redistribution and use in source and binary forms, with or without modification, are permitted",
	"MIT":        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files",
	"ISC":        "Permission to use, copy, modify, and distribute this software for any purpose with or without fee is hereby granted",
	"MPL-2.0":    "Mozilla Public License, version 2.0",
}

// bound are words of those under which it may not, or only with conditions on the whole.
var bound = regexp.MustCompile(`(?i)GNU (Affero |Lesser |Library )?General Public License|Server Side Public License|Business Source License|Elastic License|Commons Clause|non-?commercial`)

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)([.-].*)?$`)

// Whatever is linked into the binary has a licence that is known and free. -v lists them.
func TestLicences(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Module", "../cmd/kateway")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	type module struct {
		Path, Version, Dir string
		Main               bool
		Replace            *module
	}
	all := map[string]module{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ Module *module }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if m := p.Module; m != nil && !m.Main {
			all[m.Path] = *m
		}
	}
	for _, m := range slices.SortedFunc(maps.Values(all), func(a, b module) int { return cmp.Compare(a.Path, b.Path) }) {
		names, others := licences(t, m.Dir)
		if t.Log(m.Path, m.Version, names); len(names) == 0 || others != "" || m.Replace != nil {
			t.Errorf("%s %s has licences %v and %q; replaced: %t", m.Path, m.Version, names, others, m.Replace != nil)
		}
	}
	if len(all) < 30 {
		t.Errorf("only %d modules found", len(all))
	}
}

// licences are those of the files in the folder that say so by their names, and what else such a file is or names.
func licences(t *testing.T, dir string) (names []string, others string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		text, known := strings.Join(strings.Fields(string(b)), " "), len(names)
		for name, words := range free {
			if strings.Contains(text, words) {
				names = append(names, name)
			}
		}
		if !slices.Contains(names, "MPL-2.0") { // which names those that it may be combined with
			others += bound.FindString(text)
		}
		if len(names) == known {
			others += e.Name()
		}
	}
	slices.Sort(names)
	return slices.Compact(names), others
}
