package cni

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const ptp = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// lists are configurations as CNIs write them.
var lists = map[string]string{
	"ptp": ptp,
	"calico": `{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "datastore_type": "kubernetes",
      "nodename": "node-1",
      "mtu": 0,
      "ipam": {
          "type": "calico-ipam"
      },
      "policy": {
          "type": "k8s"
      },
      "kubernetes": {
          "kubeconfig": "/etc/cni/net.d/calico-kubeconfig"
      }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    },
    {
      "type": "bandwidth",
      "capabilities": {"bandwidth": true}
    }
  ]
}`,
	"flannel":    "{\n\t\"name\": \"cbr0\",\n\t\"cniVersion\": \"0.3.1\",\n\t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"flannel\",\n\t\t\t\"delegate\": {\"hairpinMode\": true, \"isDefaultGateway\": true}\n\t\t}\n\t]\n}\n",
	"one line":   `{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"bridge","bridge":"cni0","big":9007199254740993}],"disableCheck":true}`,
	"versions":   `{"cniVersions":["1.0.0","1.1.0"],"name":"x","plugins":[{"type":"bridge"}]}`,
	"windows":    "{\r\n \"name\": \"x\", \"cniVersion\": \"0.4.0\",\r\n \"plugins\": [\r\n  {\"type\": \"bridge\", \"name\": \"plugins ] }\"}\r\n ] }\r\n",
	"unknown":    `{"plugins":[ {"type":"a<b>&c"} , {"type":"tuning"} ] , "future": {"plugins": [1]}, "cniVersion":"1.0.0","name":"ü"}`,
	"key twice":  `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"old"}],"plugins":[{"type":"new"}]}`,
	"cilium":     `{"cniVersion":"0.3.1","name":"cilium","plugins":[{"type":"cilium-cni","enable-debug":false,"log-file":"/var/run/cilium/cilium-cni.log"}]}`,
	"empty ones": `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"ptp"}],"args":{},"list":[]}`,
}

// node is the folders of a node, with a binary to install.
type node struct{ conf, bin, self string }

func newNode(t *testing.T) node {
	t.Helper()
	root := t.TempDir()
	n := node{filepath.Join(root, "net.d"), filepath.Join(root, "bin"), filepath.Join(root, "self")}
	must(t, os.Mkdir(n.conf, 0o755))
	must(t, os.WriteFile(n.self, []byte("binary"), 0o700))
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n node) write(t *testing.T, name, text string) {
	t.Helper()
	next := filepath.Join(filepath.Dir(n.conf), "next")
	must(t, os.WriteFile(next, []byte(text), 0o600))
	must(t, os.Rename(next, filepath.Join(n.conf, name)))
}

func (n node) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.conf, name))
	must(t, err)
	return string(text)
}

func (n node) install() error   { return Install(n.conf, n.bin, n.self) }
func (n node) uninstall() error { return Uninstall(n.conf, n.bin) }

// files are the node's files with their contents.
func (n node) files(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{n.conf, n.bin} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil
			}
			text, err := os.ReadFile(path)
			out[strings.TrimPrefix(path, filepath.Dir(n.conf)+"/")] = string(text)
			return err
		})
		must(t, err)
	}
	return out
}

// types are the plugins of a list, in order.
func pluginTypes(t *testing.T, text string) (out []string) {
	t.Helper()
	var l struct {
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, p := range l.Plugins {
		out = append(out, p.Type)
	}
	return out
}

func decoded(t *testing.T, text string) (out map[string]any) {
	t.Helper()
	must(t, json.Unmarshal([]byte(text), &out))
	return out
}

func TestInstallAddsOneEntryAndUninstallTakesItOut(t *testing.T) {
	for name, text := range lists {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.write(t, "10-x.conflist", text)
			n.write(t, "20-other.conflist", text)
			n.write(t, "calico-kubeconfig", "not ours")
			before := n.files(t)
			must(t, n.install())
			after := n.files(t)
			changed := n.read(t, "10-x.conflist")
			if types := pluginTypes(t, changed); types[len(types)-1] != Binary || strings.Count(changed, Binary) != 1 {
				t.Errorf("plugins %v", types)
			}
			want, got := decoded(t, text), decoded(t, changed)
			got["plugins"] = got["plugins"].([]any)[:len(want["plugins"].([]any))]
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("more was changed: %s", d)
			}
			if i, err := os.Stat(filepath.Join(n.conf, "10-x.conflist")); err != nil || i.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", i.Mode(), err)
			}
			if i, err := os.Stat(filepath.Join(n.bin, Binary)); err != nil || i.Mode().Perm() != 0o755 || after["bin/"+Binary] != "binary" {
				t.Errorf("binary %v, %v", i, err)
			}
			must(t, n.install())
			if d := cmp.Diff(after, n.files(t)); d != "" {
				t.Errorf("the second time something changed: %s", d)
			}
			for range 2 {
				must(t, n.uninstall())
				if d := cmp.Diff(before, n.files(t)); d != "" {
					t.Errorf("uninstall left something else: %s", d)
				}
			}
		})
	}
}

func TestTheEntryLooksLikeItsNeighbours(t *testing.T) {
	n := newNode(t)
	n.write(t, "10-x.conflist", ptp)
	must(t, n.install())
	if want := "{\"portMappings\": true}},\n    {\"type\": \"sallyport-cni\", \"socket\": \"/run/sallyport/agent.sock\", \"timeout\": \"30s\"}\n  ]\n}\n"; !strings.HasSuffix(n.read(t, "10-x.conflist"), want) {
		t.Errorf("got\n%s", n.read(t, "10-x.conflist"))
	}
}

func TestAnEntryThatIsNotLastMovesToTheEnd(t *testing.T) {
	for _, at := range []string{
		`{"type":"sallyport-cni","timeout":"5s"},{"type":"ptp"},{"type":"portmap"}`,
		`{"type":"ptp"},{"type":"sallyport-cni"} , {"type":"portmap"}`,
		`{"type":"ptp"},{"type":"portmap"},{"type":"sallyport-cni"}`,
	} {
		n := newNode(t)
		n.write(t, "10-x.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[`+at+`]}`)
		must(t, n.install())
		if d := cmp.Diff([]string{"ptp", "portmap", Binary}, pluginTypes(t, n.read(t, "10-x.conflist"))); d != "" {
			t.Error(d)
		}
		must(t, n.uninstall())
		if d := cmp.Diff([]string{"ptp", "portmap"}, pluginTypes(t, n.read(t, "10-x.conflist"))); d != "" {
			t.Error(d)
		}
	}
}

func TestAConfOfOnePluginBecomesAList(t *testing.T) {
	n := newNode(t)
	n.write(t, "10-bridge.conf", `{"cniVersion": "0.3.1", "name": "net", "type": "bridge", "ipam": {"type": "host-local"}}`)
	n.write(t, "10-bridge.conflist", ptp)
	before := n.files(t)
	must(t, n.install())
	must(t, n.install())
	entries, err := os.ReadDir(n.conf)
	must(t, err)
	if entries[0].Name() != "10-bridge.conf.conflist" { // what a runtime reads, before what was second
		t.Errorf("first is %s", entries[0].Name())
	}
	got := decoded(t, n.read(t, "10-bridge.conf.conflist"))
	if got["cniVersion"] != "0.3.1" || got["name"] != "net" || cmp.Diff([]string{"bridge", Binary}, pluginTypes(t, n.read(t, "10-bridge.conf.conflist"))) != "" {
		t.Errorf("got %v", got)
	}
	// Its owner writes it again.
	n.write(t, "10-bridge.conf", `{"cniVersion": "0.3.1", "name": "net", "type": "ptp"}`)
	must(t, n.install())
	if d := cmp.Diff([]string{"ptp", Binary}, pluginTypes(t, n.read(t, "10-bridge.conf.conflist"))); d != "" {
		t.Error(d)
	}
	must(t, n.uninstall())
	before["net.d/10-bridge.conf"] = `{"cniVersion": "0.3.1", "name": "net", "type": "ptp"}`
	if d := cmp.Diff(before, n.files(t)); d != "" {
		t.Error(d)
	}
}

func TestAnOwnersNewConfIsKeptByUninstall(t *testing.T) {
	n := newNode(t)
	n.write(t, "10-x.conf", `{"cniVersion": "0.3.1", "name": "net", "type": "bridge"}`)
	must(t, n.install())
	n.write(t, "10-x.conf", `{"cniVersion": "0.3.1", "name": "net", "type": "new"}`)
	must(t, n.uninstall())
	if got := n.files(t); len(got) != 1 || !strings.Contains(got["net.d/10-x.conf"], "new") {
		t.Errorf("got %v", got)
	}
}

func TestALinkStaysALink(t *testing.T) {
	n := newNode(t)
	real := filepath.Join(filepath.Dir(n.self), "real.json")
	must(t, os.WriteFile(real, []byte(ptp), 0o644))
	must(t, os.Symlink("../real.json", filepath.Join(n.conf, "10-x.conflist")))
	must(t, n.install())
	if i, err := os.Lstat(filepath.Join(n.conf, "10-x.conflist")); err != nil || i.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%v %v", i, err)
	}
	if !strings.Contains(n.read(t, "10-x.conflist"), Binary) {
		t.Error("the target has no entry")
	}
	must(t, n.uninstall())
	if text, err := os.ReadFile(real); err != nil || string(text) != ptp {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestInstallSaysWhatIsWrongAndChangesNothing(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"broken":        {"10-x.conflist", `{"name": "x", "plugins": [`, "no valid JSON"},
		"behind":        {"10-x.conflist", ptp + "}", "no valid JSON"},
		"empty file":    {"10-x.conflist", "", "no valid JSON"},
		"array":         {"10-x.conflist", `[{"type":"ptp"}]`, "no valid JSON"},
		"object":        {"10-x.conflist", `{"cniVersion":"1.0.0","plugins":{"type":"ptp"}}`, "no valid JSON"},
		"none":          {"10-x.conflist", `{"cniVersion":"1.0.0","name":"x"}`, "lists no plugin"},
		"empty":         {"10-x.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[]}`, "lists no plugin"},
		"capital":       {"10-x.conflist", `{"cniVersion":"1.0.0","name":"x","PLUGINS":[{"type":"ptp"}]}`, "lists no plugin"},
		"only ours":     {"10-x.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"sallyport-cni"}]}`, "lists no plugin"},
		"no version":    {"10-x.conflist", `{"name":"x","plugins":[{"type":"ptp"}]}`, "set it to 1.0.0"},
		"old version":   {"10-x.conflist", `{"cniVersion":"0.2.0","name":"x","plugins":[{"type":"ptp"}]}`, "set it to 1.0.0"},
		"broken conf":   {"10-x.conf", `{`, "no valid JSON"},
		"list in conf":  {"10-x.conf", ptp, "ends in .conflist"},
		"old conf":      {"10-x.conf", `{"cniVersion":"0.1.0","name":"x","type":"bridge"}`, "set it to 1.0.0"},
		"json of list":  {"10-x.json", ptp, "ends in .conflist"},
		"broken second": {"00-x.conflist", `{`, "00-x.conflist"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.write(t, c.file, c.text)
			n.write(t, "50-fine.conflist", ptp)
			before := n.files(t)
			if err := n.install(); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
				t.Errorf("got %v", err)
			}
			before["bin/"+Binary] = "binary"
			if d := cmp.Diff(before, n.files(t)); d != "" {
				t.Error(d)
			}
		})
	}
	n := newNode(t)
	must(t, os.Symlink("/nowhere/x.conflist", filepath.Join(n.conf, "10-x.conflist")))
	if err := n.install(); err == nil || !strings.Contains(err.Error(), "mount the target's folder") {
		t.Errorf("got %v", err)
	}
}

func TestAnEmptyFolderHasNoNetwork(t *testing.T) {
	n := newNode(t)
	must(t, os.Mkdir(filepath.Join(n.conf, "dir.conflist"), 0o755))
	n.write(t, "README", "")
	n.write(t, "10-x.conflist.tmp", ptp)
	if err := n.install(); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("got %v", err)
	}
	n.conf += "-missing"
	if err := n.install(); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("got %v", err)
	}
	must(t, n.uninstall())
}

func TestKeepKeepsUpWithTheOwner(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	reports, over := make(chan error, 10), make(chan bool)
	go func() {
		Keep(ctx, n.conf, n.bin, n.self, func(err error) { reports <- err })
		close(over)
	}()
	defer func() { cancel(); <-over }()
	report := func() error {
		t.Helper()
		select {
		case err := <-reports:
			return err
		case <-time.After(20 * Every):
			t.Fatal("nothing was reported")
			return nil
		}
	}
	if err := report(); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("got %v", err)
	}
	n.write(t, "10-x.conflist", ptp)
	if err := report(); err != nil {
		t.Error(err)
	}
	for _, step := range []struct {
		change func()
		first  string
	}{
		{func() { n.write(t, "10-x.conflist", lists["calico"]) }, "10-x.conflist"},
		{func() { n.write(t, "05-before.conflist", lists["flannel"]) }, "05-before.conflist"},
		{func() { must(t, os.Remove(filepath.Join(n.bin, Binary))) }, "05-before.conflist"},
	} {
		step.change()
		done := func() bool {
			_, err := os.Stat(filepath.Join(n.bin, Binary))
			return err == nil && strings.Contains(n.read(t, step.first), Binary)
		}
		for end := time.Now().Add(20 * Every); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still %v", n.files(t))
			}
		}
	}
	n.write(t, "05-before.conflist", "{")
	if err := report(); err == nil {
		t.Error("a broken configuration was not reported")
	}
	n.write(t, "05-before.conflist", ptp)
	if err := report(); err != nil {
		t.Error(err)
	}
}
