package model

// L7 is what a rule asks beyond addresses and ports. A connection that only
// such a rule allows is conditional: the kernel hands it to the proxy or drops
// it. All that is set must hold.
type L7 struct {
	HTTP           []HTTPMatch    // any of them; none: not asked
	DNS            []NamePattern  // any of them is the name of a query; none: not asked
	ServerNames    []NamePattern  // any of them is the TLS server name; none: not asked
	Authentication Authentication // "": not asked
	Unsupported    string         // asks for something that nobody can check, such as a TLS secret or a listener: nothing passes
}

// Authentication is how both ends of a connection must have proven who they are.
type Authentication string

// The ways that policies name.
const (
	AuthRequired   Authentication = "required"         // SPIFFE identities over mutual TLS
	AuthDisabled   Authentication = "disabled"         // none, also where a broader rule asks for it
	AuthAlwaysFail Authentication = "test-always-fail" // nobody ever passes
)

// HTTPMatch is one HTTP alternative. Its fields are ANDed; each is a list of
// alternatives, and an empty one is any.
type HTTPMatch struct {
	Methods []StringMatch
	Paths   []StringMatch
	Hosts   []StringMatch
	Headers []HeaderMatch // all of them
	Source  Source
}

// MatchForm is how a [StringMatch] compares.
type MatchForm uint8

// The forms. Regex is RE2 over the whole string, for a path with its query as
// it came; MatchExact and MatchPrefix compare a path after it was normalised
// and without its query, and a prefix ends where a segment does.
const (
	MatchExact MatchForm = iota
	MatchPrefix
	MatchRegex
)

// StringMatch is a text to compare with.
type StringMatch struct {
	Form MatchForm
	Text string
}

// HeaderMatch is a condition on one HTTP header.
type HeaderMatch struct {
	Name     string  // in any case
	Value    *string // nil: the header need only be there
	Secret   string  // "namespace/name" of a Secret that holds the value; "": none
	Mismatch string  // "": the rule does not match; LOG, ADD, DELETE or REPLACE: it matches, and this is done
	Never    bool    // written so that it never matches
}

// NameSyntax is the language of a [NamePattern].
type NameSyntax uint8

// The languages. Names are compared without case and without a final dot.
const (
	NameExact   NameSyntax = iota
	NameCilium             // * is part of one label, a leading **. any number of labels; only stars are every name
	NameCluster            // a leading *. is one label or more
	NameCalico             // one * anywhere is any run of characters, dots too
)

// NamePattern is DNS names, written as a pattern.
type NamePattern struct {
	Syntax NameSyntax
	Text   string
}
