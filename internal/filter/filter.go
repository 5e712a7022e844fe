// Package filter decides which messages a subscriber wants: by tag, or by an expression in CEL
// (https://github.com/google/cel-spec) over the message.
package filter

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	// MaxExpression is the longest expression in bytes.
	MaxExpression = 2048
	// maxDepth bounds the nesting of an expression.
	maxDepth = 32
)

// budget is what the evaluation of one message may cost, in CEL's units: about one per operation or per ten bytes looked at,
// each 0.1 to 0.5 us of a processor. A message that costs more does not match. It grows with the message, since to look at
// much takes long, and since whoever sends much is charged for it: small messages must not keep a processor busy.
type budget struct {
	size int // of messages up to so many bytes: keys, values and headers
	cost uint64
}

var budgets = [...]budget{{1 << 10, 1 << 13}, {8 << 10, 1 << 14}, {64 << 10, 1 << 16}, {math.MaxInt, 1 << 20}} //nolint:gochecknoglobals // a constant

// Filter matches messages. The zero *Filter, nil, matches all. It may be used concurrently.
type Filter struct {
	tags []string      // one of them is enough; none: all
	prog []cel.Program // by budget; nil: all
	json bool          // the expression looks at the value
}

// Compile makes a filter of tags and an expression, either of which may be empty. The expression is over
//
//	key      string; "" where the message has none
//	tags     list of strings
//	headers  map from record header to string; the last one where a name comes more than once
//	value    what JSON it is, where its content type says so or, without a content type, where it is a JSON object or
//	         array; else a string, or bytes where it is no UTF-8; null for a tombstone
//
// and its result is a boolean. A message for which it fails, as for a field that is not there, does not match.
// InvalidParam, with line and column, for an expression that can't be understood.
func Compile(tags []string, expr string) (*Filter, error) {
	if len(tags) == 0 && expr == "" {
		return nil, nil
	}
	f := &Filter{tags: tags}
	if expr == "" {
		return f, nil
	}
	if len(expr) > MaxExpression {
		return nil, fmt.Errorf("filter is %d bytes long, at most %d: %w", len(expr), MaxExpression, errs.InvalidParam)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("filter: %w: %w", err, errs.Internal)
	}
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, fmt.Errorf("filter: %s: %w", explain(issues), errs.InvalidParam)
	}
	if t := ast.OutputType(); !t.IsExactType(types.BoolType) && !t.IsExactType(types.DynType) {
		return nil, fmt.Errorf("filter gives %s, but must give a boolean: %w", t, errs.InvalidParam)
	}
	for _, b := range budgets {
		prog, err := env.Program(ast, cel.CostLimit(b.cost), cel.EvalOptions(cel.OptOptimize))
		if err != nil {
			return nil, fmt.Errorf("filter: %s: %w", firstLine(err.Error()), errs.InvalidParam)
		}
		f.prog = append(f.prog, prog)
	}
	f.json = usesValue(ast)
	return f, nil
}

func environment() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("key", cel.StringType),
		cel.Variable("tags", cel.ListType(cel.StringType)),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("value", cel.DynType),
		cel.CrossTypeNumericComparisons(true), // JSON has one kind of number
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserExpressionSizeLimit(MaxExpression),
		ext.Strings(ext.StringsVersion(4)),
	)
}

// explain is the first fault, with its place.
func explain(issues *cel.Issues) string {
	list := issues.Errors()
	if len(list) == 0 {
		return firstLine(issues.Err().Error())
	}
	e := list[0]
	return fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, firstLine(e.Message))
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// usesValue reports whether the expression names the value, which is then decoded per message.
func usesValue(ast *cel.Ast) bool {
	for _, r := range ast.NativeRep().ReferenceMap() {
		if r.Name == "value" {
			return true
		}
	}
	return false
}

// Match reports whether the message is wanted. It only reads it.
func (f *Filter) Match(m *store.Message) bool {
	if f == nil {
		return true
	}
	if len(f.tags) > 0 && !f.tagged(m) {
		return false
	}
	if f.prog == nil {
		return true
	}
	out, err := f.eval(m)
	return err == nil && out == types.True
}

// eval evaluates the expression within the message's budget.
func (f *Filter) eval(m *store.Message) (ref.Val, error) {
	size := m.Size()
	i := slices.IndexFunc(budgets[:], func(b budget) bool { return size <= b.size })
	out, _, err := f.prog[i].Eval(&vars{m: m, json: f.json})
	return out, err
}

// Eval is Match for who must not take the one for the other: a message that costs too much to decide on is neither wanted nor
// unwanted, but an error of kind TooLarge.
func (f *Filter) Eval(m *store.Message) (bool, error) {
	if f == nil {
		return true, nil
	}
	if len(f.tags) > 0 && !f.tagged(m) {
		return false, nil
	}
	if f.prog == nil {
		return true, nil
	}
	out, err := f.eval(m)
	var cut interpreter.EvalCancelledError
	if errors.As(err, &cut) {
		return false, fmt.Errorf("the message costs too much to be judged: %w", errs.TooLarge)
	}
	return err == nil && out == types.True, nil
}

// tagsHeader is the record header under which a message's tags are kept, separated by semicolons.
const tagsHeader = "tags"

func (f *Filter) tagged(m *store.Message) bool {
	for i := range m.Headers {
		if m.Headers[i].Key != tagsHeader {
			continue
		}
		for rest, more := m.Headers[i].Value, true; more; {
			var tag []byte
			tag, rest, more = bytes.Cut(rest, []byte{';'})
			tag = bytes.TrimSpace(tag)
			if slices.ContainsFunc(f.tags, func(want string) bool { return want == string(tag) }) {
				return true
			}
		}
	}
	return false
}
