// Package manifest turns files into a model.Cluster: YAML and JSON, one or many
// documents, folders, Lists, standard input. Policies are decoded by package
// dialect; workload templates become the pods that their controllers would
// make; pods, nodes and Services without addresses get them by a fixed rule,
// so that every reader of the same files gives the same answers.
//
// It owns what it returns until it returns it. Documents are parsed on two
// cores, and decoded in order by the caller's goroutine. Tests are manifests
// and the clusters and problems that they make.
package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/dialect"
	"github.com/sallyport-dev/sallyport/dialect/field"
	"github.com/sallyport-dev/sallyport/model"
)

// Options say how addresses and pods without any are filled in.
type Options struct {
	Nodes     int            // nodes to make up where the input has no Node; 0 is 1
	DualStack bool           // also give IPv6 addresses
	Namespace string         // of objects without one; "" is default
	PodRanges []netip.Prefix // default 10.244.0.0/14 and, with DualStack, fd00:10:244::/48
	Common    *Common        // with inputs that are read at the same time; or nil
}

// Result is what the input says.
type Result struct {
	Cluster  *model.Cluster
	Tests    []field.Object // PolicyTest objects, for package policytest
	Problems []model.Problem
	Written  Written
}

// Stdin is the path that means standard input.
const Stdin = "-"

// Load reads the paths: files, folders (recursively; .yaml, .yml and .json,
// hidden ones left out) and "-". The error is about reading; what is wrong in
// the objects is in the Result's Problems.
func Load(paths []string, stdin io.Reader, opts Options) (*Result, error) {
	l := newLoader(opts)
	for _, p := range paths {
		if err := l.path(p, stdin); err != nil {
			return nil, err
		}
	}
	return l.finish(), nil
}

// Parse reads documents that are in memory, under the name given.
func Parse(files map[string][]byte, order []string, opts Options) *Result {
	l := newLoader(opts)
	for _, name := range order {
		l.documents(name, files[name])
	}
	return l.finish()
}

func (l *loader) path(path string, stdin io.Reader) error {
	if path == Stdin {
		stream, err := io.ReadAll(stdin)
		if err != nil {
			return fmt.Errorf("cannot read standard input: %w", err)
		}
		l.documents(Stdin, stream)
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if !info.IsDir() {
		return l.file(path)
	}
	// The separator has the walk follow a path that is a symbolic link.
	root := path + string(filepath.Separator)
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", p, err)
		}
		if p != root && strings.HasPrefix(e.Name(), ".") {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		switch filepath.Ext(p) {
		case ".yaml", ".yml", ".json":
			if !e.IsDir() {
				return l.file(p)
			}
		}
		return nil
	})
}

func (l *loader) file(path string) error {
	stream, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	l.documents(path, stream)
	return nil
}

// documents reads every document of a stream. A document that cannot be
// parsed ends the stream: where the next one begins cannot be known.
func (l *loader) documents(name string, stream []byte) {
	read, whole := 0, true // documents that are read, and whether the stream is one
	batches(l.opts.Common, divide(stream), func(above int, n *yaml.Node, err error) bool {
		if whole = err != nil; whole {
			return false
		}
		if n != nil {
			read++
			l.documentNode(name, above, n)
		}
		return true
	})
	if whole {
		l.stream(name, stream, read)
	}
}

// stream reads the documents that are left of a stream, as one: it cannot be
// divided, or has an error that only then is at its place.
func (l *loader) stream(name string, stream []byte, read int) {
	d := yaml.NewDecoder(bytes.NewReader(stream))
	for {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.problem(model.Error, model.Source{File: name, Line: lineOf(err)}, "cannot be parsed: "+strings.TrimPrefix(err.Error(), "yaml: "),
				"nothing after this place in the file was read")
			return
		}
		if read--; read < 0 {
			l.documentNode(name, 0, &n)
		}
	}
}

func (l *loader) documentNode(file string, above int, n *yaml.Node) {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		l.document(file, above, n.Content[0])
	}
}

func lineOf(err error) int {
	var line int
	if _, scanErr := fmt.Sscanf(strings.TrimPrefix(err.Error(), "yaml: "), "line %d:", &line); scanErr != nil {
		return 0
	}
	return line
}

func (l *loader) document(file string, above int, n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	source := model.Source{File: file, Line: above + n.Line, Column: n.Column}
	if n.Kind != yaml.MappingNode {
		l.problem(model.Error, source, "is no Kubernetes object", "an object begins with apiVersion and kind")
		return
	}
	scratch := &field.Problems{}
	root := field.Open(field.Object{Source: source, Root: n, Above: above}, scratch)
	source.APIVersion, source.Kind = root.Field("apiVersion").Value(), root.Field("kind").Value()
	if source.Kind == "" || source.APIVersion == "" {
		l.problem(model.Error, source, "has no apiVersion or kind", "an object begins with apiVersion and kind")
		return
	}
	if strings.HasSuffix(source.Kind, "List") && root.Field("items").IsList() {
		root.Field("items").EachNode(func(item *yaml.Node) { l.document(file, above, item) })
		return
	}
	meta := root.Field("metadata")
	source.Name, source.Namespace = meta.Field("name").Value(), meta.Field("namespace").Value()
	l.object(field.Object{Source: source, Root: n, Above: above})
}

// namespaced says whether objects of the kind live in a namespace.
func namespaced(kind string) bool {
	switch kind {
	case "Namespace", "Node":
		return false
	}
	return !dialect.ClusterScoped(kind)
}

func (l *loader) object(o field.Object) {
	placed := o.Source.Namespace != "" || !namespaced(o.Source.Kind)
	if !placed {
		o.Source.Namespace = cmp.Or(l.opts.Namespace, "default")
	}
	if o.Source.APIVersion == "sallyport.dev/v1alpha1" && o.Source.Kind == "PolicyTest" {
		l.tests = append(l.tests, o)
		return
	}
	if l.seen(o.Source) {
		return
	}
	l.written.note(o, placed)
	if dialect.IsPolicy(o.Source) {
		parts, problems := dialect.Decode(o)
		for _, p := range parts.Policies {
			if p.Source.Name == "" { // an error, but two of them are still two policies
				p.Source.Name = "(unnamed at " + o.Source.Place() + ")"
			}
		}
		l.policies = append(l.policies, parts.Policies...)
		l.tiers = append(l.tiers, parts.Tiers...)
		l.sets = append(l.sets, parts.Sets...)
		l.problems = append(l.problems, problems...)
		if o.Source.Namespace != "" {
			l.useNamespace(o.Source.Namespace)
		}
		return
	}
	group, _, _ := strings.Cut(o.Source.APIVersion, "/")
	if decode, ok := kinds[kind{group, o.Source.Kind}]; ok {
		p := &field.Problems{}
		decode(l, o.Source, field.Open(o, p))
		l.problems = append(l.problems, p.List...)
	}
}

// seen reports an object that was written before and says so.
func (l *loader) seen(s model.Source) bool {
	group := dialect.Group(s.APIVersion)
	key := group + "/" + s.Kind + "/" + s.Namespace + "/" + s.Name
	first, ok := l.objects[key]
	if ok && s.Name != "" {
		l.problem(model.Error, s, "is written twice; the first is at "+first.Place(), "remove or rename one of them; this one was left out")
		return true
	}
	l.objects[key] = s
	return false
}

func (l *loader) problem(severity model.Severity, s model.Source, message, hint string) {
	l.problems = append(l.problems, model.Problem{Severity: severity, Source: s, Message: message, Hint: hint})
}
