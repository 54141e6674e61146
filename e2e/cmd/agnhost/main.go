// Command agnhost stands before upstream's agnhost in an image, as /agnhost
// and as /bin/bash, for suites that want from the image what it cannot give
// here: a shell, of which they use "-c" with words, and SCTP, which few kernels
// have. Of that it speaks the first half of the handshake on raw sockets:
// enough to see whether the way to a port is open. All the rest is upstream's.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// upstream is where the image has the real one.
const upstream = "/upstream"

// protocol is SCTP's number.
const protocol = 132

func main() {
	log.SetFlags(0)
	args := os.Args
	if filepath.Base(args[0]) == "bash" {
		if len(args) != 3 || args[1] != "-c" {
			log.Fatalf("bash: of a shell there is only bash -c \"program argument ...\", not %q", args)
		}
		args = strings.Fields(args[2])
	}
	if args[0] == "/agnhost" && !kernelHasSCTP() {
		args = args[1:]
		if ports := servedPorts(os.Environ()); len(args) == 1 && args[0] == "porter" && len(ports) > 0 {
			log.Fatalf("agnhost: %v", serve(ports))
		}
		if dest, patience, ok := question(args); ok {
			if err := ask(dest, patience); err != nil {
				log.Fatal(err)
			}
			return
		}
		args = append([]string{"/agnhost"}, args...)
	}
	if args[0] == "/agnhost" {
		args[0] = upstream
	}
	log.Fatalf("cannot run %s: %v", args[0], syscall.Exec(args[0], args, os.Environ()))
}

func kernelHasSCTP() bool {
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, protocol)
	if err == nil {
		_ = syscall.Close(s)
	}
	return err == nil
}

// servedPorts are those that the environment asks porter to serve by SCTP.
func servedPorts(environ []string) map[uint16]bool {
	out := map[uint16]bool{}
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		number, ok := strings.CutPrefix(name, "SERVE_SCTP_PORT_")
		if port, err := strconv.ParseUint(number, 10, 16); ok && err == nil {
			out[uint16(port)] = true
		}
	}
	return out
}

// question says whether the arguments are of an attempt to connect by SCTP.
func question(args []string) (dest string, patience time.Duration, ok bool) {
	if len(args) < 2 || args[0] != "connect" {
		return "", 0, false
	}
	f := flag.NewFlagSet("connect", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.DurationVar(&patience, "timeout", time.Second, "")
	by := f.String("protocol", "tcp", "")
	if err := f.Parse(args[1:]); err != nil || *by != "sctp" || f.NArg() != 1 {
		return "", 0, false
	}
	return f.Arg(0), patience, true
}

// The chunk types of SCTP's handshake (RFC 9260).
const (
	initiate    = 1
	acknowledge = 2
)

// packet has one INIT or INIT ACK chunk. The state cookie, which an INIT ACK
// must have, is four bytes that nobody reads.
func packet(chunk byte, from, to uint16, verification, tag uint32) []byte {
	b := make([]byte, 32, 40)
	binary.BigEndian.PutUint16(b[0:], from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], verification)
	b[12] = chunk
	binary.BigEndian.PutUint32(b[16:], tag)
	binary.BigEndian.PutUint32(b[20:], 1<<16) // receiver window
	binary.BigEndian.PutUint16(b[24:], 1)     // streams out
	binary.BigEndian.PutUint16(b[26:], 1)     // and in
	binary.BigEndian.PutUint32(b[28:], tag)   // first sequence number
	if chunk == acknowledge {
		b = append(b, 0, 7, 0, 8, 'a', 'g', 'n', 'h')
	}
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-12))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func listen(a net.IP) (*net.IPConn, error) {
	network := "ip4:" + strconv.Itoa(protocol)
	if a != nil && a.To4() == nil {
		network = "ip6:" + strconv.Itoa(protocol)
	}
	return net.ListenIP(network, nil)
}

// serve answers every INIT to the ports.
func serve(ports map[uint16]bool) error {
	failed := make(chan error)
	served := 0
	for _, any := range []net.IP{net.IPv4zero, net.IPv6zero} {
		if conn, err := listen(any); err == nil {
			served++
			go func() { failed <- answer(conn, ports) }()
		}
	}
	if served == 0 {
		return errors.New("cannot listen for SCTP on raw sockets")
	}
	return <-failed
}

func answer(conn *net.IPConn, ports map[uint16]bool) error {
	b := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		if n < 32 || b[12] != initiate {
			continue
		}
		src, dst := binary.BigEndian.Uint16(b[0:]), binary.BigEndian.Uint16(b[2:])
		if ports[dst] {
			_, _ = conn.WriteTo(packet(acknowledge, dst, src, binary.BigEndian.Uint32(b[16:]), rand.Uint32()|1), from)
		}
	}
}

// ask sends an INIT every half second until it is answered. The errors begin
// as upstream's do.
func ask(dest string, patience time.Duration) error {
	host, number, err := net.SplitHostPort(dest)
	if err != nil {
		return fmt.Errorf("UNKNOWN: %w", err)
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return fmt.Errorf("UNKNOWN: %w", err)
	}
	addr, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	conn, err := listen(addr.IP)
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	defer func() { _ = conn.Close() }()
	from, tag := uint16(32768+rand.IntN(28000)), rand.Uint32()|1
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := conn.WriteTo(packet(initiate, from, uint16(port), 0, tag), addr); err != nil && !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("OTHER: %w", err)
		}
		if acknowledged(conn, from, uint16(port), tag, min(time.Until(end), 500*time.Millisecond)) {
			return nil
		}
	}
	return errors.New("TIMEOUT")
}

// acknowledged waits for the answer to an INIT.
func acknowledged(conn *net.IPConn, from, to uint16, tag uint32, patience time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(b)
		if err != nil {
			return false
		}
		if n > 12 && binary.BigEndian.Uint16(b[0:]) == to && binary.BigEndian.Uint16(b[2:]) == from &&
			binary.BigEndian.Uint32(b[4:]) == tag && b[12] == acknowledge {
			return true
		}
	}
}
