package scale

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Real pods: the first addresses of the agent's node. Policies let sender
// reach open and nobody reach shut, whatever else changes.
var real = []string{"sender", "shut", "open"}

const vault = "vault" // their namespace, which nothing else is in

// localAddresses is how many addresses the agent's node has a device for.
const localAddresses = 140

// connectPods makes the devices of the node's pods, real ones in namespaces of
// their own and the others in one.
func connectPods() error {
	commands := []string{"netns add crowd"}
	for i := range localAddresses {
		space, device, peer := "crowd", fmt.Sprintf("pod%d", i), fmt.Sprintf("eth%d", i)
		if i < len(real) {
			space, peer = real[i], "eth0"
			commands = append(commands, "netns add "+space)
		}
		commands = append(commands,
			fmt.Sprintf("link add %s type veth peer name %s netns %s", device, peer, space),
			fmt.Sprintf("link set %s up", device),
			fmt.Sprintf("route add %s/32 dev %s", podIP(0, i), device),
		)
	}
	if err := ip(commands...); err != nil {
		return err
	}
	for i := range real {
		if err := os.WriteFile(fmt.Sprintf("/proc/sys/net/ipv4/conf/pod%d/proxy_arp", i), []byte("1"), 0); err != nil {
			return err
		}
		in := []string{"link set eth0 up", "addr add " + podIP(0, i) + "/32 dev eth0", "route add default dev eth0"}
		if err := ipIn(real[i], in...); err != nil {
			return err
		}
	}
	var crowd []string
	for i := len(real); i < localAddresses; i++ {
		crowd = append(crowd, fmt.Sprintf("link set eth%d up", i), fmt.Sprintf("addr add %s/32 dev eth%d", podIP(0, i), i))
	}
	return ipIn("crowd", crowd...)
}

func ipIn(space string, commands ...string) error {
	cmd := exec.Command("ip", "-n", space, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip -n %s: %w: %s", space, err, out)
	}
	return nil
}

// Ear is what listens in a real pod.
type Ear struct {
	ask     io.Writer
	answers *bufio.Reader
}

// Heard is what an ear has heard since it was asked last.
type Heard struct {
	Packets int
	Silence time.Duration // the longest
}

// Listen has a pod listen.
func Listen(pod string) (*Ear, error) {
	cmd := inPod(pod, "hear")
	ask, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &Ear{ask, bufio.NewReader(answers)}, cmd.Start()
}

// Heard asks the ear.
func (e *Ear) Heard() (h Heard, err error) {
	if _, err = fmt.Fprintln(e.ask); err != nil {
		return h, err
	}
	_, err = fmt.Fscanln(e.answers, &h.Packets, &h.Silence)
	return h, err
}

// Talk has the sender send a packet to the others each millisecond.
func Talk() error { return inPod("sender", "say").Start() }

func inPod(pod, as string) *exec.Cmd {
	cmd := exec.Command("ip", "netns", "exec", pod, os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+as)
	cmd.Stderr = os.Stderr
	return cmd
}

const port = ":7000"

func say() error {
	var to []net.Conn
	for i := 1; i < len(real); i++ {
		c, err := net.Dial("udp", podIP(0, i)+port)
		if err != nil {
			return err
		}
		to = append(to, c)
	}
	for n := uint64(0); ; n++ {
		for _, c := range to {
			_, _ = c.Write(binary.BigEndian.AppendUint64(nil, n)) // a refusal is of the packet before
		}
		time.Sleep(time.Millisecond)
	}
}

func hear() error {
	c, err := net.ListenPacket("udp", port)
	if err != nil {
		return err
	}
	packets := make(chan struct{}, 1024)
	go func() {
		for buffer := make([]byte, 64); ; {
			if _, _, err := c.ReadFrom(buffer); err == nil {
				packets <- struct{}{}
			}
		}
	}()
	asked := make(chan struct{})
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			asked <- struct{}{}
		}
		os.Exit(0)
	}()
	last, heard := time.Now(), Heard{}
	for {
		select {
		case <-packets:
			heard.Packets++
			heard.Silence = max(heard.Silence, time.Since(last))
			last = time.Now()
		case <-asked:
			heard.Silence = max(heard.Silence, time.Since(last))
			fmt.Println(heard.Packets, int64(heard.Silence))
			last, heard = time.Now(), Heard{}
		}
	}
}
