package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The standard folders of a node.
const (
	ConfDir = "/etc/cni/net.d"
	BinDir  = "/opt/cni/bin"
)

// ErrNoNetwork says that a folder has no configuration yet.
var ErrNoNetwork = errors.New("no CNI is configured")

// Every is how often [Keep] looks.
const Every = time.Second

// saved is the ending of a .conf that a list replaced: no runtime reads it.
const saved = ".sallyport"

// Install copies the binary self into binDir and puts the plugin at the end of
// the configuration that runtimes use: the first of confDir by name. It changes
// nothing else of the file, and nothing at all if that has been done. A .conf
// X, which has room for one plugin, is moved to X.sallyport, and X.conflist
// takes its place in the order. The error is [ErrNoNetwork] while there is no
// configuration.
func Install(confDir, binDir, self string) error {
	// The binary comes first: a configuration never names one that is missing.
	if err := installBinary(binDir, self); err != nil {
		return err
	}
	return chain(confDir)
}

// Keep installs, and does it again whenever another plugin rewrites the
// configuration or clears the folders, until the context ends. It tells report
// how it went, nil for well, first and after every change of that.
func Keep(ctx context.Context, confDir, binDir, self string, report func(error)) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	copied, said := false, ""
	for {
		if _, err := os.Stat(filepath.Join(binDir, Binary)); err != nil {
			copied = false
		}
		var err error
		if !copied {
			err = installBinary(binDir, self)
		}
		if copied = err == nil; copied {
			err = chain(confDir)
		}
		if now := fmt.Sprint(err); now != said {
			report(err)
			said = now
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Uninstall takes out what [Install] put into confDir and binDir, whichever
// file it is in, and leaves everything else as it is.
func Uninstall(confDir, binDir string) error {
	entries, err := os.ReadDir(confDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot look for the plugin: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(confDir, e.Name())
		switch filepath.Ext(path) {
		case saved:
			errs = append(errs, restore(path))
		case ".conflist":
			if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(Binary)) {
				errs = append(errs, edit(path, without))
			}
		}
	}
	if err := os.Remove(filepath.Join(binDir, Binary)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("cannot remove the plugin: %w", err))
	}
	return errors.Join(errs...)
}

// chain puts the plugin into the first configuration of a folder.
func chain(confDir string) error {
	entries, err := os.ReadDir(confDir) // in the order of names
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot look for a CNI configuration: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(confDir, e.Name())
		switch ext := filepath.Ext(path); {
		case e.IsDir():
		case ext == ".conflist":
			return edit(path, with)
		case ext == ".conf" || ext == ".json":
			return replace(path)
		}
	}
	return fmt.Errorf("%w in %s: install a CNI plugin, the node needs one", ErrNoNetwork, confDir)
}

// read returns a configuration and who may use it.
func read(path string) ([]byte, fs.FileMode, error) {
	text, err := os.ReadFile(path)
	var info fs.FileInfo
	if err == nil {
		info, err = os.Stat(path)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the CNI configuration: %w", err)
	}
	return text, info.Mode().Perm(), nil
}

// replace puts a list in the place of a configuration of one plugin.
func replace(path string) error {
	text, mode, err := read(path)
	if err != nil {
		return err
	}
	list, err := listOf(text)
	if err == nil {
		list, err = with(list)
	}
	if err != nil {
		return fmt.Errorf("cannot add %s to %s: %w", Binary, path, err)
	}
	if err := write(path+".conflist", bytes.NewReader(list), mode, func() error { return unchanged(path, text) }); err != nil {
		return err
	}
	if err := os.Rename(path, path+saved); err != nil {
		return fmt.Errorf("cannot put the list in the place of %s: %w", path, err)
	}
	return nil
}

// restore puts a configuration of one plugin back, before the list that took
// its place goes: there is always one of them.
func restore(path string) error {
	before := strings.TrimSuffix(path, saved)
	if _, err := os.Lstat(before); err == nil {
		// Its owner has written it again meanwhile.
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("cannot remove %s: %w", path, err)
		}
	} else if err := os.Rename(path, before); err != nil {
		return fmt.Errorf("cannot restore %s: %w", before, err)
	}
	if err := os.Remove(before + ".conflist"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the list in the place of %s: %w", before, err)
	}
	return nil
}

// edit changes a file, or the file that a symbolic link leads to, at once.
func edit(path string, change func([]byte) ([]byte, error)) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is gone, or is a symbolic link whose target cannot be seen here; mount the target's folder at the same path", path)
	}
	if err != nil {
		return fmt.Errorf("cannot read the CNI configuration: %w", err)
	}
	before, mode, err := read(target)
	if err != nil {
		return err
	}
	after, err := change(before)
	if err != nil {
		return fmt.Errorf("cannot change %s: %w", path, err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	return write(target, bytes.NewReader(after), mode, func() error { return unchanged(target, before) })
}

// unchanged fails if a file's owner has written it meanwhile.
func unchanged(path string, text []byte) error {
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(text, now) {
		return fmt.Errorf("%s is being written by its owner; try again", path)
	}
	return nil
}

// write replaces a file at once, through one that no runtime reads. What may
// stop it is asked last.
func write(path string, content io.Reader, mode fs.FileMode, may func() error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".sallyport-*.tmp")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = may()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// installBinary copies self under the plugin's name. The old one may be
// running: it keeps its file.
func installBinary(binDir, self string) error {
	in, err := os.Open(self)
	if err != nil {
		return fmt.Errorf("cannot read the plugin: %w", err)
	}
	defer in.Close()
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of CNI plugins: %w", err)
	}
	return write(filepath.Join(binDir, Binary), in, 0o755, func() error { return nil })
}

// entry is what is added to a list, with the standard values for operators to see.
func entry() []byte {
	return fmt.Appendf(nil, `{"type": %q, "socket": "/run/sallyport/agent.sock", "timeout": %q}`, Binary, standardTimeout)
}

// list is a configuration of several plugins.
type list struct {
	CNIVersion  string            `json:"cniVersion"`
	CNIVersions []string          `json:"cniVersions,omitempty"`
	Name        string            `json:"name"`
	Plugins     []json.RawMessage `json:"plugins"`
}

// chains says whether the plugins of the list hand results on.
func (l *list) chains() error {
	if v := l.CNIVersion; len(l.CNIVersions) == 0 && (v == "" || strings.HasPrefix(v, "0.1.") || strings.HasPrefix(v, "0.2.")) {
		return fmt.Errorf("its cniVersion %q has no chained plugins; set it to 1.0.0", v)
	}
	return nil
}

// listOf makes a list of one plugin's configuration.
func listOf(text []byte) ([]byte, error) {
	var one struct {
		list
		Type string `json:"type"`
	}
	if err := json.Unmarshal(text, &one); err != nil {
		return nil, broken(err)
	}
	if one.Type == "" {
		return nil, errors.New("it names no plugin type; a list of plugins belongs into a file that ends in .conflist")
	}
	one.Plugins = []json.RawMessage{text}
	return json.MarshalIndent(one.list, "", "  ")
}

func broken(err error) error {
	return fmt.Errorf("it is no valid JSON: %w; container runtimes do not read it either, so repair or remove it", err)
}

// with is a list with the plugin at its end: everything else keeps its bytes.
func with(text []byte) ([]byte, error) {
	var l list
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, broken(err)
	}
	if err := l.chains(); err != nil {
		return nil, err
	}
	plugins, err := locate(text)
	if err != nil {
		return nil, broken(err)
	}
	if n := len(plugins); n > 1 && plugins[n-1].ours {
		return text, nil
	}
	if text, err = without(text); err != nil { // it may be there, and not last
		return nil, err
	}
	if plugins, err = locate(text); err != nil || len(plugins) == 0 {
		return nil, errors.Join(errors.New("it lists no plugin that "+Binary+" could come behind"), err)
	}
	last := plugins[len(plugins)-1]
	return slices.Insert(text, last.end, slices.Concat([]byte(","), indent(text, last.start), entry())...), nil
}

// without is a list without the plugin: everything else keeps its bytes.
func without(text []byte) ([]byte, error) {
	plugins, err := locate(text)
	if err != nil {
		return nil, broken(err)
	}
	text = slices.Clone(text)
	for i, p := range slices.Backward(plugins) {
		switch {
		case !p.ours:
			continue
		case i > 0: // with the comma before it
			p.start = plugins[i-1].end
		case len(plugins) > 1: // with the comma behind it
			p.end = plugins[1].start
		}
		text = slices.Delete(text, p.start, p.end)
	}
	return text, nil
}

// indent is the line break and white space before an offset, if there is one.
func indent(text []byte, at int) []byte {
	space := text[len(bytes.TrimRight(text[:at], " \t\r\n")):at]
	if i := bytes.LastIndexByte(space, '\n'); i >= 0 {
		return space[i:]
	}
	return []byte(" ")
}

// plugin is one of a list: the offsets of its JSON, and whether it is ours.
type plugin struct {
	start, end int
	ours       bool
}

// locate finds the elements of a list's "plugins".
func locate(text []byte) (plugins []plugin, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	token := func() (t json.Token) {
		if err == nil {
			t, err = d.Token()
		}
		return t
	}
	var value json.RawMessage
	for token(); err == nil && d.More(); {
		if token() != "plugins" {
			err = errors.Join(err, d.Decode(&value))
			continue
		}
		plugins = nil // of a key twice the last holds
		for token(); err == nil && d.More(); {
			if err = d.Decode(&value); err != nil {
				break
			}
			var p struct {
				Type string `json:"type"`
			}
			err = json.Unmarshal(value, &p)
			end := int(d.InputOffset())
			plugins = append(plugins, plugin{start: end - len(value), end: end, ours: p.Type == Binary})
		}
		token()
	}
	return plugins, err
}
