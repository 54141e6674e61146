package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"sync"
)

var tokenLine = regexp.MustCompile(`token: (\w+)`)

// connection is the one that API uses: pods by the hundred want no kubectl each.
var connection = sync.OnceValues(func() (*http.Client, error) {
	pem, err := os.ReadFile(pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}, nil
})

// API sends an object to the API server, as the user who may do everything,
// and decodes its answer into out; either may be nil. It is Kubectl for those
// who are in a hurry, and returns when the API server has acknowledged.
func (c *Cluster) API(ctx context.Context, method, path string, in, out any) error {
	client, err := connection()
	if err != nil {
		return err
	}
	config, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		return err
	}
	token := tokenLine.FindSubmatch(config)
	if token == nil {
		return fmt.Errorf("there is no token in %s", c.Kubeconfig)
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, apiURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+string(token[1]))
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}
