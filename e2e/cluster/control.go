package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/poll"
)

const apiServer = "kube-apiserver"

const apiURL = "https://" + controlIP + ":6443"

func pki(name string) string { return filepath.Join(Dir, "pki", name) }

// startControlPlane starts etcd, the API server and those who watch it.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.writeSecrets(); err != nil {
		return err
	}
	program := func(name string, args ...string) *process {
		return &process{Name: name, Space: controlSpace, Args: append([]string{c.Program(name)}, args...)}
	}
	// A cluster to throw away need not survive a power failure.
	if err := c.add(program("etcd", "--unsafe-no-fsync", "--data-dir", filepath.Join(Dir, "etcd"), "--logger=zap", "--log-level=warn")); err != nil {
		return err
	}
	if err := c.add(program(apiServer,
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address="+controlIP,
		"--service-cluster-ip-range="+c.stacks(serviceRange, serviceRange6),
		"--tls-cert-file="+pki("api.crt"),
		"--tls-private-key-file="+pki("api.key"),
		"--token-auth-file="+pki("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+pki("accounts.key"),
		"--service-account-signing-key-file="+pki("accounts.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged=true",
		"--shutdown-watch-termination-grace-period=1s", // else a polite end waits a minute for those who watch
	)); err != nil {
		return err
	}
	if err := c.waitForAPIServer(ctx); err != nil {
		return err
	}
	if err := c.add(program("kube-controller-manager",
		"--kubeconfig="+pki("kube-controller-manager.kubeconfig"),
		"--leader-elect=false",
		"--allocate-node-cidrs",
		"--cluster-cidr="+c.stacks(podRange, podRange6),
		"--service-account-private-key-file="+pki("accounts.key"),
		"--root-ca-file="+pki("ca.crt"),
		"--use-service-account-credentials",
	)); err != nil {
		return err
	}
	return c.add(program("kube-scheduler", "--kubeconfig="+pki("kube-scheduler.kubeconfig"), "--leader-elect=false"))
}

// StopAPIServer ends the API server: politely with SIGTERM, at once with
// SIGKILL. It returns when the process has ended.
func (c *Cluster) StopAPIServer(signal syscall.Signal) error {
	p, err := c.process(apiServer)
	if err != nil {
		return err
	}
	return p.end(signal)
}

// StartAPIServer starts the API server again and returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p, err := c.process(apiServer)
	if err != nil {
		return err
	}
	if !p.alive() {
		if err := c.spawn(p); err != nil {
			return err
		}
	}
	return c.waitForAPIServer(ctx)
}

func (c *Cluster) waitForAPIServer(ctx context.Context) error {
	pem, err := os.ReadFile(pki("ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, Proxy: nil}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	err = poll.Until(ctx, 5*time.Minute, func() error {
		res, err := client.Get(apiURL + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(res.Body)
			return fmt.Errorf("%s: %s", res.Status, body)
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("cannot reach the API server: %w", err), c.logs(apiServer))
	}
	return nil
}

// users by name, with their groups. Each has a token, and a kubeconfig below
// pki that holds it.
func (c *Cluster) users() map[string][2]string {
	users := map[string][2]string{
		"admin":                   {"admin", "system:masters"},
		"kube-controller-manager": {"system:kube-controller-manager", ""},
		"kube-scheduler":          {"system:kube-scheduler", ""},
		"kube-proxy":              {"system:kube-proxy", ""},
	}
	for _, n := range c.Nodes {
		users[n.Name] = [2]string{"system:node:" + n.Name, "system:nodes"}
	}
	return users
}

// writeSecrets writes certificates, keys, tokens and kubeconfigs.
func (c *Cluster) writeSecrets() error {
	if err := os.MkdirAll(filepath.Join(Dir, "pki"), 0o700); err != nil {
		return err
	}
	if err := writeCertificates(); err != nil {
		return fmt.Errorf("cannot make certificates: %w", err)
	}
	var tokens strings.Builder
	for name, user := range c.users() {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token, user[0], name, user[1])
		text := fmt.Sprintf(kubeconfig, apiURL, pki("ca.crt"), name, token)
		if err := os.WriteFile(pki(name+".kubeconfig"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	c.Kubeconfig = pki("admin.kubeconfig")
	return os.WriteFile(pki("tokens.csv"), []byte(tokens.String()), 0o600)
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- {name: sallyport-e2e, cluster: {server: %[1]q, certificate-authority: %[2]q}}
users:
- {name: %[3]s, user: {token: %[4]s}}
contexts:
- {name: sallyport-e2e, context: {cluster: sallyport-e2e, user: %[3]s}}
current-context: sallyport-e2e
`

// writeCertificates makes a certificate authority, the API server's
// certificate and the key that signs service accounts' tokens.
func writeCertificates() error {
	until := time.Now().AddDate(1, 0, 0)
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "sallyport-e2e"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              until,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: apiServer},
		NotBefore:    authority.NotBefore,
		NotAfter:     until,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.ParseIP(controlIP), net.IPv4(10, 96, 0, 1), net.IPv4(127, 0, 0, 1)},
		DNSNames:     []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
	}
	signer, err := writeKey("ca.key")
	if err != nil {
		return err
	}
	key, err := writeKey("api.key")
	if err != nil {
		return err
	}
	if _, err := writeKey("accounts.key"); err != nil {
		return err
	}
	if err := writeCertificate("ca.crt", authority, authority, signer, signer); err != nil {
		return err
	}
	return writeCertificate("api.crt", server, authority, key, signer)
}

func writeKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(name, "EC PRIVATE KEY", der)
}

func writeCertificate(name string, cert, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	return writePEM(name, "CERTIFICATE", der)
}

func writePEM(name, kind string, der []byte) error {
	return os.WriteFile(pki(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
