package schema

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

const (
	draft = "https://json-schema.org/draft/2020-12/schema"
	// root is what the library calls the schema.
	root = "urn:kateway:schema"
	// maxSchemaDepth bounds the nesting of a schema's own text.
	maxSchemaDepth = 64
	// judge is a schema that only says yes or no of the other one: the library then stops at the first fault and keeps no
	// error. Errors of a large message could take a thousand times its size.
	judge = "urn:kateway:judge"
	// maxTold is how many values a message may have whose faults are told one by one.
	maxTold = 5000
	// maxEvaluations bounds how many subschemas one path into a message may meet: a schema of a few lines could ask for 2^32.
	maxEvaluations = 4096
)

// jsonSchema is a JSON Schema. Formats are annotations, as the draft has it by default.
type jsonSchema struct {
	text        any // as it was written
	judge, tell *jsonschema.Schema
	words       *message.Printer
}

func parseJSON(text string) (*jsonSchema, error) {
	doc, err := document([]byte(text), maxSchemaDepth)
	if err != nil {
		return nil, err
	}
	if _, isBool := doc.(bool); !isBool {
		if _, isObject := doc.(map[string]any); !isObject {
			return nil, errors.New("it must be a JSON object, or true or false")
		}
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nothing{})
	if err := c.AddResource(root, doc); err != nil {
		return nil, clean(err)
	}
	if err := checkRefs(doc); err != nil { // before the library follows them
		return nil, err
	}
	compiled, err := c.Compile(root)
	if err != nil {
		return nil, clean(err)
	}
	if err := c.AddResource(judge, map[string]any{"if": map[string]any{"$ref": root}, "else": false}); err != nil {
		return nil, clean(err)
	}
	judge, err := c.Compile(judge)
	if err != nil {
		return nil, clean(err)
	}
	if n := newWeigher(doc).schema(doc, MaxDepth); n > maxEvaluations {
		return nil, fmt.Errorf("it branches so much that one message could cost more than %d checks at a place; write fewer alternatives that refer to themselves", maxEvaluations)
	}
	return &jsonSchema{doc, judge, compiled, message.NewPrinter(language.English)}, nil
}

// clean leaves our own name for the schema out of the library's text.
func clean(err error) error {
	return errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "jsonschema: "), root, ""))
}

// nothing loads nothing: all of a schema is in its text.
type nothing struct{}

func (nothing) Load(url string) (any, error) {
	return nil, fmt.Errorf("%.100q is elsewhere; a schema has all that it needs in its own text", url)
}

func (s *jsonSchema) check(value []byte, _ []int) (found faults) {
	doc, err := document(value, MaxDepth)
	if err != nil {
		found.add("", "it is no JSON: %v", err)
		return found
	}
	if s.judge.Validate(doc) == nil {
		return nil
	}
	if count(doc) > maxTold {
		found.add("", "it is not what the schema says; of a message with more than %d values it is not told where", maxTold)
		return found
	}
	err = s.tell.Validate(doc)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		found.add("", "%v", clean(err))
		return found
	}
	s.leaves(invalid, &found)
	return found
}

// count is the number of values in a value.
func count(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += count(e)
		}
	case map[string]any:
		for _, e := range v {
			n += count(e)
		}
	}
	return n
}

// leaves lists the leaves of the library's tree, of which each is one fault.
func (s *jsonSchema) leaves(e *jsonschema.ValidationError, found *faults) {
	if len(*found) == MaxFaults { // the texts cost more than the checks
		return
	}
	if len(e.Causes) > 0 {
		for _, c := range e.Causes {
			s.leaves(c, found)
		}
		return
	}
	at := e.InstanceLocation
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			found.add(pointer(append(slices.Clone(at), name)...), "is required")
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			found.add(pointer(append(slices.Clone(at), name)...), "is not allowed")
		}
	default:
		found.add(pointer(at...), "%s", k.LocalizedString(s.words))
	}
}

// Keywords whose values are schemas, by what lies between. Those in the first three concern the same value, the others its
// members or elements.
var (
	inPlaceOne  = []string{"not", "if", "then", "else"}                                                              // read only
	inPlaceList = []string{"allOf", "anyOf", "oneOf"}                                                                // read only
	inPlaceMap  = []string{"dependentSchemas"}                                                                       // read only
	childOne    = []string{"items", "contains", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"} // read only
	childList   = []string{"prefixItems"}                                                                            // read only
	childMap    = []string{"properties", "patternProperties"}                                                        // read only
	apart       = []string{"$defs", "definitions"}                                                                   // read only; met by reference only
	apartOne    = []string{"propertyNames", "contentSchema"}                                                         // read only
)

// subschemas calls f with each schema directly inside, and where it is.
func subschemas(obj map[string]any, f func(s any, at ...string) error) error {
	for _, k := range slices.Concat(inPlaceOne, childOne, apartOne) {
		if s, ok := obj[k]; ok {
			if err := f(s, k); err != nil {
				return err
			}
		}
	}
	for _, k := range slices.Concat(inPlaceList, childList) {
		list, _ := obj[k].([]any)
		for i, s := range list {
			if err := f(s, k, strconv.Itoa(i)); err != nil {
				return err
			}
		}
	}
	for _, k := range slices.Concat(inPlaceMap, childMap, apart) {
		m, _ := obj[k].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if err := f(m[name], k, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRefs refuses what a reference could lead out of the text by, and drafts that mean something else by the same words.
func checkRefs(doc any) error {
	var walk func(s any, at ...string) error
	walk = func(s any, at ...string) error {
		obj, ok := s.(map[string]any)
		if !ok {
			return nil
		}
		for _, k := range []string{"$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor", "$vocabulary"} {
			if _, ok := obj[k]; ok {
				return fmt.Errorf("%s: %s is not supported; use $ref with a JSON pointer, as #/$defs/name", pointer(at...), k)
			}
		}
		if id, ok := obj["$id"]; ok && len(at) > 0 {
			return fmt.Errorf("%s: $id %v: only the schema itself has one", pointer(at...), id)
		}
		if d, ok := obj["$schema"].(string); ok && strings.TrimSuffix(d, "#") != draft {
			return fmt.Errorf("$schema %.100q: the draft is 2020-12, %s", d, draft)
		}
		if ref, ok := obj["$ref"]; ok {
			text, _ := ref.(string)
			if _, ok := resolve(doc, text); !ok {
				return fmt.Errorf("%s: $ref %.100q: must be # or a JSON pointer into this schema, as #/$defs/name", pointer(at...), text)
			}
		}
		return subschemas(obj, func(s any, more ...string) error { return walk(s, append(slices.Clone(at), more...)...) })
	}
	return walk(doc)
}

// resolve finds the schema that a reference names within the text.
func resolve(doc any, ref string) (any, bool) {
	rest, ok := strings.CutPrefix(ref, "#")
	if !ok || rest != "" && rest[0] != '/' {
		return nil, false
	}
	if strings.Contains(rest, "%") { // RFC 6901, section 6: not needed for any name that is worth having
		return nil, false
	}
	v := doc
	if rest == "" {
		return v, true
	}
	for part := range strings.SplitSeq(rest[1:], "/") {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch in := v.(type) {
		case map[string]any:
			if v, ok = in[part]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	switch v.(type) {
	case bool, map[string]any:
		return v, true
	}
	return nil, false
}
