// Package cni holds a pod's start until its policies are in force. [Main] is
// the chained CNI plugin: it asks the agent of the node and passes the result
// of the plugin before it on. [Install] and [Keep] put it behind the plugins of
// any CNI. Nothing here knows policies. Test by running the binary through the
// CNI protocol against an api.Handler.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/sallyport-dev/sallyport/api"
)

// Binary is the plugin's name, as a file and as the type in a configuration.
const Binary = "sallyport-cni"

// standardTimeout bounds ADD and CHECK if the configuration says nothing.
const standardTimeout = 30 * time.Second

// delTimeout bounds DEL: a pod's end waits for nothing of ours.
const delTimeout = 2 * time.Second

// statusTimeout bounds STATUS. A kubelet calls its node not ready when STATUS
// fails, for which the restart of an agent is no reason.
const statusTimeout = 10 * time.Second

// Main runs one command of the CNI protocol, which is in the environment and
// on standard input, and returns the exit code. Errors go to standard output,
// as the protocol asks.
func Main() int {
	commands := skel.CNIFuncs{Add: add, Check: check, Del: del, Status: status, GC: garbage}
	err := skel.PluginMainFuncsWithError(commands, version.VersionsStartingFrom("0.3.0"),
		"This is sallyport as a chained CNI plugin; container runtimes call it. Run it as 'sallyport' for everything else.")
	if err == nil {
		return 0
	}
	_ = err.Print()
	return 1
}

// conf is the plugin's configuration. Keys other than those of the CNI
// specification and its own are errors.
type conf struct {
	types.PluginConf
	Socket  string `json:"socket"`  // of the agent; "" is api.Socket
	Timeout string `json:"timeout"` // how long ADD and CHECK wait, a Go duration; "" is 30s

	// Before is the result of the plugin before, which ADD passes on as it is.
	Before json.RawMessage `json:"prevResult"`

	// Keys that runtimes and operators may give to any plugin.
	Args          json.RawMessage `json:"args"`
	RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	Attachments   json.RawMessage `json:"cni.dev/attachments"`

	timeout time.Duration
}

func readConf(text []byte) (*conf, error) {
	c := &conf{Socket: api.Socket, timeout: standardTimeout}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, invalid("cannot read the configuration of %s: %v; it takes socket and timeout", Binary, err)
	}
	if c.Timeout != "" {
		var err error
		if c.timeout, err = time.ParseDuration(c.Timeout); err != nil || c.timeout <= 0 {
			return nil, invalid("the timeout %q in the configuration of %s is no positive duration such as 30s", c.Timeout, Binary)
		}
	}
	return c, nil
}

func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

// client asks the agent.
func (c *conf) client() *api.Client { return api.NewClient(c.Socket) }

// pod is what the runtime tells of the pod, without the plugin before.
func (c *conf) pod(a *skel.CmdArgs) api.Pod {
	p := api.Pod{ContainerID: a.ContainerID, NetNS: a.Netns}
	for pair := range strings.SplitSeq(a.Args, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAMESPACE":
			p.Namespace = value
		case "K8S_POD_NAME":
			p.Name = value
		case "K8S_POD_UID":
			p.UID = value
		}
	}
	return p
}

// attached is the pod with what the plugin before made for it.
func (c *conf) attached(a *skel.CmdArgs) (api.Pod, error) {
	p := c.pod(a)
	if p.Namespace == "" || p.Name == "" {
		return p, types.NewError(types.ErrInvalidEnvironmentVariables,
			"CNI_ARGS names no pod: K8S_POD_NAMESPACE and K8S_POD_NAME are missing; "+Binary+" works for Kubernetes only", "")
	}
	if c.Before == nil {
		return p, invalid("%s is not chained: it has no prevResult; put it behind another plugin in a .conflist, as 'sallyport cni install' does", Binary)
	}
	before, err := version.NewResult(c.CNIVersion, c.Before)
	if err != nil {
		return p, invalid("cannot read the result of the plugin before %s: %v", Binary, err)
	}
	r, err := current.NewResultFromResult(before)
	if err != nil {
		return p, invalid("cannot read the result of the plugin before %s: %v", Binary, err)
	}
	if p.HostInterface, p.IPs = ends(r); len(p.IPs) == 0 {
		return p, invalid("the plugin before %s gave the pod no address, so there is nothing to enforce; put it last in the list", Binary)
	}
	return p, nil
}

// ends finds the pod's device on the node and the pod's addresses. Plugins list
// a bridge, then the pod's device on the node, then the pod's own device, which
// alone is in a sandbox; some list only one of them, and no address of theirs.
func ends(r *current.Result) (device string, ips []netip.Addr) {
	inside := false
	for _, i := range r.Interfaces {
		if i.Sandbox != "" {
			inside = true
		} else if !inside {
			device = i.Name
		}
	}
	for _, x := range r.IPs {
		if i := x.Interface; inside && i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Sandbox == "" {
			continue // the node's end
		}
		if ip, ok := netip.AddrFromSlice(x.Address.IP); ok {
			ips = append(ips, ip.Unmap())
		}
	}
	return device, ips
}

// add returns when the pod's policies are in force, or fails and thereby the
// pod's start, which kubelet tries again.
func add(a *skel.CmdArgs) error {
	c, err := readConf(a.StdinData)
	if err != nil {
		return err
	}
	if err := c.enforced(a, c.client().AddPod); err != nil {
		return err
	}
	_, err = os.Stdout.Write(c.Before)
	return err
}

func check(a *skel.CmdArgs) error {
	c, err := readConf(a.StdinData)
	if err != nil {
		return err
	}
	return c.enforced(a, c.client().CheckPod)
}

// del tells the agent, whatever it answers: the agent sees from the API server
// too that a pod is gone.
func del(a *skel.CmdArgs) error {
	c, err := readConf(a.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), delTimeout)
	defer cancel()
	if err := c.client().DeletePod(ctx, c.pod(a)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: the agent was not told of the end of container %s: %v\n", Binary, a.ContainerID, err)
	}
	return nil
}

// status says whether pods can be added.
func status(a *skel.CmdArgs) error {
	c, err := readConf(a.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(c.timeout, statusTimeout))
	defer cancel()
	err = persist(ctx, func() error {
		_, err := c.client().Status(ctx)
		return err
	})
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), whereToLook)
	}
	return nil
}

// garbage has nothing to collect: the agent keeps what the API server says.
func garbage(a *skel.CmdArgs) error {
	_, err := readConf(a.StdinData)
	return err
}

const whereToLook = "kubelet tries again; look at the agent of this node: kubectl -n sallyport-system get pods -o wide, then logs; " +
	"if Sallyport was deleted and its nodes were not cleaned, apply deploy/uninstall.yaml, then delete it"

// enforced asks until the agent says that the pod's policies are in force.
func (c *conf) enforced(a *skel.CmdArgs, question func(context.Context, api.Pod) (api.Enforced, error)) error {
	pod, err := c.attached(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	err = persist(ctx, func() error {
		_, err := question(ctx, pod)
		return err
	})
	switch {
	case err == nil:
		return nil
	case temporary(err):
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("the policies of pod %s are not in force after %v: %v", pod.Key(), c.timeout, err), whereToLook)
	}
	return types.NewError(types.ErrInternal, fmt.Sprintf("cannot enforce the policies of pod %s: %v", pod.Key(), err), whereToLook)
}

// persist asks until there is an answer that will not change by itself, or
// until the context ends: then the error is that of the last answer.
func persist(ctx context.Context, ask func() error) error {
	var last error
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := ask()
		if ctx.Err() != nil && last != nil && err != nil {
			return last
		}
		if !temporary(err) {
			return err
		}
		last = err
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
		}
	}
}

// temporary says that an agent may answer otherwise in a moment.
func temporary(err error) bool {
	var gone *api.Unreachable
	var f *api.Failure
	return errors.As(err, &gone) || errors.As(err, &f) && f.Retry
}
