package kube

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Connection says where the API server is and who asks.
type Connection = rest.Config

// Connect finds the API server: by the kubeconfig file and context given, or
// where both are "" as kubectl does ($KUBECONFIG, ~/.kube/config), and inside
// a pod by its service account.
func Connect(kubeconfig, context string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("cannot find the API server: %w; give --kubeconfig, or run in a pod with a service account", err)
	}
	return cfg, nil
}
