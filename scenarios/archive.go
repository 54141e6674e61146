package scenarios

import (
	"bytes"
	"strings"
)

// Archive is a txtar file: a comment and then files, each after a line
// "-- name --". The format is the Go project's; it has no errors and no escapes.
type Archive struct {
	Comment []byte
	Files   []File
}

// File is one file of an Archive.
type File struct {
	Name string
	Data []byte // ends in a newline unless empty
}

// ParseArchive splits the bytes of a txtar file. What it returns does not
// share memory with them.
func ParseArchive(data []byte) *Archive {
	a := &Archive{}
	into := &a.Comment
	for line := range bytes.Lines(data) {
		if name, ok := marker(line); ok {
			a.Files = append(a.Files, File{Name: name})
			into = &a.Files[len(a.Files)-1].Data
			continue
		}
		*into = append(*into, line...)
		if line[len(line)-1] != '\n' {
			*into = append(*into, '\n')
		}
	}
	return a
}

// marker is the name in a line "-- name --".
func marker(line []byte) (string, bool) {
	text := strings.TrimRight(string(line), "\r\n")
	name, found := strings.CutPrefix(text, "-- ")
	if !found {
		return "", false
	}
	name, found = strings.CutSuffix(name, " --")
	name = strings.TrimSpace(name)
	return name, found && name != ""
}

// Format writes the archive as ParseArchive reads it.
func (a *Archive) Format() []byte {
	var out bytes.Buffer
	out.Write(a.Comment)
	for _, f := range a.Files {
		out.WriteString("-- " + f.Name + " --\n")
		out.Write(f.Data)
	}
	return out.Bytes()
}
