package errs

// Fault is one of several things that are wrong with what a client sent.
type Fault struct {
	Path    string `json:"path"` // a JSON pointer into it; "" is all of it
	Message string `json:"message"`
}

// Faults is an error that names each fault, for the client to read.
type Faults struct {
	Err  error // what they come to, with a kind
	List []Fault
}

func (f *Faults) Error() string { return f.Err.Error() }

// Unwrap is for errors.Is and errors.As.
func (f *Faults) Unwrap() error { return f.Err }

// Within is the same error with paths that begin at the thing's owner.
func (f *Faults) Within(prefix string) *Faults {
	list := make([]Fault, len(f.List))
	for i, e := range f.List {
		list[i] = Fault{Path: prefix + e.Path, Message: e.Message}
	}
	return &Faults{Err: f.Err, List: list}
}
