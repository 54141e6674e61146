package scale

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/poll"
)

// Agent is a running "sallyport agent" of the first node.
type Agent struct {
	program, kubeconfig string
	cmd                 *exec.Cmd
	done                chan struct{}
	Started             time.Time
}

// NewAgent starts bin/sallyport as the node's agent.
func NewAgent(s *Server) (*Agent, error) {
	module, err := binary.Module()
	if err != nil {
		return nil, err
	}
	a := &Agent{program: filepath.Join(module, "../bin/sallyport"), kubeconfig: s.Kubeconfig}
	if _, err := os.Stat(a.program); err != nil {
		return nil, fmt.Errorf("%w: run make build first", err)
	}
	return a, a.Start()
}

// Log is the file that the agent writes its log to.
func (a *Agent) Log() string { return file("agent.log") }

// Start starts the agent, again if it was killed.
func (a *Agent) Start() error {
	log, err := os.OpenFile(a.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	a.cmd = exec.Command(a.program, "agent", "--node", nodeName(0), "--kubeconfig", a.kubeconfig, "--pprof")
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.Started, a.done = time.Now(), make(chan struct{})
	if err := a.cmd.Start(); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, done chan struct{}) { _ = cmd.Wait(); close(done) }(a.cmd, a.done)
	return nil
}

// Kill ends the agent at once.
func (a *Agent) Kill() error {
	err := a.cmd.Process.Kill()
	<-a.done
	return err
}

const monitoring = "http://127.0.0.1:9878"

func get(path string) (string, error) {
	res, err := http.Get(monitoring + path)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

// Ready waits until the agent says that it is.
func (a *Agent) Ready(ctx context.Context) error {
	return poll.Until(ctx, time.Minute, func() error {
		select {
		case <-a.done:
			return errors.New("the agent has ended")
		default:
			_, err := get("/readyz")
			return err
		}
	})
}

// InSync is how long after the first list the agent of the last start had the
// kernel enforce it, as it says in its log.
func (a *Agent) InSync() (after time.Duration, err error) {
	text, err := os.ReadFile(a.Log())
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var said struct {
			Msg       string
			SinceList time.Duration `json:"since_list"`
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "the cluster's policies are in force" {
			after = said.SinceList
		}
	}
	if after == 0 {
		err = errors.New("the agent does not say when the cluster's policies came into force")
	}
	return after, err
}

// Audit compares what the kernel decides with a compilation from scratch of
// what the API server lists, in a process of its own.
func (a *Agent) Audit(ctx context.Context, peers int) (string, error) {
	out, err := exec.CommandContext(ctx, a.program, "audit", "--node", nodeName(0), "--kubeconfig", a.kubeconfig, "--peers", strconv.Itoa(peers)).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out[:min(len(out), 4000)])
	}
	return strings.TrimSpace(string(out)), err
}

// CPU is the processor time that the agent has used, and how much of it in the
// kernel.
func (a *Agent) CPU() (all, kernel time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third one, the state, on
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick, time.Duration(system) * tick, nil
}

// Use is what the agent holds of the machine.
type Use struct {
	RSS, Peak, Anon                      int // bytes
	Goroutines, Descriptors, Maps, NetNS int
	HeapInUse, Identities                int
	Tables                               map[string]int // entries of the kernel's tables
}

// Use measures.
func (a *Agent) Use() (u Use, err error) {
	u.Tables = map[string]int{}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		var kb int
		_, _ = fmt.Sscanf(strings.TrimSpace(value), "%d kB", &kb)
		switch name {
		case "VmRSS":
			u.RSS = kb << 10
		case "VmHWM":
			u.Peak = kb << 10
		case "RssAnon":
			u.Anon = kb << 10
		}
	}
	folder := fmt.Sprintf("/proc/%d/fd", a.cmd.Process.Pid)
	list, err := os.ReadDir(folder)
	if err != nil {
		return u, err
	}
	for _, f := range list {
		to, _ := os.Readlink(filepath.Join(folder, f.Name()))
		switch {
		case strings.Contains(to, "bpf-map"):
			u.Maps++
		case strings.HasPrefix(to, "net:") || strings.Contains(to, "netns"):
			u.NetNS++
		}
	}
	u.Descriptors = len(list)
	m, err := a.Metrics()
	for k, v := range m {
		if table, ok := strings.CutPrefix(k, "sallyport_table_used"); ok {
			u.Tables[table] = int(v)
		}
	}
	u.Goroutines, u.HeapInUse, u.Identities = int(m["go_goroutines"]), int(m["go_memstats_heap_inuse_bytes"]), int(m["sallyport_identities"])
	return u, err
}

// Metrics are the agent's, by name with labels.
func (a *Agent) Metrics() (map[string]float64, error) {
	text, err := get("/metrics")
	out := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 && lines.Text()[0] != '#' {
			out[lines.Text()[:i]], _ = strconv.ParseFloat(lines.Text()[i+1:], 64)
		}
	}
	return out, err
}

// Latencies says in what time the q'th part of all publications between two
// readings of the metrics came into force, and how many there were. Between
// the bounds of the histogram it is as PromQL's histogram_quantile guesses.
func Latencies(before, after map[string]float64, q float64) (at time.Duration, count int) {
	const name = "sallyport_programming_seconds"
	type bucket struct{ bound, count float64 }
	var list []bucket
	for k, v := range after {
		if text, ok := strings.CutPrefix(k, name+`_bucket{le="`); ok {
			bound, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64)
			if err != nil {
				bound = math.Inf(1)
			}
			list = append(list, bucket{bound, v - before[k]})
		}
	}
	slices.SortFunc(list, func(a, b bucket) int { return int(math.Copysign(1, a.bound-b.bound)) })
	total := after[name+"_count"] - before[name+"_count"]
	below := bucket{}
	for _, b := range list {
		if b.count >= q*total && !math.IsInf(b.bound, 1) {
			part := (q*total - below.count) / max(b.count-below.count, 1)
			at := time.Duration((below.bound + part*(b.bound-below.bound)) * float64(time.Second))
			return at.Round(100 * time.Microsecond), int(total)
		}
		below = b
	}
	return time.Hour, int(total)
}

// Save keeps what the agent says of itself: "heap", or "profile?seconds=10".
func (a *Agent) Save(profile, as string) error {
	text, err := get("/debug/pprof/" + profile)
	if err != nil {
		return err
	}
	return os.WriteFile(as, []byte(text), 0o644)
}
