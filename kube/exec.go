package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
)

// AgentNamespace and agentSelector say where the agents' pods are.
const (
	AgentNamespace = "sallyport-system"
	agentSelector  = "app.kubernetes.io/name=sallyport"
)

// Agents finds the pod of each node's agent, by node.
func Agents(ctx context.Context, cfg *rest.Config) (map[string]string, error) {
	c, err := podClient(cfg)
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	err = c.Get().Resource("pods").Namespace(AgentNamespace).VersionedParams(&metav1.ListOptions{LabelSelector: agentSelector}, metav1.ParameterCodec).Do(ctx).Into(&list)
	if err != nil {
		return nil, fmt.Errorf("cannot list the agents' pods: %w", err)
	}
	out := map[string]string{}
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodRunning {
			out[p.Spec.NodeName] = p.Name
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no agent runs in namespace %s: is Sallyport installed? kubectl apply -f deploy/sallyport.yaml", AgentNamespace)
	}
	return out, nil
}

// coreScheme decodes objects whole.
var coreScheme = runtime.NewScheme()

func init() { utilruntime.Must(corev1.AddToScheme(coreScheme)) }

// podClient asks for pods. A client of every resource there is, as client-go
// has it, would be a quarter of the program, and of each agent's memory.
func podClient(cfg *rest.Config) (rest.Interface, error) {
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	return typedClient(cfg, h, corev1.SchemeGroupVersion, coreScheme)
}

// DialAgent runs a command in an agent's pod, with the rights of the user, and
// makes a connection of its input and output. It ends with the connection.
func DialAgent(ctx context.Context, cfg *rest.Config, pod string, command ...string) (net.Conn, error) {
	c, err := podClient(cfg)
	if err != nil {
		return nil, err
	}
	r := c.Post().Resource("pods").Namespace(AgentNamespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "agent", Command: command, Stdin: true, Stdout: true, Stderr: true}, runtime.NewParameterCodec(coreScheme))
	e, err := remotecommand.NewWebSocketExecutor(cfg, "GET", r.URL().String())
	if err != nil {
		return nil, fmt.Errorf("cannot run a command in pod %s/%s: %w", AgentNamespace, pod, err)
	}
	// What ends with the connection is no news.
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	in, toIn := io.Pipe()
	fromOut, out := io.Pipe()
	go func() {
		var said strings.Builder
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: &said})
		if err != nil {
			err = fmt.Errorf("cannot run a command in pod %s/%s: %w %s", AgentNamespace, pod, err, strings.TrimSpace(said.String()))
		} else {
			err = io.EOF
		}
		_ = out.CloseWithError(err)
		_ = in.CloseWithError(err)
	}()
	return &pipe{fromOut, toIn, cancel}, nil
}

// pipe is a connection of two pipes, without deadlines.
type pipe struct {
	io.Reader
	io.WriteCloser
	cancel context.CancelFunc
}

func (p *pipe) Close() error { p.cancel(); return p.WriteCloser.Close() }

func (p *pipe) LocalAddr() net.Addr  { return pipeAddr{} }
func (p *pipe) RemoteAddr() net.Addr { return pipeAddr{} }

var errNoDeadline = errors.New("a connection through the API server has no deadline")

func (p *pipe) SetDeadline(time.Time) error      { return errNoDeadline }
func (p *pipe) SetReadDeadline(time.Time) error  { return errNoDeadline }
func (p *pipe) SetWriteDeadline(time.Time) error { return errNoDeadline }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pod" }
func (pipeAddr) String() string  { return "pod" }
