// Package conformance holds upstream's suite for policy.networking.k8s.io, to
// be compiled once and run against the cluster that KUBECONFIG names.
package conformance

import (
	"os"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

// TestConformance leaves the pods that it makes, so that a second run begins at
// once. The policies it takes away.
func TestConformance(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	set, err := kubernetes.NewForConfig(config)
	must(t, err)
	c, err := client.New(config, client.Options{})
	must(t, err)
	must(t, v1alpha2.Install(c.Scheme()))
	s := suite.New(suite.Options{
		Client: c, ClientSet: set, KubeConfig: *config,
		EnableAllSupportedFeatures: true,
	})
	s.Setup(t)
	s.Run(t, tests.ConformanceTests)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
