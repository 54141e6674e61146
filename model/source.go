package model

import (
	"fmt"
	"strings"
)

// Source says where an object, or a part of it, was written. The zero value
// means "nowhere": the value was implied and not written by anybody.
type Source struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name,omitempty"`
	Field      string `json:"field,omitempty"`  // path inside the object: spec.ingress[0].from[1]
	File       string `json:"file,omitempty"`   // as the user named it; "-" is standard input
	Line       int    `json:"line,omitempty"`   // from 1; 0 is unknown
	Column     int    `json:"column,omitempty"` // from 1; 0 is unknown
}

// At returns the source of a part of the same object.
func (s Source) At(field string, line, column int) Source {
	s.Field = field
	if line > 0 {
		s.Line, s.Column = line, column
	}
	return s
}

// Object names the object without the field: "NetworkPolicy shop/web".
func (s Source) Object() string {
	switch {
	case s.Kind == "" && s.Name == "":
		return ""
	case s.Namespace == "":
		return s.Kind + " " + s.Name
	}
	return fmt.Sprintf("%s %s/%s", s.Kind, s.Namespace, s.Name)
}

// Place names the file position: "web.yaml:12:7", or "" if there is none.
func (s Source) Place() string {
	switch {
	case s.File == "":
		return ""
	case s.Line == 0:
		return s.File
	case s.Column == 0:
		return fmt.Sprintf("%s:%d", s.File, s.Line)
	}
	return fmt.Sprintf("%s:%d:%d", s.File, s.Line, s.Column)
}

// String names object, field and place, leaving out what is unknown:
// "NetworkPolicy shop/web spec.ingress[0] (web.yaml:12)".
func (s Source) String() string {
	var parts []string
	if o := s.Object(); o != "" {
		parts = append(parts, o)
	}
	if s.Field != "" {
		parts = append(parts, s.Field)
	}
	if p := s.Place(); p != "" {
		if len(parts) == 0 {
			return p
		}
		parts = append(parts, "("+p+")")
	}
	return strings.Join(parts, " ")
}

// Severity ranks a [Problem].
type Severity uint8

// The severities, from the mildest. Only Error makes an input wrong.
const (
	Info Severity = iota
	Warning
	Error
)

func (s Severity) String() string {
	return [...]string{"info", "warning", "error"}[s]
}

// MarshalText writes the severity as its lower-case word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a severity by its word.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, known := range []Severity{Info, Warning, Error} {
		if known.String() == string(text) {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", text)
}

// Problem is something wrong, or worth saying, about an input.
type Problem struct {
	Severity Severity `json:"severity"`
	Source   Source   `json:"source"`
	Message  string   `json:"message"`        // what is wrong, with the value
	Hint     string   `json:"hint,omitempty"` // what to do about it
}

// Error prints the problem on one line, place first, so that editors can jump.
func (p Problem) Error() string {
	var b strings.Builder
	if place := p.Source.Place(); place != "" {
		b.WriteString(place + ": ")
	}
	b.WriteString(p.Severity.String() + ": ")
	if o := p.Source.Object(); o != "" {
		b.WriteString(o + ": ")
	}
	if p.Source.Field != "" {
		b.WriteString(p.Source.Field + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// HasErrors says whether any of the problems is of severity [Error].
func HasErrors(problems []Problem) bool {
	for _, p := range problems {
		if p.Severity == Error {
			return true
		}
	}
	return false
}
