package scale

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/binary"
	"github.com/sallyport-dev/sallyport/e2e/poll"
)

const url = "https://127.0.0.1:6443"

// Server is an API server with its database.
type Server struct {
	Kubeconfig string // its user may do everything

	token    string
	http     *http.Client
	programs binary.Set
}

// object is anything of the API.
type object = map[string]any

// Serve starts etcd and the API server, and returns when it is ready. They end
// with the test.
func Serve(ctx context.Context, log io.Writer) (*Server, error) {
	programs, err := binary.Build(ctx, log)
	if err != nil {
		return nil, err
	}
	s := &Server{Kubeconfig: file("kubeconfig"), token: rand.Text(), programs: programs}
	s.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 64, Proxy: nil,
	}}
	if err := s.writeSecrets(); err != nil {
		return nil, err
	}
	// A database to throw away need not survive a power failure.
	if err := spawn(programs.Path("etcd"), "--unsafe-no-fsync", "--data-dir", file("etcd"), "--log-level=warn", "--quota-backend-bytes=4000000000"); err != nil {
		return nil, err
	}
	if err := spawn(programs.Path("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+nodeIP(0),
		"--cert-dir="+file("certificates"),
		"--token-auth-file="+file("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+file("accounts.key"),
		"--service-account-signing-key-file="+file("accounts.key"),
		"--disable-admission-plugins=ServiceAccount", // nobody makes the accounts
		"--allow-privileged=true",
	); err != nil {
		return nil, err
	}
	return s, poll.Until(ctx, 2*time.Minute, func() error { return s.do(ctx, "GET", "/readyz", nil) })
}

func file(name string) string { return filepath.Join(Dir, name) }

func (s *Server) writeSecrets() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(file("accounts.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(file("tokens.csv"), fmt.Appendf(nil, "%s,admin,admin,system:masters\n", s.token), 0o600),
		os.WriteFile(s.Kubeconfig, fmt.Appendf(nil, kubeconfig, url, s.token), 0o600),
	)
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- {name: scale, cluster: {server: %q, insecure-skip-tls-verify: true}}
users:
- {name: admin, user: {token: %s}}
contexts:
- {name: scale, context: {cluster: scale, user: admin}}
current-context: scale
`

// spawn starts a program that ends with the test; its output goes to a file.
func spawn(path string, args ...string) error {
	out, err := os.Create(file(filepath.Base(path) + ".log"))
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// Apply applies a manifest.
func (s *Server) Apply(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, s.programs.Path("kubectl"), "--kubeconfig", s.Kubeconfig, "apply", "-f", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot apply %s: %w: %s", path, err, out)
	}
	return nil
}

// do asks the API server; a body for PATCH is merged.
func (s *Server) do(ctx context.Context, method, path string, body object) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, strings.TrimSpace(string(answer[:min(len(answer), 300)])))
	}
	return err
}
